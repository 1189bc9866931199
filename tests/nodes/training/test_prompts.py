import os
import shutil
import sys
import threading
import time

import pytest
from graphs import node


def prompts(text: str = "", file: str = "", **others) -> dict:
    """Older graphs have neither of the others."""
    listed = node("SiDPrompts", text=text, file=file, **others)
    return {"prompts": listed, "shown": node("PreviewAny", source=["prompts", 1])}


def texts(result) -> list[str]:
    assert result.success, result.error
    return list(result.value("prompts"))


@pytest.fixture
def wildcards(comfyui):
    """The folder `wildcards` in ComfyUI's input folder."""
    folder = comfyui.base_directory / "input" / "wildcards"
    (folder / "things").mkdir(parents=True)
    (folder / "colour.txt").write_text("# seen by none\nred\nblue\n")
    (folder / "things" / "fruit.txt").write_text("__colour__ apple\n")
    yield folder
    shutil.rmtree(folder)


def test_box_and_file_are_joined_and_repeats_dropped_and_counted(run_graph, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# a comment\n\nein Bär\nred apple\n", encoding="utf-8-sig")
    result = run_graph(prompts("red apple\n  blue sky  \nred apple", str(file)))
    assert result.success, result.error
    assert list(result.value("prompts")) == ["red apple", "blue sky", "ein Bär"]
    assert result.value("prompts", 1) == 3
    assert result.outputs["prompts"]["text"] == ["3 prompts, 2 duplicates dropped"]


def test_the_demos_prompts_are_found_by_name(run_graph):
    for name in ("emoji_names.txt", ' "emoji_names.txt"'):
        result = run_graph(prompts(file=name))
        assert result.success, result.error
        assert result.value("prompts", 1) == 1797
    assert not run_graph(prompts(file="/nowhere/emoji_names.txt")).success


def test_a_file_in_the_input_folder_is_found_by_name_and_read_again_when_it_changes(run_graph, comfyui):
    file = comfyui.base_directory / "input" / "mine.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("one\n")
    assert run_graph(prompts(file="mine.txt")).value("prompts", 1) == 1
    file.write_text("one\ntwo\n")
    assert run_graph(prompts(file="mine.txt")).value("prompts", 1) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00caf\xe9", "line 1 of bad.txt is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1 of bad.txt is not UTF-8 text"),
        (b"PK\0\0", "Give a text file: line 1 of bad.txt"),
        (b"# only\n\n", "Write one prompt a line"),
    ],
)
def test_a_file_that_is_no_prompt_list_is_refused(run_graph, tmp_path, content, says):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    result = run_graph(prompts(file=str(file)))
    assert not result.success
    assert says in result.error


def test_a_missing_file_is_named_with_where_to_put_it(run_graph):
    result = run_graph(prompts(file="no/such.txt"))
    assert not result.success
    assert "Put 'no/such.txt' into ComfyUI's input folder" in result.error


def test_no_prompts_at_all(run_graph):
    result = run_graph(prompts("# nothing\n\n"))
    assert not result.success
    assert "Write one prompt a line" in result.error


def test_a_folder_of_text_json_lines_and_csv(run_graph, tmp_path):
    (tmp_path / "a.csv").write_text('id,caption\n1,"red, round apple"\n2,blue sky\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.jsonl").write_text('{"caption": "ein B\\u00e4r"}\n{"caption": "blue sky"}\n')
    (tmp_path / "z.txt").write_text("plain\n")
    result = run_graph(prompts("first", str(tmp_path), column="caption"))
    assert texts(result) == ["first", "red, round apple", "blue sky", "ein Bär", "plain"]
    assert result.outputs["prompts"]["text"] == ["5 prompts, 1 duplicates dropped"]
    (tmp_path / "more" / "c.txt").write_text("new\n")
    assert "new" in texts(run_graph(prompts("first", str(tmp_path), column="caption")))


def test_a_missing_column_is_named_with_those_there_are(run_graph, tmp_path):
    (tmp_path / "a.csv").write_text("id,caption\n1,apple\n")
    result = run_graph(prompts(file=str(tmp_path / "a.csv")))
    assert not result.success
    assert (
        "Name in column where the prompts are: line 1 of a.csv has no 'prompt'; there are 'id', 'caption'."
        in result.error
    )


def test_templates_are_drawn_by_their_text_and_the_seed(run_graph, wildcards):
    template = "a {big|small} __things/fruit__, {2$$x|y|z} (art:1.2)"
    drawn = texts(run_graph(prompts(template, variants=200, seed=5)))
    # Two sizes, two colours, and two of three letters in either order.
    assert len(drawn) == 2 * 2 * 6 and len(set(drawn)) == 24
    pairs = ("x,y", "y,x", "x,z", "z,x", "y,z", "z,y")
    expected = {f"a {s} {c} apple, {p} (art:1.2)" for s in ("big", "small") for c in ("red", "blue") for p in pairs}
    assert set(drawn) == expected
    few = texts(run_graph(prompts(template, variants=3, seed=5)))
    assert set(few) < set(drawn) and few == drawn[: len(few)]
    assert texts(run_graph(prompts(f"another\n{{a|b}} line\n{template}", variants=3, seed=5)))[-len(few) :] == few
    assert len({tuple(texts(run_graph(prompts(template, variants=3, seed=seed)))) for seed in range(4)}) == 4


def test_a_wildcard_file_that_changes_is_read_again(run_graph, wildcards):
    assert set(texts(run_graph(prompts("__colour__", variants=50)))) == {"red", "blue"}
    (wildcards / "colour.txt").write_text("green\n")
    assert texts(run_graph(prompts("__colour__", variants=50))) == ["green"]


def test_another_wildcard_folder(run_graph, tmp_path):
    (tmp_path / "animal.txt").write_text("cat\n")
    assert texts(run_graph(prompts("a __animal__", wildcards=str(tmp_path)))) == ["a cat"]


ORDINARY = [
    "smile :} {cat} a|b",
    "[red|blue] apple  // two  spaces # and /* all */ of this",
    "{cat} | {dog}",
    "}|{",
    "{a|b",
    "snake_case and __ and ____ and a__b",
    "${x} %{y} 50%",
]


def test_lines_without_the_syntax_are_not_changed_and_need_no_package(run_graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamicprompts.generators", None)
    assert texts(run_graph(prompts("\n".join(ORDINARY)))) == ORDINARY
    templates = ["{a|b}", "__colour__"]
    assert texts(run_graph(prompts("\n".join(templates), variants=0))) == templates


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("a __nothing__", "Put a file for __nothing__ into the folder that wildcards names: there is none for"),
        ("a __no thing__", "Put a file for __no thing__ into"),
        ("{a|__nothing__}", "there are colour, more, "),
        ("{$$|}", "Mend what begins at letter 1, which can't be read: the template in line 2 of the text box."),
        ("{a|b} {c|", "Close the { in it: the template in line 2 of the text box. Set variants to 0"),
        ("{0::a|0::b}", "Give as many options a weight above 0 as are to be drawn: the template in line 2"),
        ("{2$$0::a|1::b}", "Give as many options a weight"),
        ("{a|b} ${x}", "Give each ${variable} a value"),
        ("${x={a|b}}", "can't be drawn (NotImplementedError): the template in line 2"),
        ("{a|b} %{x$$y}", "Put ... where the text inside goes"),
        ("__{|}__", "Put a file for ____ into"),
        ("__a..b__", "Put a file for __a..b__"),
        ("__self__", "on and on: the template in line 2 of the text box"),
        ("__more__", "more than 100,000 parts: the template in line 2 of the text box"),
        ("${a=x {b|b}}" + "".join(f"${{a{i}=${{a{i - 1 or ''}}}${{a{i - 1 or ''}}}}}" for i in range(1, 30)) + "${a29}",
         "more than 100,000 parts"),
    ],
)  # fmt: skip
def test_a_template_that_can_not_be_drawn_is_told_by_its_place(run_graph, wildcards, template, says):
    (wildcards / "self.txt").write_text("__self__ again\n")
    (wildcards / "more.txt").write_text("__more1__ __more1__")
    for i in range(1, 30):
        (wildcards / f"more{i}.txt").write_text(f"__more{i + 1}__ __more{i + 1}__" if i < 29 else "x")
    result = run_graph(prompts(f"# a comment\n{template}", variants=20))
    for file in wildcards.glob("[ms]*.txt"):
        file.unlink()
    assert not result.success
    assert says in result.error


def test_a_missing_package_is_named_with_how_to_install_it(run_graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamicprompts", None)
    result = run_graph(prompts("{red|blue} apple"))
    assert not result.success
    assert "Install the package dynamicprompts" in result.error and "pip install dynamicprompts" in result.error
    assert "line 1 of the text box" in result.error


def test_an_old_package_of_another_packs_is_told_by_its_version(run_graph, monkeypatch, tmp_path):
    """As pip leaves one: version 0.2.6 says what it is in its metadata alone."""
    (tmp_path / "dynamicprompts").mkdir()
    (tmp_path / "dynamicprompts" / "__init__.py").touch()
    (tmp_path / "dynamicprompts-0.2.6.dist-info").mkdir()
    (tmp_path / "dynamicprompts-0.2.6.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: dynamicprompts\nVersion: 0.2.6\n"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "dynamicprompts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    result = run_graph(prompts("{red|blue} apple"))
    assert not result.success
    assert "Update the package dynamicprompts" in result.error and "pip install --upgrade" in result.error
    assert "Version 0.2.6 is there, and 0.31.0 or newer is needed" in result.error


def test_reading_and_drawing_are_told_and_can_be_cancelled_at_any_prompt(run_graph, tmp_path, monkeypatch):
    import comfy.model_management

    from sid_pack.nodes.training import prompts as module

    file = tmp_path / "many.txt"
    file.write_text("\n".join(f"prompt {i}" for i in range(100)))
    said = []
    monkeypatch.setattr(module, "NODE_SECONDS", 0)
    monkeypatch.setattr(module.say, "on_node", lambda text, node_id=None: said.append(text))
    assert run_graph(prompts(file=str(file))).success
    assert said[-3:] == ["reading prompts: 98", "reading prompts: 99", "100 prompts"]

    def cancel(text, node_id=None):
        said.append(text)
        if text == "reading prompts: 40":
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(module.say, "on_node", cancel)
    for graph in (prompts("more", file=str(file)), prompts(" ".join(["{a|b|c}"] * 40), variants=100_000)):
        said.clear()
        began = time.monotonic()
        result = run_graph(graph)
        assert not result.success and ("execution_interrupted" in [event for event, _ in result.events])
        assert said[-2:] == ["reading prompts: 40", "Queue again to run this: it was cancelled."]
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("seed", range(6))
def test_a_wildcards_lines_are_drawn_letter_by_letter_with_any_seed(run_graph, wildcards, seed):
    lines = ["50% off", "$5", "smile :}", "{cat}", "https://x/y", "#ff0000 is red", "/* x */ y", "a_b__c", "{half"]
    (wildcards / "my colours.txt").write_text("\n".join(line for line in lines if line[0] != "#"), encoding="utf-8-sig")
    drawn = texts(run_graph(prompts("100% {x} __my colours__ :} #1 {a|a}", variants=300, seed=seed)))
    assert set(drawn) == {f"100% {{x}} {line} :}} #1 a" for line in lines if line[0] != "#"}
    pairs = texts(run_graph(prompts("{2$$ and $$__my colours__}", variants=300, seed=seed)))
    assert {part for pair in pairs for part in pair.split(" and ")} == {line for line in lines if line[0] != "#"}


def test_a_template_in_a_file_is_refused_by_the_files_name_and_line(run_graph, wildcards, tmp_path):
    (wildcards / "bad.txt").write_text("# no\nfine\n{a|b} {secret|\n")
    (wildcards / "worse.txt").write_text("fine\n{x$$secret|b}\n")
    (wildcards / "latin.txt").write_bytes(b"fine\nsecret caf\xe9\n")
    (tmp_path / "a.txt").write_text("one\n\n__secret__ {a|b}\n")
    for graph, says in [
        (prompts("__bad__", variants=50), "Close the { in it: line 3 of wildcards/bad.txt"),
        (
            prompts("__worse__", variants=1),
            "Mend what begins at letter 1, which can't be read: line 2 of wildcards/worse.txt",
        ),
        (prompts("__latin__", variants=50), "line 2 of wildcards/latin.txt is not UTF-8 text"),
        (prompts(file=str(tmp_path / "a.txt")), "for line 3 of a.txt"),
    ]:
        result = run_graph(graph)
        assert not result.success and says in result.error, result.error


@pytest.fixture
def remote(monkeypatch, comfyui):
    """The server answers other machines."""
    from sid_pack.nodes.host import reach

    monkeypatch.delenv("SID_READ_ANYWHERE", raising=False)
    monkeypatch.setattr(reach.args, "listen", "0.0.0.0")


def test_a_remote_reader_gets_nothing_from_outside_of_the_input_folder(run_graph, remote, comfyui, wildcards, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "colour.txt").write_text("xyzzy\n")
    (comfyui.base_directory / "input" / "mine").mkdir()
    (comfyui.base_directory / "input" / "mine" / "link.txt").symlink_to(secret / "colour.txt")
    (wildcards / "link").symlink_to(secret)
    (wildcards / "secret.txt").write_text("__xyzzy__")
    told = set()
    try:
        for graph in [
            prompts("x", str(secret / "colour.txt")),
            prompts("x", str(secret / "nought.txt")),
            prompts("x", str(secret)),
            prompts("x", "mine"),
            prompts("x", "../../demo/assets/emoji_names.txt"),
            prompts("{a|b}", wildcards=str(secret)),
            prompts("{a|b}"),
        ]:
            result = run_graph(graph)
            assert not result.success and "into ComfyUI's input folder" in result.error, result.error
            told.add(str(graph["prompts"].get("is_changed")).replace("nought", "colour"))
            assert "xyzzy" not in f"{result.events}{graph}"
        assert run_graph(prompts(file="emoji_names.txt")).value("prompts", 1) == 1797
        (wildcards / "link").unlink()
        missing = run_graph(prompts("__secret__", variants=1))
        assert not missing.success and "xyzzy" not in f"{missing.error}{missing.events}"
    finally:
        shutil.rmtree(comfyui.base_directory / "input" / "mine")
    assert len(told) == 5  # the first two are told alike


def test_what_other_nodes_can_show_of_a_list_is_its_length(run_graph, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("secret one\nsecret two\n")
    graph = prompts(file=str(file)) | {"seen": node("PreviewAny", source=["prompts", 0])}
    result = run_graph(graph)
    assert result.outputs["seen"]["text"] == ["2 prompts"]
    assert result.value("prompts").digest not in f"{result.events} {result.outputs} {graph}"


def test_the_temp_folder_can_be_cleaned_at_any_time(run_graph, comfyui):
    import folder_paths

    graph = prompts("a\nb")
    listed = run_graph(graph).value("prompts")
    shutil.rmtree(folder_paths.get_temp_directory(), ignore_errors=True)
    assert list(listed) == ["a", "b"]
    assert list(run_graph(graph).value("prompts")) == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes as Unix has them")
@pytest.mark.parametrize("given", ["/dev/zero", "/", "a pipe", "a folder with a pipe"])
def test_what_is_no_file_does_not_keep_the_node_waiting(run_graph, wildcards, tmp_path, given, monkeypatch):
    import comfy.model_management

    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(wildcards / "pipe.txt")
    place = {"a pipe": tmp_path / "pipe.txt", "a folder with a pipe": tmp_path}.get(given, given)
    if given == "/":
        threading.Timer(0.3, comfy.model_management.interrupt_current_processing).start()
    began = time.monotonic()
    result = run_graph(prompts("{a|b}", str(place)))
    assert not result.success and time.monotonic() - began < 10
    if given != "/":
        assert "Name a file or a folder: a pipe" in result.error or "Put prompt files into the folder" in result.error


@pytest.mark.parametrize("name", ["caf\udce9.txt", "\udce9/a.txt"])
@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are of Linux")
def test_names_that_are_not_utf8_are_read_and_can_be_told(run_graph, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a red apple\n")
    assert texts(run_graph(prompts(file=str(tmp_path)))) == ["a red apple"]
    (tmp_path / name).write_bytes(b"\xff")
    result = run_graph(prompts(file=str(tmp_path)))
    assert "is not UTF-8 text" in result.error
    f"{result.error}{result.events}".encode()


@pytest.mark.parametrize(
    "inputs",
    [
        {"file": "/tmp/\ud800.txt"},
        {"file": "a\0b.txt"},
        {"file": "x" * 5000},
        {"file": "x/" * 3000},
        {"file": "emoji_names.txt", "column": "\udfff"},
        {"text": "half \ud83d"},
        {"text": "{a|b} \ud83d"},
        {"text": "__\ud83d__"},
        {"text": "{a|b}", "wildcards": "\ud800"},
    ],
)
def test_what_can_not_be_encoded_is_told_in_what_can(run_graph, inputs):
    result = run_graph(prompts(**{"text": "", **inputs}))
    if "column" not in inputs:
        assert not result.success and result.error
    f"{result.error}{result.events}{result.outputs}".encode()


def test_quoted_paths_and_backslashes_are_read(run_graph, comfyui, tmp_path):
    folder = comfyui.base_directory / "input" / "lists"
    (folder / "words").mkdir(parents=True)
    (folder / "a.txt").write_text("a __colour__\n")
    (folder / "words" / "colour.txt").write_text("red\n")
    try:
        assert texts(run_graph(prompts(file='"lists/a.txt"', wildcards="'lists/words'"))) == ["a red"]
        assert texts(run_graph(prompts(file=f'"{folder / "a.txt"}"', wildcards=f'"{folder / "words"}"'))) == ["a red"]
        assert texts(run_graph(prompts(file=r"lists\a.txt", wildcards=r"lists\words"))) == ["a red"]
    finally:
        shutil.rmtree(folder)
