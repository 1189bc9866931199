"""Lets `python benchmarks/NAME.py` run with any Python: in the project's own environment, made on the first run."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def in_environment(test_tools: bool = False) -> None:
    """Return where this Python has torch and COMFYUI_PATH names a ComfyUI; else run this program there, and exit.

    test_tools: what drives a browser is needed too.
    """
    needed = ("torch", "playwright") if test_tools else ("torch",)
    if os.environ.get("COMFYUI_PATH") and all(map(importlib.util.find_spec, needed)):
        return
    sys.path.insert(0, str(ROOT / "dev"))
    import command
    import environment

    try:
        made = environment.ensure(test_tools)
    except environment.SetupError as error:
        sys.exit(f"error: {error}")
    variables = dict(os.environ, COMFYUI_PATH=str(made.comfyui))
    sys.exit(command.run([str(made.python), *sys.argv], variables, os.getcwd()))
