"""Files that are written tensor by tensor: what the format's own reader finds, and what is left where it ends early."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sid_pack.sid_core.convert import stream, weights
from sid_pack.sid_core.convert.sources import Store
from sid_pack.sid_core.convert.stream import write_streamed
from sid_pack.sid_core.convert.tensor_file import TensorFile
from sid_pack.sid_core.convert.weights import CHUNK, Weight, held, joined

ROOT = Path(__file__).resolve().parents[3]
TENSORS = {
    "a": torch.arange(12, dtype=torch.float16).reshape(3, 4),
    "b": torch.tensor(2.5),
    "c": torch.arange(5, dtype=torch.int8),
    "d": torch.ones(2, 0, 3, dtype=torch.bfloat16),
    "e": torch.arange(6, dtype=torch.float64).reshape(1, 2, 3),
}


def weight(tensor: torch.Tensor) -> Weight:
    return held(lambda: tensor, tuple(tensor.shape), tensor.dtype)


def quiet(*progress: object) -> None:
    """Nothing is shown."""


def test_the_formats_own_reader_finds_all_of_it_and_the_hash_is_that_of_the_file(tmp_path):
    path = tmp_path / "new" / "x.safetensors"
    written = write_streamed(path, {name: weight(t) for name, t in TENSORS.items()}, {"sid.steps": "2"}, quiet)
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "sid.steps": "2"}
    assert written.nbytes == path.stat().st_size
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rows_are_read_as_they_lie_in_the_file(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    for name, tensor in TENSORS.items():
        assert torch.equal(file[name], tensor)
    assert torch.equal(file.rows("a", 1, 3), TENSORS["a"][1:3])
    store = Store(dict.fromkeys(file, file))
    swapped = joined(store, [("a", 2, 3), ("a", 0, 2)], (4,), torch.float16)
    assert torch.equal(swapped.whole(), TENSORS["a"][[2, 0, 1]])


def test_no_more_than_a_chunk_is_there_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK", 64)
    save_file({"a": torch.arange(1000.0).reshape(100, 10)}, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    read = [len(chunk) for chunk in joined(file, [("a", 0, 100)], (10,), torch.float32).chunks()]
    assert read == [1] * 100 and CHUNK > 1e6


def test_values_that_are_not_finite_are_refused_and_leave_what_was_there(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("old")
    with pytest.raises(ValueError, match="its b has values that are not finite"):
        write_streamed(path, {"a": weight(torch.ones(3)), "b": weight(torch.tensor([1.0, torch.nan]))}, {}, quiet)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("where", [8, -1, -40])
def test_what_comes_back_as_something_else_is_not_called_written(tmp_path, monkeypatch, where):
    """One bit that turns on the way to the disk: in the header, in the last value, and in one before."""

    def turned(temporary: Path, *rest: object) -> str:
        content = bytearray(temporary.read_bytes())
        content[where] ^= 1
        temporary.write_bytes(content)
        return check(temporary, *rest)

    check = stream._check
    monkeypatch.setattr(stream, "_check", turned)
    with pytest.raises(ValueError, match="did not come back as it was written|truncated or of another kind"):
        write_streamed(tmp_path / "x.safetensors", {"a": weight(torch.ones(30))}, {}, quiet)
    assert not [*tmp_path.iterdir()]


def test_one_that_does_not_fit_the_disk_is_said_before_anything_is_written(tmp_path):
    huge = Weight((1 << 44,), torch.float32, lambda: iter(()))
    with pytest.raises(OSError, match=r"^Free some space .*: x\.safetensors will have 70,368,744 MB"):
        write_streamed(tmp_path / "x.safetensors", {"a": huge}, {}, quiet)


KILLED = """
import os, signal, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sid_core.convert.stream import write_streamed
from sid_core.convert.weights import held

def tell(doing, done, total):
    if doing == sys.argv[3] and done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

weights = {str(i): held(lambda: torch.full((1000,), float(i)), (1000,), torch.float32) for i in range(8)}
write_streamed(Path(sys.argv[2]), weights, {}, tell)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.parametrize("doing", ["writing", "checking"])
def test_killed_midway_nothing_is_under_the_name_and_it_can_be_begun_again(tmp_path, doing):
    path = tmp_path / "x.safetensors"
    line = [sys.executable, "-I", "-c", KILLED, str(ROOT), str(path), doing]
    assert subprocess.run(line).returncode == -signal.SIGKILL
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp" and left.stat().st_size > 12_000
    write_streamed(path, {"a": weight(torch.ones(3))}, {}, quiet)
    assert [*tmp_path.iterdir()] == [path]  # what was left is gone
