"""Prompts out of text, JSON, JSON Lines, CSV, TSV and folders: what is read, and that nothing is read otherwise."""

import csv
import json
import os
import re
import socket
import sys

import pytest

from sid_pack.sid_core.data.prompt_sources import read_prompts, source_files, text_prompts
from sid_pack.sid_core.data.text_files import TextFile


def read(tmp_path, name: str, content: str | bytes, column: str = "prompt", **options) -> list[str]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return [prompt.text for prompt in read_prompts(TextFile(file, name), column, **options)]


def found(place) -> list[str]:
    return [file.name for file in source_files(place, lambda path: None)]


def test_one_prompt_a_line_without_blanks_and_comments():
    text = "a red apple\n\n  # fruit\n  a cat, sitting  \r\na red apple\n#dog\nchat noir 🐈\nkeycap #\nnumber #1"
    prompts = list(text_prompts(enumerate(text.splitlines(), 1), "the box"))
    assert [prompt.text for prompt in prompts] == [
        "a red apple", "a cat, sitting", "a red apple", "chat noir 🐈", "keycap #", "number #1"
    ]  # fmt: skip
    assert prompts[1].place == "line 4 of the box"


@pytest.mark.parametrize("name", ["a.txt", "a.prompts", "a", "a.TXT", "a.caption"])
def test_text_is_split_as_python_splits_lines(tmp_path, name):
    text = "\ufeffone\r\ntwo\rthree\n\u2028four\x85five\x0csix"
    assert read(tmp_path, name, text) == ["one", "two", "three", "four", "five", "six"]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
def test_json_lines_give_the_named_column(tmp_path, suffix):
    rows = [
        {"prompt": " a\nb ", "id": 1}, {"prompt": "# no comment"}, {"prompt": None}, {"prompt": ""}, {"prompt": "é 🐈"}
    ]  # fmt: skip
    text = "\n\n".join(json.dumps(row) for row in rows)
    assert read(tmp_path, f"a{suffix}", text) == ["a\nb", "# no comment", "é 🐈"]
    assert read(tmp_path, f"a{suffix}", '{"caption": "x", "prompt": "y"}', "caption") == ["x"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_of_texts_or_of_objects_is_a_list_of_prompts(tmp_path, indent):
    rows = ["[a] {b}", {"caption": "red, \n apple", "id": 7}, "# é", {"caption": None}, ""]
    assert read(tmp_path, "a.json", "\ufeff" + json.dumps(rows, indent=indent), "caption") == [
        "[a] {b}", "red, \n apple", "# é"
    ]  # fmt: skip
    assert read(tmp_path, "a.json", "[]") == []


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.TSV", "\t")])
def test_a_table_gives_what_was_written_into_the_named_column(tmp_path, name, delimiter):
    cells = ['red, "big"\tapple', "two\nlines, and\r\nthree", "# é", 'a 5" nail', "", "''", "x"]
    with (tmp_path / "table").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(["id", " prompt ", "other"])
        table.writerows([i, cell, "z"] for i, cell in enumerate(cells))
        file.write("\r\n  \r\n")
    content = (tmp_path / "table").read_bytes()
    assert read(tmp_path, name, content) == [cell for cell in cells if cell]
    assert read(tmp_path, name, content, "id") == [str(i) for i in range(len(cells))]
    assert read(tmp_path, name, "") == []


def test_a_folder_gives_its_prompt_files_and_those_of_the_folders_in_it_sorted(tmp_path):
    for name in ["b.txt", "a/z.jsonl", "a/b/c.CSV", "c.png", "a.txt.bak", "d.tsv", "e.json", "f.ndjson", "readme"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.txt").mkdir()
    expected = ["a/b/c.CSV", "a/z.jsonl", "b.txt", "d.tsv", "e.json", "f.ndjson"]
    assert found(tmp_path) == [f"{tmp_path.name}/{name}" for name in expected]
    with pytest.raises(FileNotFoundError, match=r"^Put prompt files into the folder folder\.txt"):
        found(tmp_path / "folder.txt")


def test_what_systems_leave_in_a_folder_is_no_prompt_file(tmp_path):
    hidden = ["._a.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/a.txt", "__MACOSX/b/._a.txt", ".git/x/a.txt",
              "Thumbs.db", "desktop.ini", ".DS_Store", "@eaDir/a.txt", "$RECYCLE.BIN/a.txt"]  # fmt: skip
    for name in ["a.txt", *hidden]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert found(tmp_path) == [f"{tmp_path.name}/a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links as Unix has them")
def test_pipes_and_sockets_are_left_out_and_links_followed_once(tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("a")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "more" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "more")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.txt"))
        assert [name.rsplit("/", 1)[-1] for name in found(tmp_path)] == ["a.txt"]
    with pytest.raises(OSError, match="^Name a file or a folder: a pipe"):
        list(read_prompts(TextFile(tmp_path / "pipe.txt", "pipe.txt"), "prompt"))
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"^Mend or remove .*gone\.txt: it is a link that leads nowhere"):
        found(tmp_path)


def test_looking_into_folders_can_be_ended_at_any_of_them(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}").mkdir()

    class EndedError(Exception):
        pass

    seen = []

    def visit(path):
        seen.append(path)
        if len(seen) == 3:
            raise EndedError

    with pytest.raises(EndedError):
        source_files(tmp_path, visit)


@pytest.mark.parametrize("name", ["a.png", "a.yaml", "a.xlsx", "a.parquet", "a.jsonl.gz", "a.html", "a.safetensors"])
def test_files_of_other_kinds_are_refused_by_name(tmp_path, name):
    (tmp_path / name).write_text("text all the same\n")
    with pytest.raises(ValueError, match=f"^Name a list of prompts instead of {re.escape(name)}"):
        found(tmp_path / name)


UNCLOSED = 'id,prompt\n1,"red, apple"\n2,"two\nlines"\n3,"open\n' + "".join(f"{i},x\n" for i in range(4, 50))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"one\ncaf\xe9\n", "^Save the file as 'UTF-8' .* line 2 of a.txt is not"),
        ("a.csv", b"prompt\ncaf\xe9\n", "line 2 of a.csv is not UTF-8"),
        ("a.json", b'["caf\xe9"]', "a.json is not UTF-8"),
        ("a.txt", "one\n".encode("utf-16"), "line 1 of a.txt is not UTF-8"),
        ("a.txt", b"PK\0", "^Give a text file: line 1 of a.txt has zero bytes"),
        ("a.txt", b"x" * 5_000_000, "^Break line 1 of a.txt up"),
        ("a.jsonl", '{"prompt": "a"}\n{"caption": "b", "id": 1}', "^Name in .* line 2 .*; there are 'caption', 'id'"),
        ("a.jsonl", '{"prompt": "a"}\n\nprompt b', "^Mend the JSON in line 3 of a.jsonl"),
        ("a.jsonl", '{"prompt": "a"} {"prompt": "b"}', "^Mend the JSON in line 1 of a.jsonl, character 17"),
        ("a.jsonl", '{"prompt": "a", "prompt": "b"}', "line 1 of a.jsonl.*two values of one name"),
        ("a.jsonl", '"a"', '^Make line 1 of a.jsonl an object such as {"prompt": "red apple"}'),
        ("a.jsonl", '["a", "b"]', "^Make line 1 of a.jsonl an object"),
        ("a.jsonl", '{"prompt": 7}', "^Make 'prompt' in line 1 of a.jsonl a text: it is a int"),
        ("a.jsonl", '{"prompt": "\\ud83d"}', "^Write line 1 of a.jsonl again: there is half a character"),
        ("a.jsonl", "[" * 100_000, "^Mend the JSON in line 1"),
        ("a.jsonl", '{"prompt": ' + "1" * 5000 + "}", "^Mend the JSON in line 1"),
        ("a.json", '{"prompts": ["a"]}', "^Make a.json a list"),
        ("a.json", '["a",\n"b"\n"c"]', "^Mend the JSON in line 3 of a.json"),
        ("a.json", '["a", ["b"]]', "^Make entry 2 of a.json a text"),
        ("a.json", '["a", 5]', "^Make entry 2 of a.json a text"),
        ("a.json", '[{"caption": "b"}]', "entry 1 of a.json has no 'prompt'; there are 'caption'"),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b"}', "^Mend the JSON in line 2 of a.json"),
        ("a.csv", "id;prompt\n1;a", "line 1 of a.csv has no 'prompt'; there are 'id;prompt'"),
        ("a.csv", "prompt,prompt\na,b", "^Rename columns in line 1"),
        ("a.csv", "prompt\na red, round apple\n", "^Put quotes .* line 2 of a.csv .* comma .* 2 cells, .* are 1"),
        ("a.csv", 'id,prompt\n1,"a"\n2, "b, c"\n', "line 3 of a.csv .* 3 cells"),
        ("a.tsv", "prompt\na\tb\n", "line 2 of a.tsv .* tab"),
        ("a.csv", 'id,prompt\n1,a\n2,red apple\non a table\n', "^Complete line 4 of a.csv"),
        ("a.csv", UNCLOSED, '^Close the " .* line 5 of a.csv'),
        ("a.csv", 'id,prompt\n1,"a\nb","c\nd\n', '^Close the " .* line 3 of a.csv'),
        ("a.csv", 'id,prompt\n1,"he said ""hi\n2,b\n', '^Close the " .* line 2 of a.csv'),
        ("a.csv", 'id,prompt\n1,"red apple\n2,b\n3,the "end" of\n', 'from line 2 to line 4 of a.csv'),
        ("a.csv", f"prompt\n{'a' * 200_000}", "^Shorten line 2 of a.csv"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_named_with_its_place(tmp_path, name, content, says):
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)) as raised:
        read(tmp_path, name, content)
    assert len(str(raised.value)) < 300 and str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "secret caf\xe9".encode("latin-1")),
        ("a.jsonl", "secret"),
        ("a.jsonl", '{"secret": 1}'),
        ("a.jsonl", '{"prompt": {"secret": 1}}'),
        ("a.jsonl", '["secret"]'),
        ("a.jsonl", '{"prompt": "secret \\ud83d"}'),
        ("a.json", "secret"),
        ("a.json", '{"secret": 1}'),
        ("a.json", '["a", ["secret"]]'),
        ("a.csv", "secret\nsecret"),
        ("a.csv", "prompt\nsecret,secret"),
        ("a.csv", 'prompt\n"secret" secret'),
        ("a.csv", 'prompt\n"secret'),
        ("a.csv", "secret,prompt\nsecret"),
    ],
)
def test_nothing_of_a_file_is_quoted_to_whoever_may_not_see_it(tmp_path, name, content):
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as raised:
        read(tmp_path, name, content, name_columns=False)
    chain = [raised.value]
    while chain[-1].__cause__ or (chain[-1].__context__ and not chain[-1].__suppress_context__):
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    assert not any("secret" in f"{error} {error.args}" for error in chain)


def test_an_open_quote_ends_at_a_bound_also_where_another_pack_has_lifted_the_csv_modules(tmp_path):
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with pytest.raises(ValueError, match='^Close the " that opens a cell in line 2 of a.csv'):
            read(tmp_path, "a.csv", 'prompt\n"open\n' + "red apple\n" * 1_000_000)
    finally:
        csv.field_size_limit(limit)
