"""Encodings on disk: the same as encoding afresh, whatever happens to the process or to the files."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from sid_pack.sid_core.data.conditioning import PromptSet
from sid_pack.sid_core.data.encodings import SHARD, DamagedShardError, Encodings, read_rows, require_room
from sid_pack.sid_core.data.prompts import write_prompts

COUNT = 2 * SHARD + 9
TEXTS = [f"prompt {i} {'long ' * (i % 3)}" for i in range(COUNT)]


def encode_one(text: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A text encoder of one, two or three chunks of two tokens, by the text alone."""
    draw = torch.Generator().manual_seed(sum(map(ord, text)) * 1000 + len(text))
    tokens = torch.randn(1, 2 * (1 + text.count("long")), 3, generator=draw)
    return {"c_crossattn": tokens.to(dtype), "y": torch.randn(1, 4, generator=draw).to(torch.bfloat16)}


class Encoder:
    """Counts what it is asked for."""

    def __init__(self):
        self.texts: list[str] = []

    def __call__(self, texts):
        for text in texts:
            self.texts.append(text)
            yield encode_one(text)


def encodings(folder: Path, texts=TEXTS) -> Encodings:
    prompts = write_prompts(texts)
    return Encodings(prompts, folder / "encodings", Encoder(), encode_one(""))


def made(folder: Path, texts=TEXTS) -> Encodings:
    these = encodings(folder, texts)
    for shard in these.missing():
        these.make(shard)
    return these


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def afresh(rows) -> dict[str, torch.Tensor]:
    """What the encoder gives for these, by the set that is in memory."""
    return PromptSet.of([TEXTS[i] for i in rows], [encode_one(TEXTS[i]) for i in rows], encode_one("")).cond


def test_a_batch_is_what_encoding_those_texts_gives(tmp_path):
    these = made(tmp_path)
    assert len(these) == COUNT
    for rows in [[0], [5, 2 * SHARD + 8, 5, SHARD], list(range(COUNT)), [3, 0, 6]]:
        assert same(these.batch(torch.tensor(rows)), afresh(rows))
    assert these.batch(torch.tensor([0, 3]))["c_crossattn"].shape == (2, 2, 3)
    assert these.batch(torch.tensor([0, 1, 2]))["c_crossattn"].shape == (3, 12, 3)
    assert these.unconditional(4)["c_crossattn"].shape == (4, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_encodings_keep_the_kind_of_number_they_came_in(tmp_path, dtype):
    prompts = write_prompts(["a"])
    these = Encodings(prompts, tmp_path, lambda texts: (encode_one(text, dtype) for text in texts), {})
    these.make(0)
    assert same(these.batch(torch.tensor([0])), encode_one("a", dtype))


def test_what_is_there_is_not_encoded_again(tmp_path):
    assert len(made(tmp_path).encode.texts) == COUNT
    again = made(tmp_path)
    again.batch(torch.arange(COUNT))
    assert again.encode.texts == []


def test_a_list_that_has_grown_keeps_all_but_its_last_shard(tmp_path):
    made(tmp_path)
    grown = made(tmp_path, [*TEXTS, "one more"])
    assert grown.encode.texts == [*TEXTS[2 * SHARD :], "one more"]


def test_reading_opens_the_shards_of_these_rows_alone(tmp_path):
    these = made(tmp_path)
    for shard in (0, 2):
        these.shards[shard].write_bytes(b"")
    these.batch(torch.tensor([SHARD, 2 * SHARD - 1]))
    assert len(these.encode.texts) == COUNT


CHILD = """
import sys, time, importlib.util
root, here, folder = sys.argv[1:]
sys.path.insert(0, here)
spec = importlib.util.spec_from_file_location("sid_pack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["sid_pack"] = importlib.util.module_from_spec(spec); spec.loader.exec_module(sys.modules["sid_pack"])
from pathlib import Path
import test_encodings as t
these = t.encodings(Path(folder))
plain = these.encode
def slowly(texts):
    for cond in plain(texts):
        time.sleep(0.005)
        yield cond
object.__setattr__(these, "encode", slowly)
for shard in these.missing():
    these.make(shard)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of Unix alone")
def test_killed_while_encoding_it_goes_on_and_ends_bitwise_the_same(tmp_path):
    whole = made(tmp_path / "whole")
    folder = tmp_path / "killed"
    arguments = [str(Path(__file__).parents[3]), str(Path(__file__).parent), str(folder)]
    process = subprocess.Popen([sys.executable, "-c", CHILD, *arguments])
    deadline = time.monotonic() + 60
    while not list((folder / "encodings").glob("[!.]*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = encodings(folder)
    missing = resumed.missing()
    assert 0 < len(missing) < 3
    for shard in missing:
        resumed.make(shard)
    assert len(resumed.encode.texts) == sum(len(range(*resumed.span(shard))) for shard in missing)
    for ours, theirs in zip(whole.shards, resumed.shards, strict=True):
        assert ours.name == theirs.name and ours.read_bytes() == theirs.read_bytes()


def test_a_damaged_byte_is_noticed_when_it_is_read_and_only_its_shard_made_again(tmp_path, caplog):
    these = made(tmp_path)
    file, states = these.shards[1], [file.stat().st_mtime_ns for file in these.shards]
    good = file.read_bytes()
    file.write_bytes(flipped(good, len(good) - 1))
    assert these.missing() == []  # the header is whole, and all bytes are there
    with caplog.at_level(logging.WARNING):
        batch = these.batch(torch.arange(COUNT))
    assert same(batch, afresh(range(COUNT)))
    assert these.encode.texts == TEXTS + TEXTS[SHARD : 2 * SHARD]
    assert file.name in caplog.text and "damaged" in caplog.text and "encoded again" in caplog.text
    assert file.read_bytes() == good
    assert [file.stat().st_mtime_ns for file in these.shards][::2] == states[::2]


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_a_shard_that_is_cut_short_is_noticed_at_the_start(tmp_path, caplog, kept):
    these = made(tmp_path)
    these.shards[2].write_bytes(these.shards[2].read_bytes()[:kept])
    assert these.missing() == [2]
    assert these.shards[2].name in caplog.text and "damaged" in caplog.text


def test_a_shard_that_was_deleted_is_made_again_at_the_start_and_while_reading(tmp_path):
    these = made(tmp_path)
    these.shards[1].unlink()
    assert these.missing() == [1]
    assert same(these.batch(torch.tensor([SHARD])), afresh([SHARD]))
    assert these.missing() == []


def test_no_damaged_byte_anywhere_gives_other_values(tmp_path):
    """Each byte of a small shard in turn: it is refused, or what is read is what was written."""
    these = made(tmp_path, TEXTS[:3])
    file = these.shards[0]
    good, expected = file.read_bytes(), read_rows(file, range(3))
    refused = 0
    for place in range(len(good)):
        file.write_bytes(flipped(good, place))
        try:
            rows = read_rows(file, range(3))
        except DamagedShardError:
            refused += 1
        else:
            assert all(same(a, b) for a, b in zip(rows, expected, strict=True)), place
    values = sum(tensor.nbytes for row in expected for tensor in row.values())
    assert refused > values + 100


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def test_no_single_bit_gives_other_values_or_an_error_of_another_kind(tmp_path):
    """Every bit of the header, and one of each byte behind it."""
    these = made(tmp_path, TEXTS[:3])
    file = these.shards[0]
    good, expected = file.read_bytes(), read_rows(file, range(3))
    header = 8 + int.from_bytes(good[:8], "little")
    bits = [(place, bit) for place in range(len(good)) for bit in (range(8) if place < header else [place % 8])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for place, bit in bits:
            file.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            these.missing()
            try:
                rows = read_rows(file, range(3))
            except DamagedShardError as error:
                assert len(str(error)) < 60
            else:
                assert all(same(a, b) for a, b in zip(rows, expected, strict=True)), (place, bit)


def with_header(header: dict, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def tensor(kind: str, shape: list[int], first: int, last: int) -> dict:
    return {"dtype": kind, "shape": shape, "data_offsets": [first, last]}


WHOLE = {"__metadata__": {"format": "sid-encodings-1, 3 prompts"}}
CHECKED = {"checksums": tensor("I64", [3], 0, 24)}
DAMAGED = {
    "empty": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
    "a pickle": pickle.dumps({"a": 1}),
    "text": b"a red apple\n" * 100,
    "a header of exabytes": (1 << 62).to_bytes(8, "little") + b"{}",
    "a header that is the file": (99_992).to_bytes(8, "little") + b" " * 99_992,
    "no tensors": with_header(WHOLE, b""),
    "no metadata": with_header({}, b""),
    "metadata of a megabyte": with_header({"__metadata__": {"format": "x" * 60_000}}, b""),
    "a shape of exabytes": with_header(WHOLE | {"checksums": tensor("I64", [1 << 60], 0, 24)}, bytes(24)),
    "a shape of nothing": with_header(WHOLE | {"checksums": tensor("I64", [1 << 60, 0], 0, 0)}, b""),
    "checksums that are no numbers": with_header(WHOLE | {"checksums": tensor("F32", [6], 0, 24)}, bytes(24)),
    "a table of all the file": with_header(
        WHOLE | CHECKED | {"c": tensor("F32", [0], 24, 24), "c.shapes": tensor("I64", [100_000, 2], 24, 1_600_024)},
        bytes(1_600_024),
    ),
    "rows of exabytes": with_header(
        WHOLE | CHECKED | {"c.shapes": tensor("I64", [3, 2], 24, 72), "c": tensor("F32", [6], 72, 96)},
        bytes(24) + (1 << 40).to_bytes(8, "little") * 6 + bytes(24),
    ),
    "rows of less than nothing": with_header(
        WHOLE | CHECKED | {"c.shapes": tensor("I64", [3, 2], 24, 72), "c": tensor("F32", [6], 72, 96)},
        bytes(24) + b"\xff" * 48 + bytes(24),
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_shard_is_told_once_and_made_again(tmp_path, caplog, kind):
    these = made(tmp_path, TEXTS[:3])
    these.shards[0].write_bytes(DAMAGED[kind])
    with caplog.at_level(logging.WARNING):
        for shard in these.missing():
            these.make(shard)
        batch = these.batch(torch.arange(3))
    assert same(batch, afresh(range(3)))
    assert len(caplog.messages) == 1 and len(caplog.messages[0]) < 250
    assert f"encodings/{these.shards[0].name} is damaged (" in caplog.text and str(tmp_path) not in caplog.text
    assert these.encode.texts == TEXTS[:3] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links as Unix has them")
@pytest.mark.parametrize("kind", ["a pipe", "/dev/zero", "a link to nowhere", "a link to itself"])
def test_what_is_no_file_is_replaced(tmp_path, kind):
    these = made(tmp_path, TEXTS[:3])
    file = these.shards[0]
    file.unlink()
    os.mkfifo(file) if kind == "a pipe" else file.symlink_to(file if "itself" in kind else kind)
    with pytest.raises(DamagedShardError):
        read_rows(file, [0])
    assert these.missing() == [0]
    these.make(0)
    assert same(these.batch(torch.arange(3)), afresh(range(3))) and not file.is_symlink()


def test_a_folder_of_a_shards_name_is_named_and_stays(tmp_path):
    these = encodings(tmp_path, TEXTS[:3])
    (these.shards[0] / "mine").mkdir(parents=True)
    with pytest.raises(OSError, match=f"^Remove the folder {these.shards[0].name}"):
        these.missing()


def test_every_cut_is_noticed_at_the_start(tmp_path):
    these = made(tmp_path, TEXTS[:3])
    good = these.shards[0].read_bytes()
    for kept in range(len(good)):
        these.shards[0].write_bytes(good[:kept])
        assert these.missing() == [0]


def test_an_encoder_that_fails_leaves_no_shard(tmp_path):
    these = encodings(tmp_path)

    def failing(texts):
        yield encode_one(texts[0])
        raise RuntimeError("out of memory")

    object.__setattr__(these, "encode", failing)
    with pytest.raises(RuntimeError):
        these.make(0)
    assert these.missing() == [0, 1, 2]


def test_prompts_with_other_conditioning_than_the_rest_are_refused(tmp_path):
    these = encodings(tmp_path)
    object.__setattr__(these, "encode", lambda texts: [encode_one(text) | {text: torch.zeros(1, 1)} for text in texts])
    with pytest.raises(ValueError, match="^Connect a CLIP .* that others lack"):
        these.make(0)


def test_too_small_a_disk_is_said_before_it_is_full(tmp_path, monkeypatch):
    these = made(tmp_path)
    require_room(these, 0, 100)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match=r"^Free some space, .*--output-directory.* take .* GB more, .* has 0\.0 GB free"):
        require_room(these, 0, 100)
    require_room(these, 0, 0)
