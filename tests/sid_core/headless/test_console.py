"""What the client says: on any console, in any encoding, and where nothing can be said at all."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from headless_runs import IMAGE, ROOT, SAVE, run

from sid_pack.sid_core.headless.answers import Progress
from sid_pack.sid_core.headless.console import Console, Output, describe

GRAPH = {"1": IMAGE, "2": SAVE | {"_meta": {"title": "∅-prompt \x1b[31m\ud800"}}}


def test_progress_is_one_line():
    assert describe(Progress("node 3", 1, 4, "loss 0.5\nETA 3 s")) == f"node 3 [######{18 * '-'}] 1/4 loss 0.5 ETA 3 s"
    assert describe(Progress("node 3")) == "node 3"
    assert describe(Progress("node 3", quiet_s=12.3)) == "node 3 (12 s without news)"


def test_a_log_holds_each_node_s_first_and_last_state():
    stream = io.StringIO()
    with Console(Output(stream)) as console:
        for step in range(100):
            console.show(Progress("node 3", step, 100))
        console.show(Progress("node 4"))
        console.line("done")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["0/100", "99/100", "4", "done"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "shift_jis", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    Output(stream).write("∅ ✖ é\n\ud800 \x1b[0m")
    lines = stream.buffer.getvalue().decode(encoding).split("\n")
    assert len(lines) == 3
    assert lines[1] == "\\ud800 \\x1b[0m"
    assert (lines[0] == "∅ ✖ é") == (encoding == "utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full, as Linux has it")
def test_a_stream_that_fails_is_told_once_and_then_left_alone():
    reasons = []
    with open("/dev/full", "w", encoding="utf-8") as full:  # closing it writes what is left in its buffer
        output = Output(full, reasons.append)
        output.write("one")
        output.write("two")
    assert len(reasons) == 1 and "No space left" in reasons[0]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_run_on_a_console_of_another_encoding_goes_to_its_end(comfyui_server, tmp_path, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    # Another prefix, or ComfyUI would have the result at hand and name no node.
    options = ["--server", comfyui_server.url, "--set", f"2.filename_prefix={encoding}"]
    result = run(GRAPH, tmp_path, *options, env=environment, encoding=encoding, text=None)
    assert result.returncode == 0, result.stderr
    assert "node 2 (?-prompt \\x1b[31m\\ud800)" in result.stdout
    assert "wrote http" in result.stdout and result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("| head -1", "standard output can't be written (Broken pipe)"),
        ("| true", "standard output can't be written"),
        ("> /dev/full", "standard output can't be written ([Errno 28]"),
        (">&-", ""),
        (">&- 2>&-", ""),
        ("<&- >&- 2>&-", ""),
        ("> /dev/full 2> /dev/full", ""),
    ],
)
def test_a_run_whose_console_breaks_goes_to_its_end(comfyui_server, tmp_path, ending, said):
    file, name = tmp_path / "graph.json", tmp_path.name
    file.write_text(json.dumps({"1": IMAGE, "2": SAVE | {"inputs": SAVE["inputs"] | {"filename_prefix": name}}}))
    line = f'"{sys.executable}" -m sid_core run "{file}" --server {comfyui_server.url}'
    shell = f"{line} {ending}; echo code ${{PIPESTATUS[0]}} >&3"
    reader, writer = os.pipe()
    shown = subprocess.run(
        ["bash", "-c", f"exec 3>&{writer}; {shell}"], cwd=ROOT, pass_fds=[writer], stderr=subprocess.PIPE, text=True
    ).stderr
    os.close(writer)
    with open(reader, encoding="utf-8") as codes:
        assert codes.read() == "code 0\n", shown
    assert list(comfyui_server.output_directory.glob(f"{name}_*.png"))
    assert "Traceback" not in shown and "Exception ignored" not in shown
    assert said.split("(")[0] in shown and len(shown.splitlines()) <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full, as Linux has it")
def test_help_on_a_full_disk_is_no_traceback():
    with open("/dev/full", "wb") as full:
        line = [sys.executable, "-m", "sid_core", "run", "--help"]
        result = subprocess.run(line, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == 1 and "can't be written" in result.stderr
