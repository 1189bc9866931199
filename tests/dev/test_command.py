"""dev/command.py: a program ends with the script that has started it, and the script's words fit any console."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from headless_runs import ROOT, wait_until

DEV = ROOT / "dev"
# A program that takes a moment to end, as one that has a ComfyUI to end first.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def end(*_):
    time.sleep(0.3)
    (folder / "ended").touch()
    raise SystemExit(130)
signal.signal(signal.SIGTERM, end)
(folder / "started").touch()
time.sleep(600)
"""
SCRIPT = """
import os, sys
import command
line = [sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1]]
if sys.argv[2] == "run":
    sys.exit(command.run(line, dict(os.environ), "/"))
with command.start(line, dict(os.environ), "/", -1) as process:
    process.stdout.read()
"""


def script(folder: Path, way: str) -> subprocess.Popen:
    line = [sys.executable, "-c", SCRIPT, str(folder), way]
    environment = os.environ | {"PROGRAM": PROGRAM, "PYTHONPATH": str(DEV)}
    return subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")
@pytest.mark.parametrize("way", ["run", "start"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL"])
def test_a_script_that_is_ended_ends_its_program(tmp_path, number, way):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = script(tmp_path, way)
    signal.signal(signal.SIGINT, before)
    wait_until(lambda: (tmp_path / "started").exists())
    process.send_signal(getattr(signal, number))
    code = process.wait(20)
    if way == "run" and number in ("SIGINT", "SIGTERM", "SIGHUP"):
        assert code == 130  # the program's own
    wait_until(lambda: (tmp_path / "ended").exists())
    wait_until(lambda: not [line for line in command_lines() if str(tmp_path) in line])


def command_lines() -> list[list[str]]:
    return [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]


@pytest.mark.parametrize("ending", ["", ">&-", "> /dev/full", "| true"])
@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
def test_a_script_says_what_it_can_on_any_console(ending):
    program = "import command; [command.say('∅ é') for _ in range(3)]"
    line = f"'{sys.executable}' -c \"{program}\" {ending}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(DEV), "PYTHONIOENCODING": "cp1252"}
    result = subprocess.run(["bash", "-c", line], env=environment, capture_output=True)
    assert result.returncode == 0
    assert result.stderr == b""
    assert result.stdout == (3 * b"\\u2205 \xe9\n" if ending == "" else b"")
