"""A ComfyUI of our own for the length of a `with`: started on a free port, never modified, always ended."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..words import unquoted
from . import Died, HeadlessError, keeper
from .kept import STOP_GRACE_S, exit_code, kept, start
from .ranks import Rank, device_of

PACK = Path(__file__).resolve().parents[2]
# Custom nodes of the user's are loaded too, and a cold disk with many of them takes minutes.
START_LIMIT_S = 300.0
START_NEWS_S = 5.0
# How long an interrupted node may take to save what it has.
SAVE_GRACE_S = 60.0
LOG_TAIL_LINES = 25
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # newer versions write them into files as well


@dataclass(frozen=True)
class Host:
    """A running ComfyUI: its address, the folders it works in, and its keeper with the folder that both write into."""

    url: str
    base_directory: Path
    output_directory: Path
    scratch: Path
    keeper: subprocess.Popen

    def log_tail(self) -> str:
        """The last lines of its log, indented for use inside an error message."""
        return tail(self.scratch / keeper.LOG)

    def check(self, doing: str) -> None:
        """Raise Died with the end of its log where it has ended. doing: "while …", for the message."""
        code = exit_code(self.scratch)
        if code is None and self.keeper.poll() is None:
            return
        ended = "its keeper was killed" if code is None else f"it ended with code {code}"
        raise Died(f"Look into ComfyUI's log, of which this is the end: {ended} {doing}.\n{self.log_tail()}")


def tail(log: Path) -> str:
    """The last lines of a log, indented for use inside an error message."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = COLOUR.sub("", text).splitlines()
    return "\n".join(f"  | {line}" for line in lines[-LOG_TAIL_LINES:])


def find_comfyui(given: Path | None) -> Path:
    """The ComfyUI to start: the given one, else COMFYUI_PATH, else the one in whose custom_nodes the pack lies."""
    if given is None and os.environ.get("COMFYUI_PATH"):
        given = user_path(os.environ["COMFYUI_PATH"])
    if given is None and PACK.parent.name == "custom_nodes":
        given = PACK.parent.parent
    if given is None:
        raise HeadlessError(
            "Give ComfyUI's folder by --comfyui or COMFYUI_PATH, or the address of a running one by --server."
        )
    if not ((given / "main.py").is_file() and (given / "comfy").is_dir()):
        raise HeadlessError(f"Give the folder of a ComfyUI: {given} has no main.py beside a folder comfy.")
    return given.resolve()


def user_path(text: str) -> Path:
    """A path as users write it where no shell has read it: with ~, and in quotes as Windows copies it."""
    return Path(os.path.expanduser(unquoted(text)))


@contextlib.contextmanager
def serve(
    comfyui: Path,
    *,
    base_directory: Path | None = None,
    output_directory: Path | None = None,
    rank: Rank | None = None,
    say: Callable[[str], None] = lambda text: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Host]:
    """Start the ComfyUI in that folder, wait until it answers, and end it when the block is left, however it is.

    Whatever ends this process, also by SIGKILL, ends that ComfyUI and all it has started, and removes its scratch
    folder; a graph that it is running is interrupted and may save. say: told now and then that it is still starting.
    check: raises what is to end the wait for it. rank: where it is one of many, which has a GPU for itself.
    """
    base = (base_directory or comfyui).resolve()
    output = (output_directory or base / "output").resolve()
    custom_nodes = base / "custom_nodes"
    if base_directory:
        custom_nodes.mkdir(parents=True, exist_ok=True)
    device, variables = _device(rank)
    # The log is read as UTF-8; a Windows console page could not even hold some of ComfyUI's messages.
    variables["PYTHONIOENCODING"] = "utf-8"
    prefix = rank.scratch_prefix() if rank else "sid-"
    if rank:
        _await_end_of_earlier(prefix, check)
    with kept(prefix) as (scratch, process):
        port = _free_port(rank)
        arguments = ["--port", str(port), "--disable-api-nodes", "--output-directory", str(output), *device]
        if base_directory:
            arguments += ["--base-directory", str(base)]
        arguments += _kept_apart(scratch)
        if not _holds_pack(custom_nodes):
            arguments += ["--extra-model-paths-config", str(_expose_pack(scratch))]
        host = Host(f"http://127.0.0.1:{port}", base, output, scratch, process)
        command = [sys.executable, "main.py", *arguments]
        start(process, command, str(comfyui), variables=variables, url=host.url, save_s=SAVE_GRACE_S)
        _wait_until_ready(host, say, check)
        yield host


def _await_end_of_earlier(prefix: str, check: Callable[[], None]) -> None:
    """Wait for the ComfyUI that this rank had in an earlier attempt, which may be saving and holds the GPU."""
    began = time.monotonic()
    while time.monotonic() < began + SAVE_GRACE_S + 2 * STOP_GRACE_S:
        if not any(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
            return
        check()
        time.sleep(0.1)


def _free_port(rank: Rank | None) -> int:
    """A port that nothing listens on. Those of ranks that look for one at the same time are never the same, nor is it
    the one that the ranks will meet at."""
    count, number = (rank.local_count, rank.local_number) if rank else (1, 0)
    with contextlib.ExitStack() as stack:
        while True:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            if port % count == number and str(port) != os.environ.get("MASTER_PORT"):
                return port


def _kept_apart(scratch: Path) -> list[str]:
    """Folders and database of its own: a start wipes temp/ and locks the database a running ComfyUI may be using."""
    user = scratch / "user"
    user.mkdir()
    return [
        *("--temp-directory", str(scratch)),
        *("--user-directory", str(user)),
        *("--database-url", "sqlite:///:memory:"),
    ]


def _device(rank: Rank | None) -> tuple[list[str], dict[str, str]]:
    """ComfyUI's arguments and variables for what it is to run on: all that there is, or one GPU for a rank."""
    import torch  # seconds to import, and only needed where a ComfyUI is started

    if not any(device.is_available() for device in (torch.cuda, torch.backends.mps, torch.xpu)):
        # ComfyUI's default attention is several times slower on a CPU.
        return ["--cpu", "--use-pytorch-cross-attention"], {}
    if rank is None:
        return [], {}
    if not torch.cuda.is_available():
        raise HeadlessError("Run the graph in one process: many are for NVIDIA's and AMD's GPUs, or for a CPU alone.")
    return [], device_of(rank, torch.cuda.device_count())


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


def _wait_until_ready(host: Host, say: Callable[[str], None], check: Callable[[], None]) -> None:
    began = said = time.monotonic()
    while not _answers(host.url):
        check()
        try:
            host.check("while it was starting")
        except Died as error:  # it would the next time too
            raise HeadlessError(str(error)) from error
        now = time.monotonic()
        if now > began + START_LIMIT_S:
            raise HeadlessError(
                "Look into ComfyUI's log, of which this is the end: it does not answer "
                f"{START_LIMIT_S:.0f} s after its start.\n{host.log_tail()}"
            )
        if now > said + START_NEWS_S:
            said = now
            say(f"ComfyUI is starting, {now - began:.0f} s so far")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        keeper.ask(f"{url}/prompt")
    except (OSError, ValueError, http.client.HTTPException):  # the last: something else has taken the port
        return False
    return True
