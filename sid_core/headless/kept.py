"""A scratch folder and a command in it that end with this process, however that ends: by a keeper, see keeper.py."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from . import keeper

STOP_GRACE_S = 10.0


@contextlib.contextmanager
def kept(prefix: str = "sid-", *, shows: bool = False) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A new folder, and the keeper that will remove it and end what `start` starts. Both are gone after the block.

    shows: what is started may write to this process's standard output.
    """
    # Random, so that the keeper can be told before the folder is there.
    scratch = Path(tempfile.gettempdir()).resolve() / f"{prefix}{uuid.uuid4().hex}"
    # A session of its own: what the console sends is for this process, and the keeper acts when this one ends.
    apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    process = subprocess.Popen(
        [sys.executable, "-I", keeper.__file__],
        stdin=subprocess.PIPE,
        stdout=None if shows else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **apart,
    )
    try:
        _tell(process, {"scratch": str(scratch)})
        scratch.mkdir(mode=0o700)
        yield scratch, process
    finally:
        _end(process, scratch)


def start(
    process: subprocess.Popen,
    command: list[str],
    folder: str,
    *,
    variables: dict[str, str] | None = None,
    url: str | None = None,
    save_s: float = 0.0,
    end_s: float = STOP_GRACE_S,
    shows: bool = False,
) -> None:
    """Let the keeper start a command. The arguments are those of its second line."""
    order = {"command": command, "folder": folder, "variables": variables or {}, "url": url, "shows": shows}
    _tell(process, order | {"save_s": save_s, "end_s": end_s})


def exit_code(scratch: Path) -> int | None:
    """The command's, as Python has it, by the keeper's file; None before it has ended."""
    return _read_number(scratch / keeper.EXIT_CODE)


def _tell(process: subprocess.Popen, order: dict[str, object]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()


def _end(process: subprocess.Popen, scratch: Path) -> None:
    """Ask the keeper to end the command and wait until it has; a keeper that was killed is stood in for."""
    with contextlib.suppress(OSError):  # it has gone
        _tell(process, {})
    with contextlib.suppress(OSError):
        process.stdin.close()
    if process.wait() != 0:
        leader = _read_number(scratch / keeper.PROCESS_ID)
        if leader is not None:
            keeper.kill_group(leader)
        keeper.remove(scratch)


def _read_number(file: Path) -> int | None:
    """What the keeper has written there; None before it has."""
    try:
        return int(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
