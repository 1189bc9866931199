"""What a file is by its bytes, whatever its name says, and what its user is told to do with it."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sys
import tarfile

import pytest
import torch
from pickle_parts import LEGACY, ZIPPED, network, zipped
from safetensors.torch import save as safetensors

from sid_pack.sid_core.convert import what
from sid_pack.sid_core.convert.errors import ForeignFileError
from sid_pack.sid_core.convert.pickles import read_pickle
from sid_pack.sid_core.convert.what import ADVICE, advice, kind_of

TENSORS = {"a.weight": torch.ones(3), "b": torch.ones(2, 2)}
SAFE = safetensors(TENSORS, {"note": '{"data_offsets":[0,99999999]}', "data_offsets": "[0, 99999999]"})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3438420406\n"


def archive(*names: str, form: str = "w:") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=form) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


CONTENTS = {
    "safetensors": (SAFE, what.SAFETENSORS),
    "safetensors of nothing": (safetensors({}), what.SAFETENSORS),
    "half of a safetensors file": (SAFE[: len(SAFE) - 1], what.SAFETENSORS_CUT),
    "half of a safetensors header": (SAFE[:40], what.SAFETENSORS_CUT),
    "a zip file of torch.save": (ZIPPED, what.TORCH_ZIP),
    "half of a zip file": (ZIPPED[: len(ZIPPED) // 2], what.ZIP_CUT),
    "a zip file without its last byte": (ZIPPED[:-1], what.ZIP_CUT),
    "the beginning of a zip file": (ZIPPED[:100], what.ZIP_CUT),
    "a zip file of another kind": (zipped({"model.safetensors": SAFE}), what.ZIP),
    "a file of torch.save before 1.6": (LEGACY, what.TORCH_LEGACY),
    "the tar form, by its first part": (archive("sys_info", "pickle", "tensors", "storages"), what.TORCH_TAR),
    "a pickle": (network(), what.PICKLE),
    **{f"a pickle of protocol {n}": (pickle.dumps({"ema": {"a": 1}}, n), what.PICKLE) for n in range(6)},
    **{f"an object of protocol {n}": (pickle.dumps(torch.nn.Linear(1, 1), n), what.PICKLE) for n in range(6)},
    "a web page": (b"\n <!DOCTYPE html><html>Sign in</html>", what.HTML),
    "a web page with a mark": (b"\xef\xbb\xbf<html>", what.HTML),
    "a pointer": (POINTER, what.LFS_POINTER),
    "nothing": (b"", what.EMPTY),
    "gzip": (gzip.compress(ZIPPED), what.ARCHIVE),
    "bzip2": (bz2.compress(ZIPPED), what.ARCHIVE),
    "xz": (lzma.compress(ZIPPED), what.ARCHIVE),
    "tar": (archive("model.safetensors"), what.ARCHIVE),
    "a tar.gz": (archive("model.safetensors", form="w:gz"), what.ARCHIVE),
    "JSON": (json.dumps({"error": "not found"}).encode(), what.JSON),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(100), what.GGUF),
    "a text": (b"Not found", what.UNKNOWN),
    "zeros": (bytes(1000), what.UNKNOWN),
    "one byte": (b"\x80", what.UNKNOWN),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_file_is_told_by_its_bytes(tmp_path, name):
    content, kind = CONTENTS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert kind_of(path) == kind


def test_each_cut_of_a_safetensors_file_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    for length in range(9, len(SAFE)):
        path.write_bytes(SAFE[:length])
        assert kind_of(path) == what.SAFETENSORS_CUT, length


def test_a_folder_a_pipe_and_nothing(tmp_path):
    assert kind_of(tmp_path) == what.FOLDER
    assert kind_of(tmp_path / "none") == what.MISSING
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert kind_of(tmp_path / "pipe") == what.NO_FILE


@pytest.mark.skipif(sys.platform == "win32" or not os.getuid(), reason="reads whatever there is")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(ZIPPED)
    path.chmod(0)
    with pytest.raises(
        ForeignFileError, match="^Choose a file that can be read instead of model.pt: Permission denied"
    ):
        kind_of(path)


@pytest.mark.parametrize("kind", ADVICE)
def test_each_kind_is_told_in_one_sentence_that_begins_with_what_to_do(tmp_path, kind):
    said = advice(tmp_path / "model.pt", kind)
    assert said.split()[0] in ("Open", "Download", "Convert", "Save", "Unpack", "Choose", "Get")
    assert "model.pt" in said and str(tmp_path) not in said
    assert said.endswith(".") and ": it is " in said.replace(": model.pt is ", ": it is ").replace("there is", "it is")


def test_what_is_no_pickle_is_refused_by_what_it_is(tmp_path):
    for name, (content, kind) in CONTENTS.items():
        if kind not in what.PICKLES:
            path = tmp_path / "model.pt"
            path.write_bytes(content)
            with pytest.raises(ForeignFileError) as caught:
                read_pickle(path)
            assert str(caught.value) == advice(path, kind), name
