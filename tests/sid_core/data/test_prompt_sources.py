"""Prompts out of text, JSON Lines, CSV and folders."""

import json
import re

import pytest

from sid_pack.sid_core.data.prompt_sources import read_prompts, source_files, text_prompts


def read(tmp_path, name: str, content: str | bytes, column: str = "prompt") -> list[str]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_prompts(file, column))


def test_one_prompt_a_line_without_blanks_and_comments():
    text = "a red apple\n\n  # fruit\n  a cat, sitting  \r\na red apple\n#dog\nchat noir 🐈\nkeycap #\nnumber #1"
    assert list(text_prompts([text])) == [
        "a red apple", "a cat, sitting", "a red apple", "chat noir 🐈", "keycap #", "number #1"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.txt", "a.prompts", "a"])
def test_text_is_split_as_python_splits_lines(tmp_path, name):
    text = "\ufeffone\r\ntwo\rthree\n\u2028four\x85five\x0csix"
    assert read(tmp_path, name, text) == ["one", "two", "three", "four", "five", "six"]


def test_json_lines_give_the_named_column(tmp_path):
    rows = [
        {"prompt": " a\nb ", "id": 1}, {"prompt": "# no comment"}, {"prompt": None}, {"prompt": ""}, {"prompt": "é 🐈"}
    ]  # fmt: skip
    text = "\n\n".join(json.dumps(row) for row in rows)
    assert read(tmp_path, "a.jsonl", text) == ["a\nb", "# no comment", "é 🐈"]
    assert read(tmp_path, "a.JSONL", '{"caption": "x", "prompt": "y"}', "caption") == ["x"]


def test_csv_gives_the_named_column(tmp_path):
    text = '\ufeffid,prompt,other\r\n1,"red, ""big"" apple",x\r\n2,"two\nlines",y\r\n3\r\n4,  ,z\r\n5,# é,z\r\n'
    assert read(tmp_path, "a.csv", text) == ['red, "big" apple', "two\nlines", "# é"]
    assert read(tmp_path, "a.csv", text, "id") == ["1", "2", "3", "4", "5"]
    assert read(tmp_path, "a.csv", "") == []


def test_a_folder_gives_its_prompt_files_and_those_of_the_folders_in_it_sorted(tmp_path):
    for name in ["b.txt", "a/z.jsonl", "a/b/c.CSV", "c.png", "a.txt.bak"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.txt").mkdir()
    assert source_files(tmp_path) == [tmp_path / name for name in ["a/b/c.CSV", "a/z.jsonl", "b.txt"]]
    with pytest.raises(FileNotFoundError, match=r"folder\.txt has no prompt files"):
        source_files(tmp_path / "folder.txt")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"one\ncaf\xe9\n", r"a\.txt is not UTF-8 text .*byte 3 of line 2"),
        ("a.csv", b"prompt\ncaf\xe9\n", r"a\.csv is not UTF-8 text"),
        ("a.txt", b"PK\0", "not a text file"),
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"caption": "b", "id": 1}',
            r"line 2 of .*no 'prompt'; there are 'caption', 'id'",
        ),
        ("a.jsonl", '{"prompt": "a"}\n\nprompt b', r"line 3 of .*a\.jsonl is not JSON"),
        ("a.jsonl", '"a"', r'line 1 of .* is "a"; expected an object such as {"prompt": "red apple"}'),
        ("a.jsonl", '{"prompt": 7}', "'prompt' in line 1 of .* is 7; expected a text"),
        ("a.jsonl", '{"prompt": "\\ud83d"}', "half a character"),
        ("a.jsonl", "[" * 100_000, "line 1 of .*is not JSON"),
        ("a.csv", "id;prompt\n1;a", "no column 'prompt'; there are 'id;prompt'.*'column'"),
        ("a.csv", f"prompt\n{'a' * 200_000}", "a.csv is not CSV after line 1"),
    ],
)
def test_what_can_not_be_read_is_named_with_its_place(tmp_path, name, content, says):
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)) as raised:
        read(tmp_path, name, content)
    assert len(str(raised.value)) < 400 + len(str(tmp_path))
