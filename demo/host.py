"""A ComfyUI in this process, for scripts: its modules importable, and this pack loaded as `sid_pack`."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def start_comfyui(path: Path | None = None) -> ModuleType:
    """Make the ComfyUI at `path` (default: COMFYUI_PATH) importable and return the pack as a module.

    Raises FileNotFoundError where no ComfyUI is there.
    """
    path = path or Path(os.environ.get("COMFYUI_PATH", "")).expanduser()
    if not (path / "comfy" / "options.py").is_file():
        raise FileNotFoundError(
            f"Set COMFYUI_PATH to the folder of a ComfyUI, or run this through dev/demo.py: it is {str(path)!r}."
        )
    sys.path.insert(0, str(path))
    arguments, sys.argv = sys.argv, [sys.argv[0], *device_arguments()]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401  (reads sys.argv when first imported)

    sys.argv = arguments
    return load_pack()


def device_arguments() -> list[str]:
    """ComfyUI's command line for this machine: without a GPU its default attention is several times slower."""
    import torch

    return [] if torch.cuda.is_available() else ["--cpu", "--use-pytorch-cross-attention"]


def load_pack() -> ModuleType:
    """Import the pack from its folder, whose name need not be a Python identifier."""
    if "sid_pack" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "sid_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["sid_pack"] = module
        spec.loader.exec_module(module)
    return sys.modules["sid_pack"]
