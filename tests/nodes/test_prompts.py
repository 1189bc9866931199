import pytest
from graphs import node


def prompts(text: str = "", file: str = "") -> dict:
    return {"prompts": node("SiDPrompts", text=text, file=file), "shown": node("PreviewAny", source=["prompts", 1])}


def test_box_and_file_are_joined_and_repeats_dropped_and_counted(run_graph, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# a comment\n\nein Bär\nred apple\n", encoding="utf-8-sig")
    result = run_graph(prompts("red apple\n  blue sky  \nred apple", str(file)))
    assert result.success, result.error
    assert list(result.value("prompts")) == ["red apple", "blue sky", "ein Bär"]
    assert result.value("prompts", 1) == 3
    assert result.outputs["prompts"]["text"] == ["3 prompts, 2 duplicates dropped"]


def test_the_demos_prompts_are_found_by_name(run_graph):
    result = run_graph(prompts(file="emoji_names.txt"))
    assert result.success, result.error
    assert result.value("prompts", 1) == 1264


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
        (b"\xff\xfe\x00caf\xe9", "not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text"),
        (b"PK\0\0", "not a text file"),
        (b"# only\n\n", "there are no prompts"),
    ],
)
def test_a_file_that_is_no_prompt_list_is_refused(run_graph, tmp_path, content, says):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    result = run_graph(prompts(file=str(file)))
    assert not result.success
    assert says in result.error


def test_a_missing_file_is_named_with_where_it_was_looked_for(run_graph):
    result = run_graph(prompts(file="no/such.txt"))
    assert not result.success
    assert "'no/such.txt'" in result.error and "input" in result.error


def test_no_prompts_at_all(run_graph):
    result = run_graph(prompts("# nothing\n\n"))
    assert not result.success
    assert "there are no prompts" in result.error
