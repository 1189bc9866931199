"""The headless client's command line: which ComfyUI, whole runs in a real one, and what goes wrong in words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from headless_runs import IMAGE, ROOT, SAVE, processes_in, run

from sid_pack.sid_core.headless import HeadlessError, command, host


def test_without_a_comfyui_the_ways_to_name_one_are_listed(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(host, "PACK", tmp_path / "comfyui-sid")
    with pytest.raises(HeadlessError, match="--comfyui or COMFYUI_PATH.*--server"):
        host.find_comfyui(None)
    with pytest.raises(HeadlessError, match="has no main.py"):
        host.find_comfyui(tmp_path)


def comfyui_in(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def test_the_comfyui_that_holds_the_pack_is_found(monkeypatch, tmp_path):
    comfyui_in(tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(host, "PACK", tmp_path / "custom_nodes" / "comfyui-sid")
    assert host.find_comfyui(None) == tmp_path.resolve()


@pytest.mark.parametrize("written", ["~/my comfyui", '"~/my comfyui"', " '~/my comfyui' "])
def test_a_comfyui_is_found_by_a_path_that_no_shell_has_read(monkeypatch, tmp_path, written):
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PATH", written)
    folder = comfyui_in(tmp_path / "my comfyui").resolve()
    assert host.find_comfyui(None) == folder
    options = command.parse(["run", "~/g.json", f"--comfyui={written}", "--base-directory=~/b"])
    assert options.comfyui == tmp_path / "my comfyui"
    assert (options.graph, options.base_directory) == (tmp_path / "g.json", tmp_path / "b")


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "host:port", "host:99999", "", "http://a..b", f"http://{'a' * 70}"]
)
def test_an_address_that_is_none_is_refused(url, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["run", "graph.json", "--server", url])
    assert ended.value.code == 2
    assert "give an address such as http://127.0.0.1:8188" in capsys.readouterr().err


def test_the_pack_is_copied_where_links_are_not_allowed(monkeypatch, tmp_path):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    host.link_or_copy_pack(tmp_path / "pack")
    assert (tmp_path / "pack" / "__init__.py").is_file()
    assert not (tmp_path / "pack" / ".git").exists()


def test_a_graph_runs_in_a_comfyui_of_its_own(comfyui_path, tmp_path):
    base = tmp_path / "base"
    graph = {"1": IMAGE, "2": SAVE | {"_meta": {"title": "Keep"}}}
    options = ["--comfyui", str(comfyui_path), "--base-directory", str(base), "--set", "Keep.filename_prefix=sub/set"]
    result = run(graph, tmp_path, *options)
    assert result.returncode == 0, result.stderr
    file = base / "output" / "sub" / "set_00001_.png"
    assert file.is_file()
    assert f"wrote {file}\n" in result.stdout
    assert "node 1 (EmptyImage)\nnode 2 (Keep)\n" in result.stdout
    assert processes_in(base) == []


@pytest.mark.parametrize("program", ["sid_core", "sid_core/__main__.py"])
def test_a_python_without_folders_to_look_in_runs_it_from_anywhere(comfyui_server, tmp_path, program):
    """As the one that comes with ComfyUI portable: its ._pth file isolates it as -I does."""
    graph = tmp_path / "graph.json"
    graph.write_text('{"1": {"class_type": "FakeTraining", "inputs": {"steps": 2}}}', encoding="utf-8")
    line = [sys.executable, "-I", str(ROOT / program), "run", graph.name, "--server", comfyui_server.url]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "done in" in result.stdout


def test_a_running_comfyui_is_used_and_left_running(comfyui_server, tmp_path):
    result = run({"1": IMAGE, "2": SAVE}, tmp_path, "--server", comfyui_server.url)
    assert result.returncode == 0, result.stderr
    assert f"wrote {comfyui_server.url}/view?filename=plain_0000" in result.stdout
    assert processes_in(comfyui_server.base_directory) != []


def test_progress_and_text_of_a_node_are_shown(comfyui_server, tmp_path):
    graph = {"1": {"class_type": "FakeTraining", "inputs": {"steps": 4}}}
    result = run(graph, tmp_path, "--server", comfyui_server.url)
    assert result.returncode == 0, result.stderr
    assert f"node 1 (FakeTraining) [{24 * '#'}] 4/4 loss 0.250\n" in result.stdout


def test_values_are_set_by_the_types_that_the_server_states(comfyui_server, tmp_path):
    """Text that looks like JSON reaches the node as text, and a flag as a flag: the node raises what it was given."""
    graph = {"1": {"class_type": "FakeFailure", "inputs": {"message": ""}}}
    result = run(graph, tmp_path, "--server", comfyui_server.url, "--set", "FakeFailure.message=1e5")
    assert result.stderr == "error: node 1 (FakeFailure), class FakeFailure: ValueError: 1e5\n"
    options = ["--server", comfyui_server.url, "--set", "2.images=x"]
    result = run({"1": IMAGE, "2": SAVE}, tmp_path, *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: Change it in the editor or in the file: --set 2.images can't, as it takes IMAGE.\n"


@pytest.mark.parametrize(
    ("graph", "messages"),
    [
        (
            {"1": IMAGE | {"inputs": IMAGE["inputs"] | {"width": 0}}, "2": SAVE},
            ["ComfyUI refused", "node 1 (EmptyImage), input width: Value 0 smaller than min of 1"],
        ),
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, ["ComfyUI refused", "NoSuchNode"]),
        (
            {"1": {"class_type": "FakeFailure", "inputs": {"message": "the prompts are empty"}}},
            ["node 1 (FakeFailure), class FakeFailure: ValueError: the prompts are empty"],
        ),
        (
            # ComfyUI would run output 2 and say nothing of output 4 but in its log.
            {"1": IMAGE, "2": SAVE, "4": SAVE | {"inputs": {"images": ["1", 0]}}},
            ["some of its outputs are not valid", "node 4 (SaveImage), input filename_prefix"],
        ),
    ],
    ids=["bad input", "unknown class", "failing node", "one bad output"],
)
def test_a_graph_that_fails_ends_with_the_reason(comfyui_server, tmp_path, graph, messages):
    result = run(graph, tmp_path, "--server", comfyui_server.url)
    assert result.returncode == 1
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_is_not_there_is_said_so(tmp_path):
    result = run({"1": IMAGE, "2": SAVE}, tmp_path, "--server", "127.0.0.1:9")
    assert result.returncode == 1
    assert "Start ComfyUI, or give its address by --server: nothing answers at http://127.0.0.1:9" in result.stderr
