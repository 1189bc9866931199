"""Prompt lists of any length: the texts lie in a file, and what memory holds is where each of them begins."""

import contextlib
import errno
import hashlib
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import torch

SCAN_BYTES = 1 << 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Bytes:
    """A file without a name: no server can hand it out, nobody can clean it away, and it is gone with this object."""

    def __init__(self, file: BinaryIO):
        self._file, self._lock = file, threading.Lock()
        weakref.finalize(self, file.close)

    def read(self, first: int, last: int) -> bytes:
        """Bytes first, first+1, … last-1; from any thread."""
        with self._lock:
            self._file.seek(first)
            return self._file.read(last - first)


@dataclass(frozen=True, eq=False, repr=False)
class PromptFile(Sequence[str]):
    """N prompts in their order, each once, joined by newlines in a UTF-8 file.

    starts: N+1 byte offsets, 8 bytes of memory a prompt. digest: SHA-256 of the file, which tells lists apart; where a
    prompt has lines of its own, of its offsets too. duplicates: how many repeats were dropped. As a text it is its
    length alone: nodes that show any value show it to whoever can reach the server.
    """

    content: _Bytes
    starts: array
    digest: str
    duplicates: int

    def __repr__(self) -> str:
        return f"{len(self)} prompt{'s' * (len(self) != 1)}"

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            return self.span(first, last) if step == 1 else [self[i] for i in range(first, last, step)]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} prompts; expected an index within them, not {index}")
        return self.span(index % len(self), index % len(self) + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), 1024):
            yield from self.span(first, min(first + 1024, len(self)))

    def span(self, first: int, last: int) -> list[str]:
        """Prompts first, first+1, … last-1, by one read."""
        if first >= last:
            return []
        data, starts = self._bytes(first, last), self.starts
        offset = starts[first]
        return [data[starts[i] - offset : starts[i + 1] - 1 - offset].decode() for i in range(first, last)]

    def span_digest(self, first: int, last: int) -> str:
        """SHA-256 of those prompts, wherever in a list they are."""
        starts = torch.frombuffer(self.starts, dtype=torch.int64)[first : last + 1]
        digest = hashlib.sha256((starts - starts[0]).numpy().tobytes())
        digest.update(self._bytes(first, last))
        return digest.hexdigest()

    def mentions(self, text: str) -> bool:
        """Whether the text is in any prompt."""
        sought, kept = text.encode(), b""
        for place in range(0, self.starts[-1], SCAN_BYTES):
            piece = self.content.read(place, place + SCAN_BYTES)
            if sought in kept + piece:
                return True
            kept = (kept + piece)[-len(sought) :]
        return False

    def _bytes(self, first: int, last: int) -> bytes:
        return self.content.read(self.starts[first], self.starts[last] - 1)


def write_prompts(prompts: Iterable[str]) -> PromptFile:
    """Write a list to a file of the system's temporary folder that has no name; repeats are dropped and counted.

    Memory: some 75 bytes a prompt while it is made. Repeats are found by 128 bits of their SHA-256. Raises OSError that
    says what to do when the disk is full.
    """
    try:
        with contextlib.ExitStack() as on_error, tempfile.TemporaryFile() as everything:
            kept = on_error.enter_context(tempfile.TemporaryFile())
            starts, digests = _write_all(prompts, everything)
            first_ones = _first_ones(digests)
            starts, digest = _copy(everything, starts, first_ones, kept)
            kept.flush()
            on_error.pop_all()
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OSError(
            "Free some space where the system keeps temporary files, or name a larger place in TMPDIR: the prompts "
            "don't fit there."
        ) from error
    return PromptFile(_Bytes(kept), starts, digest, len(first_ones) - len(starts) + 1)


def _write_all(prompts: Iterable[str], file: BinaryIO) -> tuple[array, array]:
    """Offsets (N+1) of all prompts in the file, and two 64-bit numbers for each that say what it is."""
    starts, digests = array("q", [0]), array("q")
    for prompt in prompts:
        data = prompt.encode()
        starts.append(starts[-1] + file.write(data) + file.write(b"\n"))
        digests.frombytes(hashlib.sha256(data).digest()[:16])
    return starts, digests


def _first_ones(digests: array) -> bytearray:
    """A byte a prompt: 1 for each that is not a repeat of an earlier one."""
    if not digests:
        return bytearray()
    high, low = torch.frombuffer(digests, dtype=torch.int64).view(-1, 2).unbind(1)
    # Two stable sorts, by the less important half first, put equals side by side, the earliest of them first.
    order = low.argsort(stable=True)
    order = order[high[order].argsort(stable=True)]
    repeats = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    first_ones = bytearray(b"\1") * len(order)
    torch.frombuffer(first_ones, dtype=torch.uint8)[order[1:][repeats]] = 0
    return first_ones


def _copy(source: BinaryIO, starts: array, first_ones: bytearray, target: BinaryIO) -> tuple[array, str]:
    """Offsets of those that are kept, and the digest of the list."""
    digest, kept, several_lines = hashlib.sha256(), array("q", [0]), False
    source.seek(0)
    for i, first in enumerate(first_ones):
        data = source.read(starts[i + 1] - starts[i])[:-1]
        if first:
            joined = b"\n" * (len(kept) > 1) + data
            digest.update(joined)
            target.write(joined)
            kept.append(kept[-1] + len(data) + 1)
            several_lines |= b"\n" in data
    if several_lines:
        digest.update(kept.tobytes())
    return kept, digest.hexdigest()
