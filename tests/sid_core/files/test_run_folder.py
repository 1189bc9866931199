"""A run's folder: what lies in it, who may use it, and what is found there after a crash."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy_run
from oracles import ToyDistillation
from safetensors.torch import load_file
from toy_run import IDENTITY, SETTINGS, asked, toy, train

from sid_pack.sid_core.files import run_lock
from sid_pack.sid_core.files.checkpoint import Checkpoint
from sid_pack.sid_core.files.run_folder import RunFolder
from sid_pack.sid_core.files.run_lock import RunInUseError
from sid_pack.sid_core.files.tensors import NotACheckpointError, read_tensors, write_tensors
from sid_pack.sid_core.training.run import NotFiniteError
from sid_pack.sid_core.training.run_state import OtherRunError, checkpoint_of, counters_of, restore


def into(distillation):
    """What `RunFolder.resume` gives a checkpoint to, to bring that run to it."""
    return lambda state: restore(distillation.run, state, IDENTITY)


def names(folder: RunFolder) -> list[str]:
    return [checkpoint.name for checkpoint in folder.checkpoints()]


@pytest.fixture
def six(tmp_path):
    """The folder of a run of six iterations with checkpoints at 4 and 6, left again."""
    with RunFolder(tmp_path / "run") as folder:
        train(folder, toy(), 6, 2)
    return folder


def same_state(a: Path, b: Path) -> bool:
    a, b = load_file(a), load_file(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def without_times(folder: RunFolder) -> dict:
    return {key: value for key, value in folder.description().items() if key not in ("started", "updated")}


# Killed


def start(folder: Path, iterations: int) -> subprocess.Popen:
    arguments = [sys.executable, toy_run.__file__, str(folder), str(iterations), "3"]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_for_rows(path: Path, count: int, process: subprocess.Popen) -> None:
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, process)


def is_locked_by(process: subprocess.Popen, folder: Path) -> bool:
    lock = folder / "run.lock"
    return lock.exists() and lock.read_text() == str(process.pid)


def test_a_run_killed_at_random_moments_ends_bitwise_as_the_unbroken_one(tmp_path):
    """SIGKILL twice, in another process each time: networks, average, optimizers, metrics and run.json are the same.

    The lock is of the process and goes with it: while it lives, the folder is refused.
    """
    seed = time.time_ns() % 10_000
    draw = random.Random(seed)
    path, iterations = tmp_path / "killed", 120
    for _ in range(2):
        process = start(path, 1_000_000)
        try:
            wait_until(partial(is_locked_by, process, path), process)
            metrics = path / "metrics.jsonl"
            already = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            wait_for_rows(metrics, already + draw.randint(10, 30), process)
            with pytest.raises(RunInUseError, match=f"give this run another name.*process {process.pid}"):
                RunFolder(path).__enter__()
            time.sleep(draw.uniform(0, 0.01))
        finally:
            process.kill()
            process.wait()
    with RunFolder(path) as folder:
        resumed = train(folder, toy(), max(iterations, *map(iteration_of, folder.checkpoints())), 3)
    assert resumed is not None and not resumed.broken
    reached = iteration_of(folder.checkpoints()[-1])
    with RunFolder(tmp_path / "unbroken") as unbroken:
        train(unbroken, toy(), reached, 3)
    assert names(folder) == names(unbroken)
    for mine, theirs in zip(folder.checkpoints(), unbroken.checkpoints(), strict=True):
        assert same_state(mine, theirs), f"seed {seed}"
    assert list(folder.metrics.rows()) == list(unbroken.metrics.rows()), f"seed {seed}"
    assert without_times(folder) == without_times(unbroken)
    assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in unbroken.path.iterdir())


def iteration_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("state_"))


# One run at a time


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        train(folder, toy(), 2, 2)
        with pytest.raises(RunInUseError, match="another run is at work in .*run"):
            RunFolder(tmp_path / "run").__enter__()
        with RunFolder(tmp_path / "other"):
            pass
        train(folder, toy(), 4, 2)
    with RunFolder(tmp_path / "run"):
        pass


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(IndexError), RunFolder(tmp_path):
        raise IndexError
    with RunFolder(tmp_path):
        pass


def test_a_drive_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(run_lock, "_lock", unsupported)
    with RunFolder(tmp_path) as folder:
        train(folder, toy(), 2, 2)
    assert "can't be locked" in caplog.text


# Checkpoints


def test_the_newest_checkpoints_are_kept(tmp_path):
    with RunFolder(tmp_path, keep_last=3) as folder:
        train(folder, toy(), 5, 1)
        assert names(folder) == ["state_0000003.safetensors", "state_0000004.safetensors", "state_0000005.safetensors"]
    with RunFolder(tmp_path, keep_last=1) as folder:
        train(folder, toy(), 6, 1)
        assert names(folder) == ["state_0000006.safetensors"]


def test_checkpoints_are_ordered_by_number_also_beyond_seven_digits(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("state_10000000", "state_9999999", "state_0000005", "state_x", "state"):
        (tmp_path / f"{name}.safetensors").touch()
    assert names(folder) == [f"state{end}.safetensors" for end in ("", "_0000005", "_9999999", "_10000000")]


def spoil(checkpoint: Path, how: str) -> None:
    content = checkpoint.read_bytes()
    spoilt = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "one bit": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "another kind": b"\x02\0\0\0\0\0\0\0{}",
    }
    checkpoint.write_bytes(spoilt[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "one bit", "another kind"])
def test_a_broken_checkpoint_is_passed_over_for_the_one_before(six, how):
    expected = six.path.parent / "expected.safetensors"
    shutil.copy(six.checkpoints()[-1], expected)
    spoil(six.checkpoints()[-1], how)
    with RunFolder(six.path) as folder:
        resumed = train(folder, toy(), 6, 2)
        assert resumed.checkpoint.name == "state_0000004.safetensors"
        (reason,) = resumed.broken
        assert "state_0000006.safetensors" in reason
        assert same_state(folder.checkpoints()[-1], expected)
        assert [row["iteration"] for row in folder.metrics.rows()] == [1, 2, 3, 4, 5, 6]
    assert (six.path / "state_0000006.safetensors.broken").exists()


def test_with_no_whole_checkpoint_nothing_is_touched_and_the_error_says_what_to_do(six):
    for checkpoint in six.checkpoints():
        spoil(checkpoint, "truncated")
    before = {file.name: file.read_bytes() for file in six.path.iterdir() if file.name != "run.lock"}
    with (
        pytest.raises(NotACheckpointError, match="choose 'start over'.*none of the 2 checkpoints.*0006.*0004"),
        RunFolder(six.path) as folder,
    ):
        folder.resume(into(toy()))
    assert before == {file.name: file.read_bytes() for file in six.path.iterdir() if file.name != "run.lock"}


def test_a_run_of_version_0_1_0_is_found_and_continued(tmp_path):
    """It had one checkpoint, and neither metrics nor run.json."""
    old, unbroken = toy(), toy()
    old.train(3)
    checkpoint_of(old.run, IDENTITY).write(tmp_path / "state.safetensors")
    with RunFolder(tmp_path) as folder:
        mine = toy()
        resumed = train(folder, mine, 5, 1)
        assert resumed.checkpoint.name == "state.safetensors"
        assert names(folder) == ["state_0000004.safetensors", "state_0000005.safetensors"]
    unbroken.train(5)
    assert all(torch.equal(a, b) for a, b in zip(mine.weights(), unbroken.weights(), strict=True))


def test_a_run_of_other_settings_is_refused_and_the_folder_stays(six):
    spoil(six.checkpoints()[-1], "truncated")
    rows = list(six.metrics.rows())
    with RunFolder(six.path) as folder, pytest.raises(OtherRunError, match="batch: 8 then, 4 now"):
        folder.resume(into(toy(replace(SETTINGS, batch=4))))
    assert names(six) == ["state_0000004.safetensors", "state_0000006.safetensors"]
    assert list(six.metrics.rows()) == rows


def test_weights_that_are_not_finite_are_never_saved_over_good_ones(six):
    before = {checkpoint: checkpoint.read_bytes() for checkpoint in six.checkpoints()}
    for spoilt in (lambda run: run.student.w, lambda run: run.fake.w, lambda run: run.ema.average[0]):
        with RunFolder(six.path) as folder:
            diverged = toy()
            train(folder, diverged, 7, 100)
            spoilt(diverged.run).data[0, 0] = float("nan")
            with pytest.raises(NotFiniteError, match="weights are no longer finite at iteration 7, and are not saved"):
                folder.save(checkpoint_of(diverged.run, IDENTITY))
        assert before == {checkpoint: checkpoint.read_bytes() for checkpoint in six.checkpoints()}


def test_no_checkpoint_is_deleted_when_the_new_one_cannot_be_written(six, monkeypatch):
    from sid_pack.sid_core.files import tensors

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with RunFolder(six.path, keep_last=1) as folder, pytest.raises(OSError, match="No space left"):
        train(folder, toy(), 8, 2)
    assert names(six) == ["state_0000004.safetensors", "state_0000006.safetensors"]


def test_what_a_killed_process_left_of_a_file_is_removed(six):
    six.previews.mkdir()
    for name in (
        ".state_0000008.safetensors.4711.tmp",
        ".run.json.4711-0a1b2c3d.tmp",
        "previews/.preview_0000009.png.1.tmp",
    ):
        (six.path / name).write_bytes(b"half")
    with RunFolder(six.path):
        assert not list(six.path.rglob(".*"))


def test_one_wrong_bit_in_any_byte_of_the_header_or_in_the_body_is_damage(six):
    """The length field, names, kinds, shapes, every entry of the metadata, the padding, and a sample of the values.

    Each time the checkpoint before is used, with its own counters, and nobody's settings are blamed.
    """
    newest, before = six.checkpoints()[-1], Checkpoint.read(six.checkpoints()[0])
    whole = newest.read_bytes()
    body = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(7)
    places = [*range(body), *draw.sample(range(body, len(whole)), 60)]
    resumed = {*draw.sample(places, 60), *range(8)}
    for place in places:
        newest.write_bytes(flipped(whole, place, draw.randrange(8)))
        with pytest.raises(NotACheckpointError):
            Checkpoint.read(newest)
        if place in resumed:
            assert_passed_over(newest, before)


def assert_passed_over(newest: Path, before: Checkpoint) -> None:
    run = toy().run
    with RunFolder(newest.parent) as folder:
        resumed = folder.resume(lambda state: restore(run, state, IDENTITY))
    assert resumed.checkpoint.name == "state_0000004.safetensors"
    (reason,) = resumed.broken
    assert reason.startswith("state_0000006.safetensors is ") and "\n" not in reason
    assert counters_of(run) == before.counters
    newest.with_name(f"{newest.name}.broken").unlink()


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_what_no_run_has_written_in_an_older_format_is_damage_too(six):
    """Its checksum, if any, is of the tensors alone."""
    tensors, metadata = read_tensors(six.checkpoints()[-1])
    del metadata["checksum"]
    odd = {
        "counters": ["[]", "{}", '{"iteration": -1, "images": 0}', '{"iteration": true, "images": 0}', "[" * 5000, "6"],
        "settings": ["null", "[]", '"', "[" * 100_000 + "]" * 100_000],
        "identity": ["7", "{", '{"a": ' * 50 + "1" + "}" * 50],
        "values": ["[]"],
        "further": ["{}", "oh"],
    }
    for name, values in odd.items():
        for value in values:
            write_tensors(six.checkpoints()[-1], tensors, metadata | {"format": "sid-run-1", name: value})
            with pytest.raises(NotACheckpointError, match="is damaged") as refused:
                Checkpoint.read(six.checkpoints()[-1])
            assert len(str(refused.value)) < 400


# Starting over


@pytest.fixture
def cancelled(six):
    """A run started over in the place of the one of six iterations, and cancelled at 3 of 9."""
    with RunFolder(six.path) as folder:
        other = toy(replace(SETTINGS, seed=5))
        said = folder.start_over(asked(other))
        assert "The run of 6 iterations that was here is in replaced" in said
        train(folder, other, 3, 3, goal=9)
    return six.path


def other() -> ToyDistillation:
    return toy(replace(SETTINGS, seed=5))


@pytest.mark.parametrize("saved", [None, 500])
def test_pictures_of_iterations_that_were_lost_go_with_them(tmp_path, saved):
    """A run that was killed: what is drawn again, or by another run of that name, is not shown as of now."""
    previews = tmp_path / "run" / "previews"
    previews.mkdir(parents=True)
    for name in ("preview_0000000.png", "preview_0000500.png", "preview_0000600.png", "teacher.png", "mine.png"):
        (previews / name).touch()
    with RunFolder(tmp_path / "run") as folder:
        if saved is not None:
            (tmp_path / "run" / f"state_{saved:07}.safetensors").touch()
        folder.resume(lambda checkpoint: {}, lambda file: SimpleNamespace(iteration=saved))
    left = {"mine.png"} if saved is None else {"preview_0000000.png", "preview_0000500.png", "teacher.png", "mine.png"}
    assert {file.name for file in previews.iterdir()} == left


def states(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("state_*"))


def test_a_replaced_run_is_kept_until_the_new_one_has_as_many_iterations(cancelled):
    with RunFolder(cancelled) as folder:
        train(folder, other(), 5, 1, goal=9)
        assert states(cancelled / "replaced") == ["state_0000004.safetensors", "state_0000006.safetensors"]
        assert len((cancelled / "replaced" / "metrics.jsonl").read_bytes().splitlines()) == 6
        train(folder, other(), 6, 1, goal=9)
        assert not (cancelled / "replaced").exists()


def test_a_replaced_run_can_be_brought_back(cancelled, tmp_path):
    (cancelled / "replaced").rename(tmp_path / "back")
    with RunFolder(tmp_path / "back") as folder:
        assert train(folder, toy(), 8, 2).checkpoint.name == "state_0000006.safetensors"


def test_the_same_graph_once_more_goes_on_where_it_was_cancelled(cancelled):
    for reached in (3, 6):
        with RunFolder(cancelled) as folder:
            assert "The run goes on" in folder.start_over(asked(other()))
            assert iteration_of(train(folder, other(), reached + 3, 3, goal=9).checkpoint) == reached
    with RunFolder(cancelled) as folder:  # now it is finished
        assert "The run of 9 iterations that was here is in replaced" in folder.start_over(asked(other()))
        assert not folder.checkpoints()


@pytest.mark.parametrize("how", ["other settings", "was continued", "run.json is lost"])
def test_whatever_is_not_the_same_graph_does_start_over_and_every_run_is_kept(cancelled, how):
    if how == "was continued":
        with RunFolder(cancelled) as folder:
            train(folder, other(), 4, 1, goal=9)
    if how == "run.json is lost":
        (cancelled / "run.json").unlink()
    with RunFolder(cancelled) as folder:
        asking = toy(replace(SETTINGS, seed=6)) if how == "other settings" else other()
        assert "is in replaced_2, and is deleted when this one has as many" in folder.start_over(asked(asking))
        train(folder, asking, 5, 5, goal=9)  # outgrows the last one alone
    assert states(cancelled / "replaced") == ["state_0000004.safetensors", "state_0000006.safetensors"]
    assert not (cancelled / "replaced_2").exists()


def test_a_run_that_cannot_go_on_is_started_over_the_next_time(cancelled):
    spoil(cancelled / "state_0000003.safetensors", "truncated")
    with RunFolder(cancelled) as folder, pytest.raises(NotACheckpointError, match="choose 'start over'"):
        folder.start_over(asked(other()))
        folder.resume(into(other()))
    with RunFolder(cancelled) as folder:
        assert "is in replaced_2" in folder.start_over(asked(other()))
        assert folder.resume(into(other())) is None


@pytest.mark.skipif(sys.platform == "win32", reason="links want rights there")
@pytest.mark.parametrize("with_checkpoints", [True, False])
def test_starting_over_touches_nothing_that_no_run_has_written(six, tmp_path, with_checkpoints):
    """Foreign files beside, in previews and in what was put aside, and whatever links lead to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "preview_0000001.png").write_text("mine")
    (elsewhere / "state_0000009.safetensors").write_text("mine")
    folder, aside = six.path, six.path / "replaced"
    (folder / "previews").mkdir()
    foreign = ["notes.txt", "state_best.safetensors", ".hidden.1.tmp", "previews/mine.png", "previews/preview_x.png"]
    for name in foreign:
        (folder / name).write_text("mine")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "state_0000003.safetensors").symlink_to(elsewhere / "state_0000009.safetensors")
    (folder / "previews" / "preview_0000001.png").write_text("the run's")
    if not with_checkpoints:
        for file in folder.glob("state_*[0-9].safetensors"):
            file.unlink()
    with RunFolder(folder) as opened:
        opened.start_over(asked(toy()))
        aside.mkdir(exist_ok=True)
        (aside / "also.txt").write_text("mine")
        (aside / "previews_linked").symlink_to(elsewhere)
        train(opened, toy(), 8, 2)
    assert [(folder / name).read_text() for name in foreign] == ["mine"] * len(foreign)
    assert sorted(file.name for file in aside.iterdir()) == ["also.txt", "previews_linked"]
    assert (folder / "linked").is_symlink()
    assert sorted(file.name for file in elsewhere.iterdir()) == ["preview_0000001.png", "state_0000009.safetensors"]
    assert all(file.read_text() == "mine" for file in elsewhere.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="links want rights there")
def test_previews_that_are_a_link_are_left_where_they_are(six, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "preview_0000001.png").touch()
    (six.path / "previews").symlink_to(tmp_path / "pictures")
    with RunFolder(six.path) as folder:
        folder.start_over(asked(toy()))
        train(folder, toy(), 8, 2)
    assert (six.path / "previews").is_symlink() and (tmp_path / "pictures" / "preview_0000001.png").exists()


# run.json


def test_run_json_tells_settings_progress_and_changes(six):
    described = six.description()
    assert described["settings"]["guidance"]["teacher"] == 2.0
    assert (described["iteration"], described["images"]) == (6, 48)
    assert described["started"] <= described["updated"]
    with RunFolder(six.path) as folder:
        train(folder, toy(replace(SETTINGS, student_learning_rate=0.5)), 8, 2)
    after = six.description()
    assert after["started"] == described["started"]
    change = {"iteration": 6, "setting": "student_learning_rate", "then": 0.01, "now": 0.5}
    assert (after["iteration"], after["changes"]) == (8, [change])


def test_an_unreadable_run_json_is_written_anew(six):
    (six.path / "run.json").write_text('{"started": ')
    with RunFolder(six.path) as folder:
        train(folder, toy(), 8, 2)
    assert json.loads((six.path / "run.json").read_text())["iteration"] == 8


ODD = {
    "a list": "[1, 2]",
    "a number": "7",
    "binary": b"\xff\x00\x80" * 99,
    "deep": "[" * 100_000,
    "deep and whole": "[" * 100_000 + "]" * 100_000,
    "schedule is a list": '{"schedule": [1], "changes": []}',
    "schedule is deep": '{"schedule": {"save_every": {"a": [{}]}}}',
    "changes are a text": '{"changes": "none", "iteration": 1e308, "started": {}}',
    "changes are numbers": '{"changes": [1, null], "iteration": true, "settings": 4}',
    "NaN": '{"iteration": NaN, "schedule": {"iterations": NaN, "save_every": Infinity}, "started_over": "yes"}',
    "half a letter": r'{"started": "\ud800", "changes": [{"iteration": 1, "setting": "\udfff", "then": 1, "now": 2}]}',
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("over", [False, True])
def test_an_odd_run_json_ends_no_run(six, odd, over, caplog):
    content = ODD[odd]
    (six.path / "run.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with RunFolder(six.path) as folder:
        if over:
            folder.start_over(asked(toy()))
        assert (train(folder, toy(), 8, 2) is None) == over
        assert "replaced" not in [file.name for file in six.path.iterdir()]
    assert json.loads((six.path / "run.json").read_text())["iteration"] == 8
    assert caplog.text.count("run.json") <= 1
    assert all(len(record.getMessage()) < 300 and "\n" not in record.getMessage() for record in caplog.records)


def test_a_folder_by_the_name_of_a_runs_file_is_put_aside(six):
    for name in ("run.json", "metrics.jsonl"):
        (six.path / name).unlink()
        (six.path / name).mkdir()
        (six.path / name / "mine").touch()
    with RunFolder(six.path) as folder:
        train(folder, toy(), 8, 2)
    assert len(list(six.metrics.rows())) == 2
    assert all((six.path / f"{name}.broken" / "mine").exists() for name in ("run.json", "metrics.jsonl"))


# metrics.jsonl


def test_the_look_at_the_start_is_in_the_metrics_once(tmp_path):
    """A run that was stopped before it was ever saved begins again, and looks again."""
    for _ in range(3):
        with RunFolder(tmp_path) as folder:
            assert folder.resume(into(toy())) is None
            folder.metrics.append({"iteration": 0, "seed_spread": 0.5})
    assert list(folder.metrics.rows()) == [{"iteration": 0, "seed_spread": 0.5}]


ODD_LINES = [
    b'{"iteration": true, "student_loss": 1.0}',
    b'{"iteration": -1}',
    b'{"iteration": 1e3}',
    b'{"iteration": 1, "student_loss": "low"}',
    b'{"iteration": 1, "seed_spread": [0.5]}',
    b'{"iteration": 1, "warning": ["nan"], "message": {}}',
    b'{"iteration": 1, "fake_loss": 1e300}',
    b'{"iteration": 1, "spread": NaN}',
    b'{"iteration": 1' + b"0" * 5000 + b"}",
    b'{"iteration": ' * 3000,
    b"[" * 100_000,
    bytes(range(11, 256)) * 1000,
]


def test_lines_that_are_no_metrics_are_left_out_with_one_line_of_log(six, caplog):
    rows = list(six.metrics.rows())
    with six.metrics.path.open("ab") as file:
        file.write(b"\n".join(ODD_LINES) + b"\n")
    assert list(six.metrics.rows()) == rows
    with RunFolder(six.path) as folder:
        train(folder, toy(), 8, 2)
    assert [row["iteration"] for row in six.metrics.rows()] == list(range(1, 9))
    assert caplog.text.count("could not be read as metrics") == 1


def test_metrics_are_the_results_of_the_iterations(six):
    assert [json.dumps(row) for row in six.metrics.rows()] == [json.dumps(asdict(r)) for r in toy().train(6)]


@pytest.mark.parametrize(
    "end", [b'{"iteration": 7, "stu', b'{"iteration": 7}', b"\0" * 40, b"\xff\xfe\n", b"7\n", b"{}\n"]
)
def test_a_torn_line_is_passed_over_and_goes_when_the_run_goes_on(six, end):
    whole = six.metrics.path.read_bytes()
    six.metrics.path.write_bytes(whole + end)
    assert len(list(six.metrics.rows())) == 6
    with RunFolder(six.path) as folder:
        train(folder, toy(), 6, 2)
    assert six.metrics.path.read_bytes() == whole


def test_metrics_hold_no_nan_which_json_does_not_know(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.metrics.append({"iteration": 1, "loss": float("nan"), "spread": float("inf")})
    assert folder.metrics.path.read_text() == '{"iteration": 1, "loss": null, "spread": null}\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_metrics_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with RunFolder(tmp_path) as folder, pytest.raises(OSError, match="Free some space.*metrics.jsonl.*No space left"):
        folder.metrics.append({"iteration": 1})
