"""What reading a file takes of memory, whole or damaged: at most twice the file, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sid_pack.sid_core.data.encodings import SHARD, _metadata, _packed
from sid_pack.sid_core.files.tensors import write_tensors

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = 400_000  # of each of 64 tensors, which make 100 MB
CHILD = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from sid_core.data.encodings import SHARD, DamagedShardError, read_rows
from sid_core.files.tensors import NotACheckpointError, is_finite, read_tensors

def student(path):
    return all(map(is_finite, read_tensors(path)[0].values()))

def shard(path):
    return len(read_rows(path, range(SHARD))) == SHARD

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    said = {"student": student, "shard": shard}[sys.argv[2]](Path(sys.argv[3]))
except (NotACheckpointError, DamagedShardError) as error:
    said = str(error)
print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A whole file of 100 MB of each kind."""
    folder = tmp_path_factory.mktemp("large")
    draw = torch.manual_seed(0)
    tensors = [torch.randn(1, 1, NUMBERS, generator=draw) for _ in range(SHARD)]
    write_tensors(folder / "student", {str(i): tensor for i, tensor in enumerate(tensors)}, {})
    write_tensors(folder / "shard", _packed([{"context": tensor} for tensor in tensors]), _metadata(SHARD))
    return {kind: folder / kind for kind in ("student", "shard")}


def larger_shapes(content: bytes) -> bytes:
    """The header claims more than there is, in as many letters: a student's tensors, or all that a shard has."""
    for count in (NUMBERS * SHARD, NUMBERS):
        content = content.replace(str(count).encode(), b"9" * len(str(count)), 1)
    return content


def all_metadata(content: bytes) -> bytes:
    """A whole file, nearly all of which is its header, which takes its size several times to be read.

    The library itself takes up to 100 MB of it.
    """
    told = {"__metadata__": {"a": "x" * 95_000_000}, "0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(told).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


DAMAGE = {
    "whole": lambda content: content,
    "cut short": lambda content: content[: len(content) // 2],
    "a bit of its values": lambda content: content[:-4] + bytes([content[-4] ^ 1]) + content[-3:],
    "an enormous header": lambda content: (len(content) - 9).to_bytes(8, "little") + content[8:],
    "larger shapes": larger_shapes,
    "all metadata": all_metadata,
}


@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix alone")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["student", "shard"])
def test_a_file_takes_at_most_twice_its_size(files, kind, damage, tmp_path):
    path = tmp_path / "asked.safetensors"
    path.write_bytes(DAMAGE[damage](files[kind].read_bytes()))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT), kind, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said, taken = json.loads(done.stdout)
    # One wrong bit of a student's is another number; of a shard's, each prompt has a checksum.
    assert (said is True) == (damage == "whole" or (kind, damage) == ("student", "a bit of its values"))
    bytes_each = 1 if sys.platform == "darwin" else 1024
    assert taken * bytes_each <= 2 * path.stat().st_size
