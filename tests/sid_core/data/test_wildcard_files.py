"""What wildcards stand for, out of text, YAML and JSON files; and that small files can't ask for much."""

import json
import time
import tracemalloc

import pytest

from sid_pack.sid_core.data.wildcard_files import wildcards_in


def read(folder, check=lambda: None) -> dict[str, list[tuple[str, float]]]:
    sources = wildcards_in(folder, lambda path: None, check)
    return {name: [(line.text, line.weight) for line in source()] for name, source in sources.items()}


def write(folder, **files: str | bytes):
    for name, content in files.items():
        file = folder / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def test_names_are_paths_and_keys_and_texts_are_as_they_are_written(tmp_path):
    write(
        tmp_path,
        colour_txt="\ufeff# none\n red \r\n\n50% blue\n2::x",
        things__fruit_TXT="apple\n",
        all_yaml="on:\n  - no\n  - 1.50\n  - 'null'\n  - ~\n  - 3::yes\n  - a::b\n"
        "deep: {more: [x, 2020-01-01], one: y z}\n",
        things__list_yml="- a\n- b # c\n",
        things__more_json=json.dumps({"on": ["x", {"text": "y", "weight": 2.5}, None], "in": {"z": "w"}}),
        things__flat_json="[1.50, \"a\"]",
        _hidden_txt=b"\xff",
        __MACOSX__x_yaml="{",
        notes_md="x",
    )  # fmt: skip
    assert read(tmp_path) == {
        "colour": [("red", 1.0), ("50% blue", 1.0), ("2::x", 1.0)],
        "things/fruit": [("apple", 1.0)],
        "on": [("no", 1.0), ("1.50", 1.0), ("null", 1.0), ("yes", 3.0), ("a::b", 1.0)],
        "deep/more": [("x", 1.0), ("2020-01-01", 1.0)],
        "deep/one": [("y z", 1.0)],
        "things/list": [("a", 1.0), ("b", 1.0)],
        "things/on": [("x", 1.0), ("y", 2.5)],
        "things/in/z": [("w", 1.0)],
        "things/flat": [("1.50", 1.0), ("a", 1.0)],
    }


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a_txt", b"one\ncaf\xe9", "line 2 of .*/a.txt is not UTF-8"),
        ("a_yaml", b"- caf\xe9", "a.yaml is not UTF-8"),
        ("a_yaml", BOMB, r"Mend the YAML in line 2 of .*/a.yaml \(an \* that refers"),
        ("a_yaml", "a: &a\n  - *a\n", "Mend the YAML in line 2"),
        ("a_yaml", "a: &a {b: c}\nd:\n  <<: *a\n", "Mend the YAML in line 3"),
        ("a_yaml", "a: [b\nc: d", "Mend the YAML in line"),
        ("a_yaml", "[" * 500, "Mend the YAML in .*/a.yaml"),
        ("a_yaml", "- a\n---\n- b\n", "Mend the YAML in"),
        ("a_yaml", "a: [x]\nb: [z]\na: [y]\n", "Mend the YAML in line 1"),
        ("a_yaml", "a:\n  - b: c\n", "Make line 2 of .*/a.yaml a text"),
        ("a_yaml", "a:\n  - [b]\n", "Write the list in line 2 of"),
        ("a_yaml", "a:\n  - {text: b, weight: 1000000000}\n", "Set the weight in line 2"),
        ("a_yaml", "a:\n  - {text: b, weight: .nan}\n", "Set the weight in line 2"),
        ("a_yaml", "only text", "Make .*/a.yaml a list"),
        ("a_yaml", "a: !!python/object/apply:os.system [x]\nb: [[!!python/name:os.system x]]\n", "Write the list"),
        ("a_json", '{"a": [1, true]}', "Mend the JSON in .*/a.json"),
        ("a_json", '{"a":\n[1', "Mend the JSON in line 2"),
        ("a_json", "[" * 50_000, "Mend the JSON in"),
        ("a_json", '{"a": ["x"], "a": ["y"]}', "two values of one name"),
    ],
)
def test_what_can_not_be_read_is_named_in_a_moment_and_in_little_memory(tmp_path, name, content, says):
    write(tmp_path, **{name: content})
    began = time.monotonic()
    tracemalloc.start()
    with pytest.raises(ValueError, match=says) as raised:
        read(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert time.monotonic() - began < 5 and len(str(raised.value)) < 200


def test_one_name_for_two_files_is_refused(tmp_path):
    write(tmp_path, colour_txt="red", all_yaml="colour: [blue]")
    with pytest.raises(ValueError, match=r"^Rename .*/colour\.txt or .*/all\.yaml.*'colour'"):
        read(tmp_path)


def test_a_long_yaml_file_can_be_given_up(tmp_path):
    write(tmp_path, a_yaml="- a\n" * 2000)
    seen = []

    def check():
        seen.append(1)
        if len(seen) > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, check)
