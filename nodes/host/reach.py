"""What may be read from the disk on behalf of whoever can reach the server: one rule, for every node that is given a
path."""

import ipaddress
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...sid_core.words import quoted, unquoted

SWITCH = "SID_READ_ANYWHERE"
LONGEST = 255  # bytes of a name, on nearly all file systems


class OutOfReachError(PermissionError):
    """A path leads out of ComfyUI's input folder, on a server that reads nothing else."""


def is_local() -> bool:
    """Whether only this machine can ask the server for anything: it listens on loopback addresses alone.

    SID_READ_ANYWHERE=0 says that it is not so, as behind a proxy or a tunnel, which a server can't see.
    """
    return os.environ.get(SWITCH) != "0" and all(map(_is_loopback, args.listen.split(",")))


def reads_anywhere() -> bool:
    """Whether files outside of ComfyUI's input folder may be read: asked from this machine, or SID_READ_ANYWHERE=1."""
    return os.environ.get(SWITCH) == "1" or is_local()


def place_of(given: str) -> Path:
    """The path of what a widget names, in ComfyUI's input folder unless it is a full path. It need not be there.

    Quotes around it, as Windows' "Copy as path" sets them, and another system's backslashes are understood. Raises
    OutOfReachError without a look at the disk where it leads elsewhere and that may not be read, and ValueError for
    what can't be a path.
    """
    name = unquoted(given)
    if "\0" in name or not _is_encodable(name):
        raise ValueError(f"Type the path again: {given!r:.60} has a character in it that no path can have.")
    if any(len(os.fsencode(part)) > LONGEST for part in Path(name).parts):
        raise ValueError(f"Type the path again: {given!r:.60} … is longer than a file's name can be.")
    path = _resolved(name)
    if os.sep == "/" and "\\" in name and not os.path.exists(path):
        path = _resolved(name.replace("\\", "/"))
    return path


def require(path: Path) -> None:
    """Raise OutOfReachError where a path, its links followed, leads to what may not be read."""
    root = folder_paths.get_input_directory()
    if not (reads_anywhere() or _is_within(os.path.realpath(path), os.path.realpath(root))):
        raise _out_of_reach(path.name)


def _resolved(name: str) -> Path:
    root = os.path.abspath(folder_paths.get_input_directory())
    anywhere = reads_anywhere()
    path = os.path.normpath(os.path.join(root, os.path.expanduser(name) if anywhere else name))
    # First by its letters alone: on Windows, to look at a path on another machine is to log in there.
    if not (anywhere or _is_within(path, root)):
        raise _out_of_reach(name)
    require(Path(path))
    return Path(path)


def _out_of_reach(name: str) -> OutOfReachError:
    return OutOfReachError(
        f"Put {quoted(name)} into ComfyUI's input folder and give its name there: other machines can reach this "
        f"ComfyUI, so its nodes read nothing outside of that folder. {SWITCH}=1 in its environment lets them."
    )


def _is_within(path: str, root: str) -> bool:
    path, root = os.path.normcase(path), os.path.normcase(root)
    return path == root or path.startswith(os.path.join(root, ""))


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    if address.strip().lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip()).is_loopback
    except ValueError:
        return False
