"""Files of tensors: as they were written, whole, and never anything that runs."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sid_pack.sid_core.files import tensors
from sid_pack.sid_core.files.tensors import NotACheckpointError, read_tensors, write_tensors


def test_a_pickle_under_a_safetensors_name_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "model.safetensors", tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (trace,)

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(NotACheckpointError, match="model.safetensors again: it is a pickle"):
        read_tensors(path)
    assert not trace.exists()


def test_tensors_come_back_as_they_were_written(tmp_path):
    written = {
        "transposed": torch.arange(6.0).view(2, 3).T,
        "half": torch.ones(3, dtype=torch.float16),
        "scalar": torch.tensor(5),
        "trained": torch.ones(2, requires_grad=True),
    }
    write_tensors(tmp_path / "new" / "folder" / "a.safetensors", written, {"who": "me"})
    read, metadata = read_tensors(tmp_path / "new" / "folder" / "a.safetensors")
    assert metadata == {"who": "me"}
    torch.testing.assert_close(read, {key: tensor.detach() for key, tensor in written.items()}, rtol=0, atol=0)


def test_a_written_file_is_readable_to_those_the_user_lets_read_files(tmp_path):
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


FULL_DISK = """
import resource, runpy, sys
import torch
sys.path.insert(0, sys.argv[1])
from sid_core.files.tensors import write_tensors
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_tensors(Path(sys.argv[2]), {"a": torch.ones(100_000)}, {})
except OSError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size to be had")
def test_a_write_that_the_system_cuts_short_leaves_the_previous_file(tmp_path):
    path = tmp_path / "student.safetensors"
    write_tensors(path, {"a": torch.zeros(10)}, {"run": "previous"})
    before = path.read_bytes()
    root = Path(tensors.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(root), str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert (
        f"Free some space or choose another folder, and try again: 0 MB could not be written to {tmp_path}"
        in done.stderr
    )
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
