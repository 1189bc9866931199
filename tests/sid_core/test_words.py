"""What the pack says can be shown everywhere."""

import io
import logging
import sys

import pytest

from sid_pack.sid_core.words import LONGEST, LONGEST_PATH, log, printable, quoted

EVERYTHING = "".join(map(chr, range(0x3000))) + "".join(map(chr, range(0xD7F0, 0xE010))) + "\U0001f34e\U000e0001"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "cp932"])
def test_any_text_can_be_encoded_and_has_no_controls(encoding):
    for start in range(0, len(EVERYTHING), 500):
        shown = printable(EVERYTHING[start : start + 500], encoding)
        shown.encode(encoding)
        assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


def test_what_can_be_shown_stays_as_it_is():
    text = "Set κ to 1.5 for “red apple” 🍎:\n\tit is 2."
    assert printable(text) == text
    assert printable(text, "ascii") == "Set ? to 1.5 for ?red apple? ?:\n\tit is 2."


def test_names_that_are_no_text_are_told_apart():
    """Files may have names of bytes that are no UTF-8, which Python reads as half characters."""
    latin, lone = b"caf\xe9.txt".decode("utf-8", "surrogateescape"), "/tmp/\ud800.txt"
    assert printable(latin) == "caf\\udce9.txt" and printable(lone) == "/tmp/\\ud800.txt"
    assert printable("a\x1b[31mred\x00") == "a\\x1b[31mred\\x00"


def test_of_a_long_path_the_end_is_told():
    folders = "/".join(["folder"] * 30)
    said = quoted(f"/{folders}/prompts.txt")
    assert said.startswith("'…") and said.endswith("/folder/prompts.txt'") and len(said) == LONGEST_PATH + 3
    assert quoted("a/prompts.txt") == "'a/prompts.txt'"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_of_a_long_text_both_ends_are_left(encoding):
    text = "begin " + "x" * 100_000 + " end"
    shown = printable(text, encoding)
    assert len(shown) <= LONGEST and shown.startswith("begin ") and shown.endswith(" end")


def test_the_log_says_whose_it_is_in_what_its_console_can_show(monkeypatch):
    """As ComfyUI's own handler, on a Windows console."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    monkeypatch.setattr(sys, "stderr", console)
    handler = logging.StreamHandler(console)
    log.addHandler(handler)
    try:
        log.warning("the ∅-prompt has %d tokens in \ud800", 3)
    finally:
        log.removeHandler(handler)
    assert console.buffer.getvalue().decode("cp1252").strip() == "SiD: the ?-prompt has 3 tokens in \\ud800"
