"""A run's folder: what lies in it, who may use it, and what is found there after a crash."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import toy_run
from safetensors.torch import load_file
from toy_run import IDENTITY, SETTINGS, toy, train

from sid_pack.sid_core.files import run_lock
from sid_pack.sid_core.files.run_folder import RunFolder
from sid_pack.sid_core.files.run_lock import RunInUseError
from sid_pack.sid_core.files.tensors import NotACheckpointError
from sid_pack.sid_core.training.run import NotFiniteError
from sid_pack.sid_core.training.run_state import OtherRunError, checkpoint_of, restore


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


def wait_for_rows(path: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_run_killed_at_random_moments_ends_bitwise_as_the_unbroken_one(tmp_path):
    """SIGKILL twice, in another process each time: networks, average, optimizers, metrics and run.json are the same.

    The lock is of the process and goes with it: while it lives, the folder is refused.
    """
    seed = time.time_ns() % 10_000
    draw = random.Random(seed)
    path, iterations = tmp_path / "killed", 120
    for already in (0, 40):
        process = start(path, 1_000_000)
        try:
            wait_for_rows(path / "metrics.jsonl", already + draw.randint(10, 30), process)
            with pytest.raises(RunInUseError, match=f"process {process.pid}.*give this run another name"):
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
        pytest.raises(NotACheckpointError, match="none of the 2 checkpoints.*0006.*0004.*choose 'start over'"),
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
            with pytest.raises(
                NotFiniteError, match="iteration 7: the weights are no longer finite, and are not saved"
            ):
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
    (six.path / ".state_0000008.safetensors.4711.tmp").write_bytes(b"half")
    with RunFolder(six.path):
        assert not list(six.path.glob(".*"))


# Starting over


def test_the_replaced_run_is_there_until_the_new_one_is_saved(six):
    with RunFolder(six.path) as folder:
        folder.start_over()
        assert not folder.checkpoints() and not list(folder.metrics.rows())
        train(folder, toy(), 3, 100)
        assert len(list((six.path / "replaced").glob("state_*"))) == 2
        # Starting over once more, before anything was saved, does not cost the run put aside.
        folder.start_over()
        assert len(list((six.path / "replaced").glob("state_*"))) == 2
        train(folder, toy(), 2, 2)
        assert not (six.path / "replaced").exists()
        assert names(folder) == ["state_0000002.safetensors"]


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


# metrics.jsonl


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
    with RunFolder(tmp_path) as folder, pytest.raises(OSError, match="metrics.jsonl.*No space left.*Free some space"):
        folder.metrics.append({"iteration": 1})
