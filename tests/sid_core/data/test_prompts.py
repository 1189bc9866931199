"""Prompt lists in a file: what is kept, how it is told apart, and what it costs in memory."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sid_pack.sid_core.data.prompts import write_prompts

TEXTS = ["a red apple", "a cat, sitting", "chat noir 🐈", "ein Bär", "x"]


def test_prompts_come_out_as_they_went_in(tmp_path):
    prompts = write_prompts(iter(TEXTS), tmp_path)
    assert list(prompts) == TEXTS and len(prompts) == 5
    assert [prompts[i] for i in range(-5, 5)] == TEXTS * 2
    assert prompts[1:3] == TEXTS[1:3] and prompts[::-2] == TEXTS[::-2] and prompts[4:2] == []
    assert prompts.span(2, 5) == TEXTS[2:]
    with pytest.raises(IndexError, match="5 prompts"):
        prompts[5]


def test_repeats_are_dropped_and_counted_and_the_first_stays_in_its_place(tmp_path):
    many = [f"prompt {i % 700}" for i in range(2500)]
    prompts = write_prompts(["z", *many, "z", "a"], tmp_path)
    assert list(prompts) == list(dict.fromkeys(["z", *many, "a"]))
    assert prompts.duplicates == 1801


def test_the_digest_is_that_of_the_lines_which_runs_of_earlier_versions_have_in_their_state(tmp_path):
    prompts = write_prompts([*TEXTS, TEXTS[0]], tmp_path)
    assert prompts.digest == hashlib.sha256("\n".join(TEXTS).encode()).hexdigest()
    assert prompts.path.read_text(encoding="utf-8") == "\n".join(TEXTS)


def test_other_lists_have_other_digests(tmp_path):
    lists = [["a", "b"], ["b", "a"], ["a\nb"], ["a", "b", "c"], ["a", "b\nc"], ["a\nb", "c"], ["a\nb\nc"], []]
    assert len({write_prompts(texts, tmp_path).digest for texts in lists}) == len(lists)
    spans = [write_prompts(texts, tmp_path).span_digest(0, len(texts)) for texts in lists[:-1]]
    assert len(set(spans)) == len(spans)


def test_a_span_is_known_again_wherever_it_is(tmp_path):
    one = write_prompts(["a", "bc", "d"], tmp_path)
    other = write_prompts(["first", "long before", "a", "bc", "d", "e"], tmp_path)
    assert one.span_digest(0, 3) == other.span_digest(2, 5)
    assert one.span_digest(0, 2) != other.span_digest(2, 5)


def test_mentions_finds_a_text_across_the_pieces_that_are_read(tmp_path, monkeypatch):
    from sid_pack.sid_core.data import prompts as module

    prompts = write_prompts(["a photo of embedding:cat", "b"], tmp_path)
    for size in range(1, 12):
        monkeypatch.setattr(module, "SCAN_BYTES", size)
        assert prompts.mentions("embedding:") and prompts.mentions("a photo")
        assert not prompts.mentions("embedding: ")


def test_only_the_list_is_left_in_the_folder_also_when_its_source_fails(tmp_path):
    prompts = write_prompts(["a", "b", "a"], tmp_path)
    assert list(tmp_path.iterdir()) == [prompts.path]

    def failing():
        yield "c"
        raise ValueError("line 2")

    with pytest.raises(ValueError, match="line 2"):
        write_prompts(failing(), tmp_path)
    assert list(tmp_path.iterdir()) == [prompts.path]


@pytest.mark.parametrize("lines", [[], ["\n \t\n"], ["# only\n# comments"]])
def test_nothing_to_use_gives_an_empty_list(lines, tmp_path):
    from sid_pack.sid_core.data.prompt_sources import text_prompts

    prompts = write_prompts(text_prompts(lines), tmp_path)
    assert (len(prompts), list(prompts), prompts.duplicates) == (0, [], 0)


MEMORY = """
import resource, sys, importlib.util
root, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("sid_pack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["sid_pack"] = importlib.util.module_from_spec(spec); spec.loader.exec_module(sys.modules["sid_pack"])
from pathlib import Path
from sid_pack.sid_core.data.prompt_sources import read_prompts
from sid_pack.sid_core.data.prompts import write_prompts
write_prompts(["warm", "up", "up"], Path(folder))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prompts = write_prompts(read_prompts(Path(folder, "million.txt"), ""), Path(folder))
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
