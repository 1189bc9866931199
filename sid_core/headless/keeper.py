"""Keeps a command from outliving its parent: `python keeper.py`, told what to do by lines on its standard input.

Nobody can catch SIGKILL, so a program can't promise to end what it has started. This process can: its standard input is
a pipe whose write end only the parent has, and whatever ends the parent closes that. The lines are JSON:

1. {"scratch": FOLDER or null}, a folder to remove at the end, named before it is made.
2. {"command": [...], "folder": ..., "url": ..., "save_s": ..., "end_s": ...}, what to start, and where. "variables"
   may hold more of its environment; with "shows", only its errors go into the log.
3. Any further line asks the command to end, as SIGTERM would. Without one, the end of the input means that the parent
   has died, and a ComfyUI at `url` is first interrupted and given `save_s` seconds to save what it is running.

With a scratch folder, the command's output goes into a log there, its process id and exit code into files beside it,
and all of it stays until the input ends; this process then exits with 0. Without one, the command writes where this
process does, and this process ends when the command does, with its exit code. It stands alone: it starts at once.
"""

import contextlib
import ctypes
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from io import RawIOBase
from pathlib import Path
from typing import Any

LOG, PROCESS_ID, EXIT_CODE = "comfyui.log", "process_id", "exit_code"
ASKED_TO_END, PARENT_GONE, COMMAND_ENDED = "asked to end", "parent gone", "command ended"
NOT_STARTED = 127  # what shells report for a command that could not be started
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Keep one command until it, or the parent, has ended."""
    events: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: events.put(PARENT_GONE))
    # Without a buffer, whose lock the listening thread would hold when this process exits.
    orders = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115
    scratch = json.loads(orders.readline() or b"{}").get("scratch")
    try:
        order = orders.readline()
        return keep(json.loads(order), Path(scratch) if scratch else None, orders, events) if order else 0
    finally:
        if scratch:
            remove(Path(scratch))


def keep(order: dict[str, Any], scratch: Path | None, orders: RawIOBase, events: "queue.SimpleQueue[str]") -> int:
    """Start the command, see to it that it ends, and return its exit code."""
    try:
        process = start(order, scratch)
    except OSError as error:
        if scratch is None:
            raise
        (scratch / LOG).write_text(f"{order['command'][0]} could not be started: {error}", encoding="utf-8")
        (scratch / EXIT_CODE).write_text(str(NOT_STARTED), encoding="utf-8")
        orders.read()
        return 0
    threading.Thread(target=listen, args=(orders, events), daemon=True).start()
    waiting = threading.Thread(target=await_end, args=(process, scratch, events), daemon=True)
    waiting.start()
    event = events.get()
    if event == PARENT_GONE and order["url"]:
        let_it_save(process, order["url"], order["save_s"])
    if event != COMMAND_ENDED:
        ask_to_end(process)
        ended_in_time(process, events, order["end_s"])
    kill_group(process.pid)
    waiting.join()
    if scratch:
        # The log is the parent's to read until it says that it is done.
        while event == COMMAND_ENDED:
            event = events.get()
        return 0
    return exit_code(process.returncode)


def exit_code(code: int) -> int:
    """As shells report it: 128 more than the signal that ended it."""
    return code if code >= 0 else 128 - code


def start(order: dict[str, Any], scratch: Path | None) -> subprocess.Popen:
    """Start the command in a group of its own: the console's Ctrl-C is the parent's, and it can be ended as a whole."""
    log = (scratch / LOG).open("wb") if scratch else None
    if os.name == "nt":
        apart: dict[str, Any] = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        apart = {"start_new_session": True, "preexec_fn": end_with_this_process()}
    process = subprocess.Popen(
        order["command"],
        cwd=order["folder"],
        env=os.environ | order.get("variables", {}),
        stdin=subprocess.DEVNULL,
        stdout=None if order.get("shows") else log,
        stderr=log,
        **apart,
    )
    if scratch and log:
        log.close()
        (scratch / PROCESS_ID).write_text(str(process.pid), encoding="utf-8")
    return process


def end_with_this_process() -> Any:
    """What the new process does first, on Linux: ask for SIGTERM should this one be killed. None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def listen(orders: RawIOBase, events: "queue.SimpleQueue[str]") -> None:
    """Turn the rest of the input into events."""
    for _line in orders:
        events.put(ASKED_TO_END)
    events.put(PARENT_GONE)


def await_end(process: subprocess.Popen, scratch: Path | None, events: "queue.SimpleQueue[str]") -> None:
    code = process.wait()
    if scratch:
        (scratch / EXIT_CODE).write_text(str(code), encoding="utf-8")
    events.put(COMMAND_ENDED)


def let_it_save(process: subprocess.Popen, url: str, limit_s: float) -> None:
    """Interrupt what a ComfyUI is running, and wait until it has nothing left to run."""
    deadline = time.monotonic() + limit_s
    # One that is still starting, or hangs, has nothing to save.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        ask(f"{url}/queue", {"clear": True})
        ask(f"{url}/interrupt", {})
        while process.poll() is None and time.monotonic() < deadline:
            if json.loads(ask(f"{url}/prompt"))["exec_info"]["queue_remaining"] == 0:
                return
            time.sleep(0.2)


def ask(url: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    # A proxy of the user's must not be asked for an address on this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=10) as answer:
        return answer.read()


def ask_to_end(process: subprocess.Popen) -> None:
    """SIGTERM, or the nearest that Windows has, to the command alone: it may have processes of its own to end."""
    with contextlib.suppress(OSError):
        if os.name == "nt":
            os.kill(process.pid, signal.CTRL_BREAK_EVENT)
        else:
            process.terminate()


def ended_in_time(process: subprocess.Popen, events: "queue.SimpleQueue[str]", limit_s: float) -> None:
    """Wait for the end, and pass on what else is asked meanwhile, such as a second Ctrl-C."""
    deadline = time.monotonic() + limit_s
    event = ""
    while event != COMMAND_ENDED:
        try:
            event = events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return
        if event == ASKED_TO_END:
            ask_to_end(process)


def kill_group(leader: int) -> None:
    """Kill the command and what it has started, also where the command itself has ended already."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(leader)], capture_output=True, check=False)
        return
    # macOS answers EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def remove(folder: Path) -> None:
    """Remove the folder. Windows lets go of a killed process's files a moment later."""
    for _attempt in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
