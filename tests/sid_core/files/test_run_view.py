"""What is seen of a run's folder from outside: how it stands, and what is new since it was looked at last."""

import json

import pytest
from toy_run import toy, train

from sid_pack.sid_core.files import run_lock
from sid_pack.sid_core.files.run_folder import RunFolder
from sid_pack.sid_core.files.run_lock import RunInUseError, RunLock, is_locked
from sid_pack.sid_core.files.run_view import RunView, is_run, standing

NAMES = ("student_loss", "spread")


def preview(folder: RunFolder, iteration: int) -> None:
    folder.previews.mkdir(exist_ok=True)
    (folder.previews / f"preview_{iteration:07}.png").write_bytes(b"")


def test_a_run_trains_as_long_as_it_has_its_folder_and_then_is_saved(tmp_path):
    path = tmp_path / "run"
    assert not is_run(path)
    with RunFolder(path) as folder:
        train(folder, toy(), 5, 2, goal=9)
        assert is_run(path)
        assert standing(path) | {"started": ""} == {
            "running": True,
            "saved": 4,
            "iterations": 9,
            "ended_early": False,
            "started": "",
        }
    assert not standing(path)["running"]


def test_only_what_is_new_comes_with_the_cursor_of_the_answer_before(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        train(folder, toy(), 4, 2)
        preview(folder, 2)
        view = RunView(folder.path, NAMES)
        first = view.since(None)
        assert first["whole"] and first["trained"] == 4 and first["previews"] == [2] and not first["teacher"]
        assert [point[0] for point in first["curves"]["spread"]] == [1, 2, 3, 4]

        for iteration in (5, 6):
            folder.metrics.append({"iteration": iteration, "spread": 1.0})
        folder.metrics.append({"iteration": 6, "warning": "nan", "message": "Lower it."})
        preview(folder, 6)
        (folder.previews / "teacher.png").write_bytes(b"")
        then = view.since(first["cursor"])
        assert not then["whole"] and then["trained"] == 6 and then["warnings"] == [(6, "Lower it.")]
        assert then["previews"] == [6] and then["teacher"]
        assert [point[0] for point in then["curves"]["spread"]] == [4, 5, 6]
        last = view.since(then["cursor"])
        assert last["warnings"] == [] and [point[0] for point in last["curves"]["spread"]] == [6]


@pytest.mark.parametrize("cursor", ["", "x", "00000000.4.0", "zzzzzzzz.1.1", "00000000.-1.0", "0" * 8 + ".٤.0"])
def test_a_cursor_that_is_not_of_an_answer_gets_all(tmp_path, cursor):
    with RunFolder(tmp_path / "run") as folder:
        train(folder, toy(), 4, 2)
        found = RunView(folder.path, NAMES).since(cursor)
    assert found["whole"] and len(found["curves"]["spread"]) == 4


def test_links_in_a_runs_folder_lead_nowhere(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        train(folder, toy(), 2, 1)
    (tmp_path / "secret.json").write_text(json.dumps({"iteration": 77}))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "preview_0000001.png").write_bytes(b"secret")
    path = folder.path
    assert is_run(path)
    (path / "previews").symlink_to(tmp_path / "pictures")
    view = RunView(path, NAMES)
    assert view.since(None)["previews"] == [] and view.preview("1") is None
    (path / "previews").unlink()
    (path / "previews").mkdir()
    (path / "previews" / "preview_0000001.png").symlink_to(tmp_path / "pictures" / "preview_0000001.png")
    assert view.preview("1") is None
    (path / "run.json").unlink()
    (path / "run.json").symlink_to(tmp_path / "secret.json")
    assert not is_run(path)
    (tmp_path / "linked").symlink_to(path)
    assert not is_run(tmp_path / "linked")


def test_who_asks_whether_a_file_is_locked_does_not_keep_a_run_from_it(tmp_path, monkeypatch):
    lock, locked = tmp_path / "run.lock", run_lock._lock
    assert not is_locked(lock) and not lock.exists()
    with RunLock(lock):
        assert is_locked(lock)
    assert not is_locked(lock)

    # Somebody is asking at the very moment that a run begins.
    with lock.open("rb+") as asking:
        locked(asking)
        monkeypatch.setattr(run_lock.time, "sleep", lambda _: asking.close())
        with RunLock(lock):
            assert is_locked(lock)
            with pytest.raises(RunInUseError):
                RunLock(lock).__enter__()
