"""A ComfyUI of our own for the length of a `with`: started on a free port, never modified, always ended."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import HeadlessError

PACK = Path(__file__).resolve().parents[2]
# Custom nodes of the user's are loaded too, and a cold disk with many of them takes minutes.
START_LIMIT_S = 300.0
STOP_GRACE_S = 10.0
LOG_TAIL_LINES = 25


@dataclass(frozen=True)
class Host:
    """A running ComfyUI: its address, the folders it works in, and its log so far."""

    url: str
    base_directory: Path
    output_directory: Path
    log: Path

    def log_tail(self) -> str:
        """The last lines of its log, indented for use inside an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  | {line}" for line in lines[-LOG_TAIL_LINES:])


def find_comfyui(given: Path | None) -> Path:
    """The ComfyUI to start: the given one, else COMFYUI_PATH, else the one in whose custom_nodes the pack lies."""
    if given is None and os.environ.get("COMFYUI_PATH"):
        given = Path(os.environ["COMFYUI_PATH"])
    if given is None and PACK.parent.name == "custom_nodes":
        given = PACK.parent.parent
    if given is None:
        raise HeadlessError("which ComfyUI? Give its folder by --comfyui or COMFYUI_PATH, or a running one by --server")
    if not ((given / "main.py").is_file() and (given / "comfy").is_dir()):
        raise HeadlessError(f"{given} is no ComfyUI: it has no main.py beside a folder comfy")
    return given.resolve()


@contextlib.contextmanager
def serve(comfyui: Path, *, base_directory: Path | None = None, output_directory: Path | None = None) -> Iterator[Host]:
    """Start the ComfyUI in that folder, wait until it answers, and end it when the block is left, however it is."""
    base = (base_directory or comfyui).resolve()
    output = (output_directory or base / "output").resolve()
    custom_nodes = base / "custom_nodes"
    if base_directory:
        custom_nodes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sid-", ignore_cleanup_errors=True) as scratch_name:
        scratch = Path(scratch_name).resolve()
        port = _free_port()
        arguments = ["--port", str(port), "--disable-api-nodes", "--output-directory", str(output)]
        if base_directory:
            arguments += ["--base-directory", str(base)]
        arguments += _kept_apart(scratch) + _device_arguments()
        if not _holds_pack(custom_nodes):
            arguments += ["--extra-model-paths-config", str(_expose_pack(scratch))]
        host = Host(f"http://127.0.0.1:{port}", base, output, scratch / "comfyui.log")
        with host.log.open("wb") as log:
            process = _spawn([sys.executable, "main.py", *arguments], comfyui, log)
        try:
            _wait_until_ready(process, host)
            yield host
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _kept_apart(scratch: Path) -> list[str]:
    """Folders and database of its own: a start wipes temp/ and locks the database a running ComfyUI may be using."""
    user = scratch / "user"
    user.mkdir()
    return [
        *("--temp-directory", str(scratch)),
        *("--user-directory", str(user)),
        *("--database-url", "sqlite:///:memory:"),
    ]


def _device_arguments() -> list[str]:
    import torch  # seconds to import, and only needed where a ComfyUI is started

    if any(device.is_available() for device in (torch.cuda, torch.backends.mps, torch.xpu)):
        return []
    # ComfyUI's default attention is several times slower on a CPU.
    return ["--cpu", "--use-pytorch-cross-attention"]


def _holds_pack(custom_nodes: Path) -> bool:
    return custom_nodes.is_dir() and any(entry.resolve() == PACK for entry in custom_nodes.iterdir())


def _expose_pack(scratch: Path) -> Path:
    """A custom_nodes folder holding nothing but the pack, and the extra_model_paths file that names the folder."""
    custom_nodes = scratch / "custom_nodes"
    custom_nodes.mkdir()
    link_or_copy_pack(custom_nodes / "comfyui-sid")
    config = scratch / "extra_model_paths.yaml"
    # JSON is YAML, and it quotes Windows paths properly.
    config.write_text(json.dumps({"sid": {"custom_nodes": str(custom_nodes)}}), encoding="utf-8")
    return config


def link_or_copy_pack(target: Path) -> None:
    """Make the pack appear at `target`: a link, or a copy where links are not allowed (Windows by default)."""
    try:
        target.symlink_to(PACK, target_is_directory=True)
    except OSError:
        shutil.copytree(PACK, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


def _spawn(command: list[str], folder: Path, log: BinaryIO) -> subprocess.Popen:
    # A group of its own: Ctrl-C in the console reaches us alone, and we end the group with all it started.
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    # The log is read as UTF-8; a Windows console page could not even hold some of ComfyUI's messages.
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **group
    )


def _wait_until_ready(process: subprocess.Popen, host: Host) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not _answers(host.url):
        if process.poll() is not None:
            raise HeadlessError(f"ComfyUI ended with code {process.returncode} while starting:\n{host.log_tail()}")
        if time.monotonic() > deadline:
            raise HeadlessError(f"ComfyUI did not answer within {START_LIMIT_S:.0f} s of its start:\n{host.log_tail()}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    # A proxy of the user's must not be asked for an address on this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{url}/prompt", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen) -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        process.wait()
        return
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_S)
    # Also where the leader is gone already: what it started may live on. macOS answers EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
