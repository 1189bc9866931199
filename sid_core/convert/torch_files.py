"""What torch.save writes: a zip file since PyTorch 1.6, and pickles with raw numbers behind them before.

By PyTorch's torch/serialization.py. Numbers stay where they are: a storage is a view on the file.
"""

from collections.abc import Callable
from typing import Any

import torch

from .budget import Budget
from .errors import UnusableError, damaged
from .machine import Machine
from .reader import Reader
from .symbols import Calls, storage_kind
from .values import Storage
from .zip_entries import LOCAL, Entry, check, entries

LEGACY = 0x1950A86A20F9469CFC6C  # the number that files of before 1.6 begin with
LEGACY_VERSION = 1001
CONTENT = "data.pkl"
PROGRAM = "constants.pkl"  # which TorchScript has besides


def read_content(view: memoryview, budget: Budget, release: Callable[[], None], is_within: bool = False) -> Any:
    """The value in a file of torch.save, of either form, or in a plain pickle.

    release: lets go of the pages of the file that were read. is_within: the bytes are of a storage in a plain pickle,
    where only PyTorch's own two forms are. Raises UnusableError.
    """
    if view[: len(LOCAL)] == LOCAL:
        return _Zipped(view, budget, release).read()
    # In files of torch.save no storage is a file by itself, so that they are within each other once at most.
    load = None if is_within else lambda content: read_content(content, budget, release, is_within=True)
    reader = Reader(view)
    value = Machine(reader, budget, Calls(budget, load)).read()
    if value == LEGACY and type(value) is int:
        return _Legacy(reader, budget).read()
    if is_within:
        raise damaged("it has numbers of a tensor in a form that PyTorch doesn't write")
    return value


class _Zipped:
    """A zip file: a pickle, and the bytes of each storage in an entry of its own."""

    def __init__(self, view: memoryview, budget: Budget, release: Callable[[], None]):
        self._budget = budget
        self._release = release
        self._entries = entries(view, budget)
        self._storages: dict[tuple[torch.dtype | None, str], Storage] = {}
        self._checked: set[str] = set()
        # torch.serialization.set_crc32_options(False) leaves all of them out.
        self._has_sums = any(entry.crc for entry in self._entries.values())

    def read(self) -> Any:
        content = [name for name in self._entries if name.rpartition("/")[2] == CONTENT]
        if len(content) != 1:
            raise UnusableError("it is a zip archive that PyTorch has not written", "Unpack {name} first")
        self._prefix = content[0].removesuffix(CONTENT)
        if f"{self._prefix}{PROGRAM}" in self._entries:
            raise UnusableError("it is a program (TorchScript), which is not run")
        order = self._entries.get(f"{self._prefix}byteorder")
        if order and bytes(order.data[:10]).strip() != b"little":
            raise UnusableError("its numbers are in the byte order of another kind of machine")
        reader = Reader(self._entry(CONTENT).data)
        return Machine(reader, self._budget, Calls(self._budget), self._refer).read()

    def _refer(self, identity: Any) -> Storage:
        kind, key, count = _described(identity)
        if (kind, key) not in self._storages:
            self._storages[kind, key] = Storage(kind, count, self._entry(f"data/{key}").data)
        storage = self._storages[kind, key]
        if storage.count != count or storage.nbytes != len(storage.data):
            raise damaged("its numbers are more or fewer than it says")
        return storage

    def _entry(self, part: str) -> Entry:
        """The entry of this name, looked at the first time whether it is as it was written."""
        entry = self._entries.get(f"{self._prefix}{part}")
        if entry is None:
            raise damaged(f"its part {part[:100]!r} is missing")
        if self._has_sums and part not in self._checked:
            check(entry, part, self._release)
            self._checked.add(part)
        return entry


class _Legacy:
    """The pickles after the first, then for each storage how many numbers it has, and those. There are no checksums."""

    def __init__(self, reader: Reader, budget: Budget):
        self._reader = reader
        self._machine = Machine(reader, budget, Calls(budget), self._refer)
        self._storages: dict[str, Storage] = {}

    def read(self) -> Any:
        if self._machine.read() != LEGACY_VERSION:
            raise damaged("it is of another version of PyTorch's old files than 1001")
        machine = self._machine.read()
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise UnusableError("its numbers are in the byte order of another kind of machine")
        value = self._machine.read()
        keys = self._machine.read()
        for key in keys if isinstance(keys, list) else ():
            self._locate(key)
        if any(storage.data is None for storage in self._storages.values()):
            raise damaged("it says of some tensors not where their numbers are")
        return value

    def _refer(self, identity: Any) -> Any:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            return identity[1]  # a module's class, which is followed by where its program is and the program itself
        kind, key, count = _described(identity)
        storage = self._storages.setdefault(key, Storage(kind, count))
        if (storage.kind, storage.count) != (kind, count):
            raise damaged("it describes the numbers of some tensors in two ways")
        return storage

    def _locate(self, key: Any) -> None:
        storage = self._storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.data is not None:
            raise damaged("its list of what is in it is of another file")
        if self._reader.number(8) != storage.count:
            raise damaged("its numbers are more or fewer than it says")
        storage.data = self._reader.take(storage.nbytes)


def _described(identity: Any) -> tuple[torch.dtype | None, str, int]:
    """Kind, key and count of the storage that a pickle refers to: ('storage', class, key, device, count)."""
    if not isinstance(identity, tuple) or not 5 <= len(identity) <= 6 or identity[0] != "storage":
        raise damaged("it refers to something else than the numbers of tensors")
    _, kind, key, _, count, *view = identity
    if any(view):
        raise UnusableError("it is of a PyTorch before 0.4, whose storages are views of each other")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise damaged("it refers to numbers by what is no name or count")
    return storage_kind(kind), key, count
