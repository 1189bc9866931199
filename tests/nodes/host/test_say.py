"""Errors in words: printable, short, with ComfyUI's folders by their names, and on the node as well."""

import json
import sys
import traceback

import pytest
from graphs import distilled


@pytest.fixture
def say(comfyui):
    from sid_pack.nodes.host import say

    return say


def raised(say, error: Exception) -> Exception:
    with pytest.raises(Exception) as caught, say.in_words():  # noqa: PT011  which one it is, is asked
        raise error
    return caught.value


def test_folders_of_comfyui_are_called_as_users_call_them(say):
    import folder_paths

    output, models = folder_paths.get_output_directory(), folder_paths.models_dir
    assert say.shown(f"no {output}/sid_runs/a and no {models}/loras/b") == "no output/sid_runs/a and no models/loras/b"


def test_a_folder_that_is_the_root_is_no_part_of_other_paths(say, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: "/")
    assert say.shown("no /etc/hosts") == "no /etc/hosts"


def test_errors_keep_a_kind_that_comfyui_shows_without_a_path(say):
    from sid_pack.sid_core.files.tensors import NotACheckpointError

    made = {
        NotACheckpointError("Copy it again."): ValueError,
        FileNotFoundError(2, "No such file", "a.txt"): FileNotFoundError,
        PermissionError(13, "Permission denied", "a.txt"): OSError,
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"): ValueError,
        RuntimeError("odd"): RuntimeError,
        ZeroDivisionError("division by zero"): RuntimeError,
    }
    for error, kind in made.items():
        shown = raised(say, error)
        assert type(shown) is kind and str(shown) == str(error)
        places = traceback.extract_tb(shown.__traceback__)
        assert places[-1].line == "raise error"  # where it came from is not lost
    assert str(raised(say, KeyError("weight"))) == "KeyError: 'weight'"
    assert str(raised(say, ValueError())) == "ValueError"


@pytest.mark.parametrize("text", ["/tmp/\ud800.txt", "caf\udce9", "\x1b]0;title\x07", "x" * 10**6])
def test_an_error_can_be_sent_and_written_whatever_it_quotes(say, text):
    shown = str(raised(say, ValueError(text)))
    assert len(shown) <= 2000
    json.dumps(shown, ensure_ascii=False).encode()
    assert "\x1b" not in shown


def test_cancelling_and_a_gpu_without_memory_pass_as_they_are(say):
    import comfy.model_management
    import torch

    for error in (
        comfy.model_management.InterruptProcessingException(),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
    ):
        with pytest.raises(type(error)) as caught, say.in_words():
            raise error
        assert caught.value is error


def test_a_script_without_a_server_is_said_nothing(say, monkeypatch):
    """As the demo's, in whose process ComfyUI 0.3.75's server can't be imported."""
    monkeypatch.delitem(sys.modules, "server")
    say.on_node("text", "1")
    assert "server" not in sys.modules


def test_the_node_itself_says_what_went_wrong(run_graph, monkeypatch, say):
    said = []
    monkeypatch.setattr(say, "on_node", lambda text, node_id=None: said.append(text))
    result = run_graph(distilled(run_name="a/b"))
    assert not result.success
    assert said[-1].startswith("✖ Set run_name to ") and said[-1][2:] in result.error
