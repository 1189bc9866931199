"""`python -m sid_core run`: naming and setting inputs, what goes wrong in words, and whole runs in a real ComfyUI."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sid_pack.sid_core.headless import HeadlessError, host
from sid_pack.sid_core.headless.client import Progress, refusal
from sid_pack.sid_core.headless.console import Console, describe
from sid_pack.sid_core.headless.graph import apply_setting, parse_value, read_graph, title

ROOT = Path(__file__).resolve().parents[3]

IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 255}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain"}}


def prompts() -> dict[str, Any]:
    return {
        "3": {"class_type": "KSampler", "inputs": {"seed": 0, "model": ["4", 0], "a.b": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Positive v1.5"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Negative"}},
    }


@pytest.mark.parametrize(
    ("setting", "node_id", "name", "value"),
    [
        ("3.seed=7", "3", "seed", 7),
        ("KSampler.seed=7", "3", "seed", 7),
        ("Negative.text=a=b", "7", "text", "a=b"),
        ("Positive v1.5.text=a red fox", "6", "text", "a red fox"),
        ("3.a.b=2.5", "3", "a.b", 2.5),
        ("6.text=", "6", "text", ""),
    ],
)
def test_a_setting_names_its_node_by_id_title_or_class(setting, node_id, name, value):
    graph = prompts()
    apply_setting(graph, setting)
    assert graph[node_id]["inputs"][name] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ('["4", 0]', ["4", 0]),
        ('"4"', "4"),
        ("1e-3", 0.001),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("{", "{"),
    ],
)
def test_a_value_is_json_or_else_text(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=1", "expected NODE.INPUT=VALUE"),
        ("3.seed", "expected NODE.INPUT=VALUE"),
        ("8.seed=1", "no such node. It has:\n  node 3 (KSampler)\n  node 6 (Positive v1.5)"),
        ("3.steps=1", r"has no input 'steps'. It has: seed, model, a.b"),
        ("CLIPTextEncode.text=x", "several nodes answer to that name; use one of the ids 6, 7"),
    ],
)
def test_a_setting_that_fits_nothing_says_what_there_is(setting, message):
    with pytest.raises(HeadlessError) as error:
        apply_setting(prompts(), setting)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not a graph in API format"),
        ("{}", "not a graph in API format"),
        ('{"1": {"class_type": "X"}}', "not a graph in API format"),
        ('{"nodes": [], "links": []}', "Export (API)"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path, content, message):
    file = tmp_path / "graph.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(HeadlessError) as error:
        read_graph(file)
    assert message in str(error.value)


def test_a_refusal_names_every_node_and_input():
    answer = {
        "error": {"message": "Prompt outputs failed validation", "details": "repeated below"},
        "node_errors": {
            "3": {"errors": [{"message": "Too small", "details": "-1", "extra_info": {"input_name": "seed"}}]},
            "6": {"errors": [{"message": "Exception when validating node", "details": "oops", "extra_info": {}}]},
        },
    }
    assert refusal(prompts(), answer).splitlines() == [
        "ComfyUI refused the graph: Prompt outputs failed validation",
        "  node 3 (KSampler), input seed: Too small: -1",
        "  node 6 (Positive v1.5): Exception when validating node: oops",
    ]


def test_a_node_outside_the_file_still_has_a_name():
    assert title(prompts(), "3:0:1") == "node 3:0:1"


def test_progress_is_one_line():
    assert describe(Progress("node 3", 1, 4, "loss 0.5\nETA 3 s")) == f"node 3 [######{18 * '-'}] 1/4 loss 0.5 ETA 3 s"
    assert describe(Progress("node 3")) == "node 3"


def test_a_log_holds_each_node_s_first_and_last_state():
    stream = io.StringIO()
    with Console(stream) as console:
        for step in range(100):
            console.show(Progress("node 3", step, 100))
        console.show(Progress("node 4"))
        console.line("done")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["0/100", "99/100", "4", "done"]


def test_without_a_comfyui_the_ways_to_name_one_are_listed(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(host, "PACK", tmp_path / "comfyui-sid")
    with pytest.raises(HeadlessError, match="--comfyui or COMFYUI_PATH.*--server"):
        host.find_comfyui(None)
    with pytest.raises(HeadlessError, match="is no ComfyUI"):
        host.find_comfyui(tmp_path)


def test_the_comfyui_that_holds_the_pack_is_found(monkeypatch, tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(host, "PACK", tmp_path / "custom_nodes" / "comfyui-sid")
    assert host.find_comfyui(None) == tmp_path.resolve()


def test_a_comfyui_that_dies_while_starting_shows_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no such GPU')", encoding="utf-8")
    with (
        pytest.raises(HeadlessError, match="ended with code 1 while starting:\n  \\| no such GPU"),
        host.serve(tmp_path),
    ):
        pass


def test_the_pack_is_copied_where_links_are_not_allowed(monkeypatch, tmp_path):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    host.link_or_copy_pack(tmp_path / "pack")
    assert (tmp_path / "pack" / "__init__.py").is_file()
    assert not (tmp_path / "pack" / ".git").exists()


def command(graph: dict[str, Any], folder: Path, *options: str) -> list[str]:
    file = folder / "graph.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    return [sys.executable, "-m", "sid_core", "run", str(file), *options]


def run(graph: dict[str, Any], folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(graph, folder, *options), cwd=ROOT, capture_output=True, text=True, timeout=300)


def processes_in(folder: Path) -> list[list[str]]:
    """Command lines of running processes that name the folder."""
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if any(str(folder) in part for part in line)]


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


def test_a_running_comfyui_is_used_and_left_running(comfyui_server, tmp_path):
    result = run({"1": IMAGE, "2": SAVE}, tmp_path, "--server", comfyui_server.url)
    assert result.returncode == 0, result.stderr
    assert f"wrote {comfyui_server.url}/view?filename=plain_00001_.png" in result.stdout
    assert processes_in(comfyui_server.base_directory) != []


def test_progress_and_text_of_a_node_are_shown(comfyui_server, tmp_path):
    graph = {"1": {"class_type": "FakeTraining", "inputs": {"steps": 4}}}
    result = run(graph, tmp_path, "--server", comfyui_server.url)
    assert result.returncode == 0, result.stderr
    assert f"node 1 (FakeTraining) [{24 * '#'}] 4/4 loss 0.250\n" in result.stdout


@pytest.mark.parametrize(
    ("graph", "messages"),
    [
        (
            {"1": IMAGE | {"inputs": IMAGE["inputs"] | {"width": 0}}, "2": SAVE},
            ["refused the graph", "node 1 (EmptyImage), input width: Value 0 smaller than min of 1"],
        ),
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, ["refused the graph", "NoSuchNode"]),
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
    assert "no ComfyUI answers at http://127.0.0.1:9" in result.stderr


@pytest.fixture
def ctrl_c():
    """Ctrl+C reaches what a test starts. In a shell's background job it is ignored, and that would be inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_lets_the_node_save_and_leaves_nothing_running(comfyui_path, tmp_path, ctrl_c, number):
    base = tmp_path / "base"
    (base / "custom_nodes").mkdir(parents=True)
    nodes = Path(__file__).parents[2] / "fakes" / "host_nodes.py"
    (base / "custom_nodes" / nodes.name).write_text(nodes.read_text(encoding="utf-8"), encoding="utf-8")
    (base / "output").mkdir()
    graph = {"1": {"class_type": "FakeTraining", "inputs": {"steps": 10_000}}}
    line = command(graph, tmp_path, "--comfyui", str(comfyui_path), "--base-directory", str(base))
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for shown in process.stdout:
        if "FakeTraining" in shown:
            break
    time.sleep(0.5)
    process.send_signal(number)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 130, rest
    assert (base / "output" / "saved.txt").read_text(encoding="utf-8") == "saved"
    assert "Traceback" not in rest
    assert processes_in(base) == []
