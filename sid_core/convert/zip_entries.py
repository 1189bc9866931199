"""The entries of a zip file that PyTorch has written, as views on it: stored, whole, and none over another.

Python's own module takes several times the size of a list of contents, and reads by copying. By PKWARE's description of
the format, of which sizes over 4 GB are a part.
"""

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from .budget import Budget
from .errors import UnusableError, damaged

LOCAL, LISTED, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END_64, LOCATOR_64 = b"PK\x06\x06", b"PK\x06\x07"
LOCAL_BYTES, LISTED_BYTES, END_BYTES, LOCATOR_BYTES = 30, 46, 22, 20
TAIL = END_BYTES + 0xFFFF  # bytes in which the end record lies, whatever comment follows it
WIDE_16, WIDE_32 = 0xFFFF, 0xFFFFFFFF  # stand for a number that is told elsewhere, in 64 bits
PIECE = 1 << 26  # bytes that are summed between two releases


class Entry(NamedTuple):
    """One entry. data: its bytes. crc: what their CRC-32 should be. start: of its own head, in the file."""

    data: memoryview
    crc: int
    start: int


class _Listed(NamedTuple):
    """What the list of contents says of one entry."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    start: int


def find_end(tail: bytes) -> int:
    """Where in a zip file's last bytes its end record begins; -1 where there is none."""
    at = tail.rfind(END)
    return at if len(tail) - at >= END_BYTES else -1


def entries(view: memoryview, budget: Budget) -> dict[str, Entry]:
    """By name, which is only ever compared. Raises UnusableError for what can't be one of PyTorch's zip files."""
    try:
        count, position, end = _directory(view)
        found: dict[str, Entry] = {}
        for _ in range(count):
            listed, position = _next(view[:end], position)
            budget.take(512 + 8 * len(listed.name))
            name = str(listed.name, "utf-8", "replace")
            if name in found:
                raise damaged(f"it has two parts of the name {name[:100]!r}")
            found[name] = _entry(view[:end], listed, name)
    except (struct.error, OverflowError) as error:
        raise damaged("its list of contents is cut short or damaged") from error
    _check_apart(found)
    return found


def check(entry: Entry, name: str, release: Callable[[], None]) -> None:
    """Raises UnusableError where the bytes are not those that were written. release: called after each piece."""
    crc = 0
    for start in range(0, len(entry.data), PIECE):
        crc = zlib.crc32(entry.data[start : start + PIECE], crc)
        release()
    if crc != entry.crc:
        raise damaged(f"its part {name[:100]!r} has changed since it was written")


def _directory(view: memoryview) -> tuple[int, int, int]:
    """(how many entries, where the list of them begins, where it ends)"""
    tail = bytes(view[-TAIL:])
    if (at := find_end(tail)) < 0:
        raise damaged("it is cut short: a zip archive's end is missing")
    at += len(view) - len(tail)
    count, size, start = struct.unpack_from("<10xHII2x", view, at)
    end = at
    if count == WIDE_16 or WIDE_32 in (size, start):
        signature, end_64 = struct.unpack_from("<4s4xQ4x", view, max(at - LOCATOR_BYTES, 0))
        found, count, size, start = struct.unpack_from("<4s28xQQQ", view, min(end_64, len(view)))
        if (signature, found) != (LOCATOR_64, END_64):
            raise damaged("its list of contents is damaged")
        end = end_64
    if start + size > end or count * LISTED_BYTES > size:
        raise damaged("its list of contents is damaged")
    return count, start, start + size


def _next(view: memoryview, position: int) -> tuple[_Listed, int]:
    """The entry that is listed there, and where the next one is."""
    fields = struct.unpack_from("<4s4xHH4xIIIHHH8xI", view, position)
    signature, flags, method, crc, packed, size, name_length, extra_length, comment_length, start = fields
    name_end = position + LISTED_BYTES + name_length
    extra_end = name_end + extra_length
    if signature != LISTED or extra_end + comment_length > len(view):
        raise damaged("its list of contents is damaged")
    name = bytes(view[position + LISTED_BYTES : name_end])
    # What is given in 64 bits follows in this order, where the number itself had no room.
    wide = _numbers_64(view[name_end:extra_end])
    size, packed, start = (next(wide, number) if number == WIDE_32 else number for number in (size, packed, start))
    return _Listed(name, flags, method, crc, packed, size, start), extra_end + comment_length


def _numbers_64(extra: memoryview):
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            fields = extra[position + 4 : position + 4 + length]
            yield from (number for (number,) in struct.iter_unpack("<Q", fields[: len(fields) // 8 * 8]))
            return
        position += 4 + length


def _entry(view: memoryview, listed: _Listed, name: str) -> Entry:
    """view: of all before the list's end."""
    if listed.flags & 1:
        raise UnusableError("it is encrypted")
    if listed.method or listed.packed != listed.size:
        raise UnusableError("it is a compressed zip archive, which PyTorch's files are not", "Unpack {name} first")
    signature, name_length, extra_length = struct.unpack_from("<4s22xHH", view, min(listed.start, len(view)))
    name_start = listed.start + LOCAL_BYTES
    start = name_start + name_length + extra_length
    if signature != LOCAL or bytes(view[name_start : name_start + name_length]) != listed.name:
        raise damaged(f"its part {name[:100]!r} isn't where its list of contents says")
    if start + listed.size > len(view):
        raise damaged(f"it is cut short: its part {name[:100]!r} reaches beyond its end")
    return Entry(view[start : start + listed.size], listed.crc, listed.start)


def _check_apart(found: dict[str, Entry]) -> None:
    in_order = sorted(found.values(), key=lambda entry: entry.start)
    for entry, following in zip(in_order, in_order[1:], strict=False):
        if entry.start + LOCAL_BYTES + len(entry.data) > following.start:
            raise damaged("its parts lie over each other")
