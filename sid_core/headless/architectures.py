"""What a ComfyUI knows of a network, asked from outside of it.

The maps between diffusers' names and ComfyUI's are ComfyUI's own, of each version, and importing it takes a process of
its own: it reads the command line, looks for a GPU, and stays. So a small program of the pack runs once in ComfyUI's
Python, with the shapes as its input. A whole server, as `run` starts, would load all custom nodes for that.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..convert.architecture import Architecture, Shape
from . import HeadlessError
from .host import LOG_TAIL_LINES, PACK

PROGRAM = PACK / "nodes" / "host" / "network_names_program.py"
LIMIT_S = 300.0  # a cold disk and a slow machine: it takes seconds


def architecture_of(comfyui: Path, shapes: Mapping[str, Shape]) -> Architecture | None:
    """The network that ComfyUI takes these weights for; None where it knows none. comfyui: its folder.

    Raises HeadlessError where that ComfyUI can't be asked.
    """
    line = [sys.executable, str(PROGRAM), str(comfyui)]
    asked = json.dumps({name: list(shape) for name, shape in shapes.items()})
    try:
        done = subprocess.run(
            line, input=asked, capture_output=True, encoding="utf-8", errors="replace", timeout=LIMIT_S
        )
        answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise HeadlessError(f"Start that ComfyUI once and see that it works: it can't be asked ({error}).") from error
    if done.returncode:
        tail = "\n".join(f"  | {line}" for line in done.stderr.splitlines()[-LOG_TAIL_LINES:])
        raise HeadlessError(f"Start that ComfyUI once and see that it works: this came of asking it.\n{tail}")
    return Architecture.of(answer) if answer else None
