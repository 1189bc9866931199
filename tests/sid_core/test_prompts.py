"""Prompt lists as people write them."""

import pytest

from sid_pack.sid_core.prompts import parse_prompts


def test_one_prompt_a_line_without_blanks_comments_and_repeats():
    text = "a red apple\n\n  # fruit\n  a cat, sitting  \r\na red apple\n#dog\nchat noir 🐈\na cat, sitting"
    parsed = parse_prompts(text)
    assert parsed.prompts == ("a red apple", "a cat, sitting", "chat noir 🐈")
    assert parsed.duplicates == 2


def test_a_hash_within_a_prompt_is_no_comment():
    assert parse_prompts("keycap #\nnumber #1").prompts == ("keycap #", "number #1")


@pytest.mark.parametrize("text", ["", "\n \t\n", "# only\n# comments"])
def test_nothing_to_use_gives_an_empty_list(text):
    parsed = parse_prompts(text)
    assert (parsed.prompts, parsed.duplicates) == ((), 0)
