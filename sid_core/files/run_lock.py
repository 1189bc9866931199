"""One run in a folder at a time, by a lock that the operating system lets go of when its process dies."""

import errno
import os
import time
from pathlib import Path
from typing import BinaryIO

from ..words import log

if os.name == "nt":
    import msvcrt
else:
    import fcntl

LOCKED_BYTE = 1 << 30  # far behind what is written: on Windows a locked byte can't be read by others
TRIES, PAUSE_S = 3, 0.05
TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


class RunInUseError(RuntimeError):
    """Another run is training in that folder."""


class RunLock:
    """`with RunLock(file):` holds the file for this run alone. Raises RunInUseError where another one has it."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> "RunLock":
        file = self.path.open("ab+")
        try:
            _lock_soon(file)
        except OSError as error:
            if error.errno in TAKEN:
                owner = _owner(file)
                file.close()
                raise RunInUseError(
                    f"Wait for the other run or cancel it, or give this run another name: another run is at work in "
                    f"{self.path.parent}{owner}."
                ) from error
            # Some network drives know no locks. Refusing to train there would help nobody.
            log.warning("take care that no second run uses %s: it can't be locked (%s)", self.path.parent, error)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        # Closing unlocks. The file stays: deleting it would let a third run lock another file of that name.
        self._file.close()


def is_locked(path: Path) -> bool:
    """Whether a run has the file. Who asks holds it for less than a moment, which `RunLock` waits for."""
    try:
        file = path.open("rb+")  # Windows and some network drives lock nothing that is only read
    except OSError:
        return False
    with file:
        try:
            _lock(file)
        except OSError as error:
            return error.errno in TAKEN
    return False


def _lock_soon(file: BinaryIO) -> None:
    """Lock it, also where somebody is just asking whether it is locked."""
    for _ in range(TRIES - 1):
        try:
            _lock(file)
            return
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            time.sleep(PAUSE_S)
    _lock(file)


def _lock(file: BinaryIO) -> None:
    if os.name == "nt":
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(file: BinaryIO) -> str:
    file.seek(0)
    process = file.read(20).decode(errors="replace")
    return f" (process {process})" if process.isdigit() else ""
