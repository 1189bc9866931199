"""Many processes by their reports: what is said, when they are asked to end, and how it all ended."""

import pytest

from sid_pack.sid_core.headless import following, reports
from sid_pack.sid_core.headless.following import Following
from sid_pack.sid_core.headless.reports import DIED, FAILED, INTERRUPTED, RAN, STARTED, Report


@pytest.fixture
def said():
    return []


@pytest.fixture
def followed(tmp_path, said):
    return Following(tmp_path, tmp_path / "log", count=2, restarts=1, say=said.append)


@pytest.fixture
def leave(tmp_path):
    def each(attempt: int, *kinds: str, messages: tuple[str, str] = ("", "")) -> None:
        for rank, (kind, message) in enumerate(zip(kinds, messages, strict=True)):
            reports.leave(tmp_path, Report(rank, attempt, kind, message))

    return each


def test_all_that_ran_are_a_success(followed, leave, tmp_path):
    leave(0, STARTED, STARTED)
    assert "torch's launcher ended with code 1" in followed.reason(1)
    leave(0, RAN, RAN)
    assert followed.reason(0) is None


def test_a_death_is_told_once_and_then_what_the_next_attempt_came_to(followed, leave, said, tmp_path):
    leave(0, STARTED, DIED, messages=("", "its log"))
    # What the others fail of then is that one has died.
    leave(0, FAILED, STARTED, messages=("connection closed", ""))
    followed.look(0)
    followed.look(0)
    (text,) = said
    assert "starting all processes again" in text and "attempt 2 of 2" in text and text.endswith("\n[rank 1] its log")
    leave(1, RAN, RAN)
    followed.look(0)
    assert len(said) == 1
    assert followed.reason(0) is None


def test_a_killed_process_is_told_when_all_start_again(followed, leave, said, tmp_path):
    (tmp_path / "log").write_text("failed (exitcode: -9)", encoding="utf-8")
    leave(0, STARTED, STARTED)
    leave(1, STARTED, STARTED)
    followed.look(0)
    assert said[0].endswith("It could not say of what. The launcher's log ends so:\n  | failed (exitcode: -9)")


def test_the_last_death_is_the_reason(leave, said, tmp_path):
    leave(0, INTERRUPTED, DIED, messages=("", "its log"))
    last = Following(tmp_path, tmp_path / "log", count=2, restarts=0, say=said.append)
    last.look(0)
    assert said == []
    text = last.reason(1)
    assert text.startswith("Mend what ended one of the processes and run it again") and "as follows" in text
    assert text.endswith("\n[rank 1] its log")
    leave(1, INTERRUPTED, DIED, messages=("", "its log"))
    assert "they ended 2 times, at last so" in last.reason(1)


def test_the_first_failure_is_the_reason_in_the_first_ranks_words_where_it_has_the_same(followed, leave, tmp_path):
    reports.leave(tmp_path, Report(1, 0, FAILED, "the settings do not fit"))
    reports.leave(tmp_path, Report(0, 0, FAILED, "connection closed"))
    assert followed.reason(0) == "[rank 1] the settings do not fit"
    reports.leave(tmp_path, Report(0, 0, FAILED, "the settings do not fit"))
    assert followed.reason(0) == "the settings do not fit"


def test_what_a_rank_says_of_another_ones_failure_is_no_reason(followed, leave, tmp_path):
    reports.leave(tmp_path, Report(0, 0, FAILED, "node 3: OtherRankError: Look at what the other processes say"))
    reports.leave(tmp_path, Report(1, 0, FAILED, "the settings do not fit"))
    assert followed.reason(0) == "[rank 1] the settings do not fit"


def test_after_a_failure_the_others_are_asked_to_save_and_then_to_end(followed, leave, said, tmp_path, monkeypatch):
    leave(0, STARTED, FAILED, messages=("", "wrong"))
    followed.look(0)
    assert (reports.asked_to_end(tmp_path), said) == (0, [])
    monkeypatch.setattr(following, "FAILED_GRACE_S", 0.0)
    followed.look(0)
    assert reports.asked_to_end(tmp_path) == 1
    monkeypatch.setattr(following, "ASKED_GRACE_S", 0.0)
    followed.look(0)
    assert reports.asked_to_end(tmp_path) == 2
    assert said == ["ending the others, as one process has failed; they have 5 s to save"]


def test_interrupts_are_passed_on_and_told(followed, said, tmp_path):
    followed.look(1)
    assert reports.asked_to_end(tmp_path) == 1
    assert "Ctrl-C again ends it now" in said[0]
    followed.look(2)
    assert reports.asked_to_end(tmp_path) == 2


def test_a_folder_that_is_gone_asks_to_end(tmp_path):
    assert reports.asked_to_end(tmp_path / "gone") == 1
    reports.leave(tmp_path / "gone", Report(0, 0, RAN))
