"""Running a program that ends with this one, whatever ends this one; and what these scripts say on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A process between, which ends the program when this one has gone, also by SIGKILL. It needs no packages.
KEEPER = ROOT / "sid_core" / "headless" / "keeper.py"
# A program may have a ComfyUI of its own to end first, and that a student to save.
END_LIMIT_S = 90
INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


def run(command: list[str], environment: dict[str, str], folder: str) -> int:
    """Run to the end and return the exit code. Ctrl-C and a termination are passed on, each as a termination."""
    keeper = start(command, environment, folder)

    def pass_on(number: int, frame: object) -> None:
        tell(keeper, {})

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(number, pass_on)
    try:
        while True:
            # Without a limit, Windows would not see Ctrl-C before the end.
            with contextlib.suppress(subprocess.TimeoutExpired):
                return keeper.wait(0.5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(
    command: list[str], environment: dict[str, str], folder: str, output: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGTERM when this process ends, or when the returned one's input is closed.

    The returned process ends with the program, by the same exit code. output: where both write, None for here.
    """
    apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    keeper = subprocess.Popen(
        [sys.executable, "-I", str(KEEPER)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        **apart,
    )
    tell(keeper, {"scratch": None})
    tell(keeper, {"command": command, "folder": folder, "url": None, "end_s": END_LIMIT_S})
    return keeper


def tell(keeper: subprocess.Popen[bytes], order: dict[str, object]) -> None:
    """Send one order; a process that has ended takes none."""
    with contextlib.suppress(OSError):
        keeper.stdin.write(json.dumps(order).encode() + b"\n")
        keeper.stdin.flush()


def say(text: str, stream: object = None) -> None:
    """Print a line at once. What the console's encoding lacks is escaped; a broken console is left alone."""
    stream = stream or sys.stdout
    if stream is None:  # closed
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        # Python writes what is left in the buffer when it exits, and would complain.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def fail(message: str) -> int:
    """Say why nothing was done, and return the exit code for it."""
    say(f"error: {message}", sys.stderr)
    return 1
