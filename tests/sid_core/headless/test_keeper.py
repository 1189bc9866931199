"""Whatever ends the client, at whatever moment: nothing that it has started is left."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from headless_runs import IMAGE, SAVE, Started, started, wait_until

from sid_pack.sid_core.headless import HeadlessError, host

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGKILL]
FAKES = Path(__file__).parents[2] / "fakes"


@pytest.fixture
def ctrl_c():
    """Ctrl+C reaches what a test starts. In a shell's background job it is ignored, and that would be inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A main.py that does to processes what a real ComfyUI does: see tests/fakes/comfyui_main.py."""
    folder, modules = tmp_path / "comfyui", tmp_path / "modules"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text((FAKES / "comfyui_main.py").read_text(encoding="utf-8"), encoding="utf-8")
    # The client asks torch for a device. Loading the real one, by twenty clients, would take most of these tests' time.
    modules.mkdir()
    none = "type('Device', (), {'is_available': staticmethod(lambda: False)})"
    (modules / "torch.py").write_text(
        f"cuda = xpu = {none}\nbackends = type('B', (), {{'mps': cuda}})", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(modules))
    return folder


def is_starting(run: Started) -> bool:
    return bool(list(run.temporary.glob("sid-*/child")))


def is_ready(run: Started) -> bool:
    return bool(list(run.temporary.glob("sid-*/ready")))


def is_running(run: Started) -> bool:
    return "node 1 (EmptyImage)" in run.said()


def is_ending(run: Started) -> bool:
    return bool(list(run.temporary.glob("sid-*/ending")))


@pytest.mark.parametrize("moment", [is_starting, is_ready, is_running, is_ending])
def test_a_client_that_is_ended_by_any_signal_leaves_nothing(stand_in, tmp_path, ctrl_c, moment):
    with contextlib.ExitStack() as stack:
        runs = {}
        for number in SIGNALS:
            (tmp_path / number.name).mkdir()
            runs[number] = stack.enter_context(started(tmp_path / number.name, stand_in, {"1": IMAGE, "2": SAVE}))
        for number, run in runs.items():
            if moment is is_ending:
                wait_until(lambda run=run: is_running(run))
                run.client.send_signal(signal.SIGINT)
            wait_until(lambda run=run: moment(run))
            run.client.send_signal(number)
        for run in runs.values():
            run.leaves_nothing()
            assert "Traceback" not in run.said()
            (port,) = (int(file.read_text(encoding="utf-8")) for file in run.base.glob("port"))
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0
            if moment is is_running:
                assert (run.base / "saved").exists()


def test_a_client_that_is_killed_while_it_prepares_leaves_nothing(stand_in, tmp_path):
    for number, seconds in enumerate((0.05, 0.15, 0.25, 0.35, 0.5)):
        (tmp_path / str(number)).mkdir()
        with started(tmp_path / str(number), stand_in, {"1": IMAGE, "2": SAVE}) as run:
            time.sleep(seconds)
            run.client.kill()
            run.leaves_nothing()


def test_a_killed_keeper_is_told_and_leaves_nothing(stand_in, tmp_path):
    with started(tmp_path, stand_in, {"1": IMAGE, "2": SAVE}) as run:
        wait_until(lambda: is_running(run))
        keeper_of(run).kill()
        assert run.client.wait(20) == 1
        assert "its keeper was killed while running node 1" in run.said()
        run.leaves_nothing()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process can't ask to end with its parent")
def test_where_client_and_keeper_are_killed_at_once_comfyui_ends_too(stand_in, tmp_path):
    with started(tmp_path, stand_in, {"1": IMAGE, "2": SAVE}) as run:
        wait_until(lambda: is_running(run))
        (comfyui,) = keeper_of(run).children()
        for process in (keeper_of(run), psutil.Process(run.client.pid)):
            process.suspend()
        for process in (psutil.Process(run.client.pid), comfyui.parent()):
            process.kill()
        wait_until(lambda: not comfyui.is_running())
        for process in psutil.process_iter(["cmdline"]):
            if str(run.base) in (process.info["cmdline"] or []):
                process.kill()  # the one that is left then: ComfyUI had started it


def keeper_of(run: Started) -> psutil.Process:
    (keeper,) = psutil.Process(run.client.pid).children()
    assert "keeper.py" in " ".join(keeper.cmdline())
    return keeper


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_real_run_that_is_ended_saves_and_leaves_nothing(comfyui_path, tmp_path, ctrl_c, number):
    nodes = tmp_path / "base" / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / "host_nodes.py").write_text((FAKES / "host_nodes.py").read_text(encoding="utf-8"), encoding="utf-8")
    with started(tmp_path, comfyui_path, {"1": {"class_type": "FakeTraining", "inputs": {"steps": 10_000}}}) as run:
        wait_until(lambda: "FakeTraining" in run.said())
        run.client.send_signal(number)
        assert run.client.wait(60) == (-9 if number == signal.SIGKILL else 130), run.said()
        run.leaves_nothing()
        assert (run.base / "output" / "saved.txt").read_text(encoding="utf-8") == "saved"
        assert "Traceback" not in run.said()


def test_a_real_comfyui_that_dies_is_told_at_once_with_its_log(comfyui_path, tmp_path):
    nodes = tmp_path / "base" / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / "host_nodes.py").write_text((FAKES / "host_nodes.py").read_text(encoding="utf-8"), encoding="utf-8")
    with started(tmp_path, comfyui_path, {"1": {"class_type": "FakeTraining", "inputs": {"steps": 10_000}}}) as run:
        wait_until(lambda: "FakeTraining" in run.said())
        (process_id,) = run.temporary.glob("sid-*/process_id")
        os.kill(int(process_id.read_text(encoding="utf-8")), signal.SIGKILL)
        assert run.client.wait(5) == 1
        assert "it ended with code -9 while running node 1 (FakeTraining)" in run.said()
        log = [line for line in run.said().splitlines() if line.startswith("  | ")]
        assert any(line.endswith("got prompt") for line in log)
        assert "\\x1b" not in run.said()
        run.leaves_nothing()


def test_a_comfyui_that_dies_while_starting_shows_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no such GPU')", encoding="utf-8")
    with (
        pytest.raises(HeadlessError, match="ended with code 1 while it was starting.\n  \\| no such GPU"),
        host.serve(tmp_path),
    ):
        pass


def test_a_command_without_a_scratch_folder_gives_its_output_and_exit_code():
    order = (
        b'{"scratch": null}\n{"command": ["%s", "-c", "print(5); raise SystemExit(7)"], "folder": "/", "url": null}\n'
    )
    keeper = host.keeper.__file__
    with subprocess.Popen([sys.executable, keeper], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(order.replace(b"%s", sys.executable.encode()))
        process.stdin.flush()
        assert process.stdout.read() == b"5\n"
        assert process.wait(10) == 7
