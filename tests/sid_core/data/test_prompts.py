"""Prompt lists in a file: what is kept, how it is told apart, and what it costs in memory."""

import copy
import errno
import gc
import hashlib
import io
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sid_pack.sid_core.data.prompts import write_prompts

TEXTS = ["a red apple", "a cat, sitting", "chat noir 🐈", "ein Bär", "x"]


def test_prompts_come_out_as_they_went_in():
    prompts = write_prompts(iter(TEXTS))
    assert list(prompts) == TEXTS and len(prompts) == 5
    assert [prompts[i] for i in range(-5, 5)] == TEXTS * 2
    assert prompts[1:3] == TEXTS[1:3] and prompts[::-2] == TEXTS[::-2] and prompts[4:2] == []
    assert prompts.span(2, 5) == TEXTS[2:]
    with pytest.raises(IndexError, match="5 prompts"):
        prompts[5]


def test_repeats_are_dropped_and_counted_and_the_first_stays_in_its_place():
    many = [f"prompt {i % 700}" for i in range(2500)]
    prompts = write_prompts(["z", *many, "z", "a"])
    assert list(prompts) == list(dict.fromkeys(["z", *many, "a"]))
    assert prompts.duplicates == 1801


def test_the_digest_is_that_of_the_lines_which_runs_of_earlier_versions_have_in_their_state():
    prompts = write_prompts([*TEXTS, TEXTS[0]])
    assert prompts.digest == hashlib.sha256("\n".join(TEXTS).encode()).hexdigest()


def test_other_lists_have_other_digests():
    lists = [["a", "b"], ["b", "a"], ["a\nb"], ["a", "b", "c"], ["a", "b\nc"], ["a\nb", "c"], ["a\nb\nc"], []]
    assert len({write_prompts(texts).digest for texts in lists}) == len(lists)
    spans = [write_prompts(texts).span_digest(0, len(texts)) for texts in lists[:-1]]
    assert len(set(spans)) == len(spans)


def test_a_span_is_known_again_wherever_it_is():
    one = write_prompts(["a", "bc", "d"])
    other = write_prompts(["first", "long before", "a", "bc", "d", "e"])
    assert one.span_digest(0, 3) == other.span_digest(2, 5)
    assert one.span_digest(0, 2) != other.span_digest(2, 5)


def test_mentions_finds_a_text_across_the_pieces_that_are_read(monkeypatch):
    from sid_pack.sid_core.data import prompts as module

    prompts = write_prompts(["a photo of embedding:cat", "b"])
    for size in range(1, 12):
        monkeypatch.setattr(module, "SCAN_BYTES", size)
        assert prompts.mentions("embedding:") and prompts.mentions("a photo")
        assert not prompts.mentions("embedding: ")


def test_nothing_of_a_list_can_be_seen_or_taken_away_from_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prompts = write_prompts(["a", "b", "a"])
    assert list(tmp_path.iterdir()) == []
    assert str(prompts) == repr(prompts) == "2 prompts"

    def failing():
        yield "c"
        raise ValueError("line 2")

    with pytest.raises(ValueError, match="line 2"):
        write_prompts(failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_the_file_is_closed_with_its_list_and_not_before():
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    def failing():
        yield "a"
        raise ValueError("nothing")

    before = open_files()
    prompts = write_prompts(TEXTS)
    shared = copy.copy(prompts)
    assert open_files() == before + 1
    del prompts
    assert list(shared) == TEXTS
    del shared
    assert open_files() == before
    with pytest.raises(ValueError, match="nothing"):
        write_prompts(failing())
    assert open_files() == before


def test_threads_that_read_at_once_get_their_own_prompts():
    texts = [f"prompt {i} " * (i % 50 + 1) for i in range(2000)]
    prompts = write_prompts(texts)

    def read(start: int) -> bool:
        return all(prompts[i] == texts[i] for i in range(start, 2000, 7))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(64)))


def test_a_full_disk_says_where_room_is_needed(monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match="^Free some space .* TMPDIR"):
        write_prompts(["a"])


@pytest.mark.parametrize("lines", [[], ["\n \t\n"], ["# only\n# comments"]])
def test_nothing_to_use_gives_an_empty_list(lines):
    from sid_pack.sid_core.data.prompt_sources import text_prompts

    prompts = write_prompts(prompt.text for prompt in text_prompts(enumerate(lines, 1), "a"))
    assert (len(prompts), list(prompts), prompts.duplicates) == (0, [], 0)


MEMORY = """
import resource, sys, importlib.util
root, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("sid_pack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["sid_pack"] = importlib.util.module_from_spec(spec); spec.loader.exec_module(sys.modules["sid_pack"])
from pathlib import Path
from sid_pack.sid_core.data.prompt_sources import read_prompts
from sid_pack.sid_core.data.text_files import TextFile
from sid_pack.sid_core.data.prompts import write_prompts
write_prompts(["warm", "up", "up"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
million = TextFile(Path(folder, "million.txt"), "million.txt")
prompts = write_prompts(prompt.text for prompt in read_prompts(million, ""))
assert (len(prompts), prompts.duplicates) == (1_000_000, 1000), (len(prompts), prompts.duplicates)
assert prompts[999_999].startswith("prompt 999999 ") and sum(1 for _ in prompts) == 1_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix alone")
def test_a_million_prompts_take_a_fraction_of_their_size_in_memory(tmp_path):
    """150 MB of text that as Python strings would take 200 MB; offsets, digests and their sorting are 8 to 80 MB."""
    words = "of a lighthouse on a cliff at sunset, waves, dramatic clouds, photograph, 35 mm, highly detailed, " * 2
    with (tmp_path / "million.txt").open("w") as file:
        file.writelines(f"prompt {i} {words[: 130 + i % 50]}\n" for i in [*range(1_000_000), *range(1000)])
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, root, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 100_000
