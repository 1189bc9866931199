"""Running a program as if it were this one: its signals and its exit code."""

from __future__ import annotations

import signal
import subprocess


def run(command: list[str], environment: dict[str, str], folder: str) -> int:
    """Run to the end and return the exit code. Ctrl-C and a termination are the program's to handle."""
    process = subprocess.Popen(command, env=environment, cwd=folder)
    previous = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The console sends it to the program as well, which may have a ComfyUI to end first.
                continue
    finally:
        signal.signal(signal.SIGTERM, previous)
