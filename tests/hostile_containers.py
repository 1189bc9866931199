"""Files of torch.save that were made to harm, in its zip form and that of before 1.6; and files that are cut short."""

import struct
import zipfile

from pickle_parts import (
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    LEGACY,
    NONE,
    STORAGE_ZIPPED,
    ZIPPED,
    Case,
    call,
    legacy,
    mapping,
    name,
    network,
    number,
    several,
    stored,
    tensor,
    text,
    whole,
    with_part,
    zip_parts,
    zipped,
)

FLOATS = name("torch", "FloatStorage")
LIST_ENTRY, LIST_END, LOCAL = b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"
RAW = struct.pack("<6f", *range(6))


def identity(kind: bytes = FLOATS, key: bytes | None = None, count: bytes | None = None, *more: bytes) -> bytes:
    """A reference to the numbers of a tensor, as torch.save writes it."""
    key, count = text("0") if key is None else key, number(6) if count is None else count
    return several(text("storage"), kind, key, text("cpu"), count, *more) + b"Q"


def content(storage: bytes, **described: bytes) -> bytes:
    """What a file of torch.save says of its tensors."""
    return whole(mapping(weight=tensor(storage, **described)), 2)


def patched(original: bytes, signature: bytes, offset: int, value: bytes, last: bool = False) -> bytes:
    """With bytes replaced, at an offset in a record of a zip file."""
    at = (original.rindex if last else original.index)(signature) + offset
    return original[:at] + value + original[at + len(value) :]


def zips() -> dict[str, Case]:
    parts = zip_parts()
    plain = zipped(parts)
    numbers_at = plain.index(RAW)
    wide = b"\xff\xff\xff\xff"
    end = plain.rindex(LIST_END)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 1)
    twice = plain[plain.index(LIST_ENTRY) : plain.index(LIST_ENTRY, plain.index(LIST_ENTRY) + 1)]
    doubled = plain[: plain.index(LIST_ENTRY)] + twice + plain[plain.index(LIST_ENTRY) : end]
    start = plain.index(LIST_ENTRY)
    doubled += struct.pack("<4sHHHHIIH", LIST_END, 0, 0, len(parts) + 1, len(parts) + 1, len(doubled) - start, start, 0)
    broken = {
        "compressed": zipped(parts, zipfile.ZIP_DEFLATED),
        "a bomb": zipped(parts | {"archive/data/1": bytes(30_000_000)}, zipfile.ZIP_DEFLATED),
        "a bomb in its pickle": zipped({"archive/data.pkl": b"N" * 30_000_000}, zipfile.ZIP_DEFLATED),
        "bzip2": zipped(parts, zipfile.ZIP_BZIP2),
        "encrypted": patched(plain, LIST_ENTRY, 8, b"\x01\x00"),
        "a method of its own": patched(plain, LIST_ENTRY, 10, b"\x63\x00"),
        "a wrong sum of its pickle": patched(plain, LIST_ENTRY, 16, b"abcd"),
        "a changed number": plain[:numbers_at] + b"\x01" + plain[numbers_at + 1 :],
        "a changed pickle": plain.replace(b"weight", b"weighs"),
        "a size of 4 GB": patched(plain, LIST_ENTRY, 20, wide + wide),
        "a size beyond the end": patched(plain, LIST_ENTRY, 20, struct.pack("<II", 100_000, 100_000)),
        "a size that is one more": patched(plain, LIST_ENTRY, 24, b"\xff"),
        "a start beyond the end": patched(plain, LIST_ENTRY, 42, struct.pack("<I", 1 << 30)),
        "a start at another part": patched(plain, LIST_ENTRY, 42, struct.pack("<I", plain.index(LOCAL, 10))),
        "a start in the numbers": patched(plain, LIST_ENTRY, 42, struct.pack("<I", numbers_at)),
        "a long name": patched(plain, LIST_ENTRY, 28, b"\xff\xff"),
        "a long extra": patched(plain, LIST_ENTRY, 30, b"\xff\xff"),
        "a long comment": patched(plain, LIST_ENTRY, 32, b"\xff\xff"),
        "another name in the list": plain.replace(b"archive/data/0", b"archive/data/1"),
        "a name that differs from the list": plain.replace(b"archive/data/0", b"archive/data/9", 1),
        "no list": plain[:start],
        "no list, but its end": plain[:start] + plain[end:],
        "a list of 65,535": patched(plain, LIST_END, 10, b"\xff\xff", last=True),
        "a list of more than there are": patched(plain, LIST_END, 10, struct.pack("<H", len(parts) + 1), last=True),
        "a list of fewer than there are": patched(plain, LIST_END, 10, b"\x00\x00", last=True),
        "a list beyond the end": patched(plain, LIST_END, 12, struct.pack("<I", 1 << 30), last=True),
        "a list somewhere else": patched(plain, LIST_END, 16, struct.pack("<I", 7), last=True),
        "a list at 4 GB": patched(plain, LIST_END, 16, wide, last=True),
        "a locator of nowhere": plain[:end] + locator + patched(plain[end:], LIST_END, 16, wide),
        "a part twice": doubled,
        "a part over another": overlapping(plain),
        "another order of bytes": with_part("byteorder", b"big"),
        "an order of bytes that is none": with_part("byteorder", b"middle" * 1_000_000),
        "a program": with_part("constants.pkl", whole(NONE)),
        "two pickles": zipped(parts | {"other/data.pkl": parts["archive/data.pkl"]}),
        "no pickle": zipped({"archive/data/0": RAW}),
        "no numbers": zipped({part: value for part, value in parts.items() if part != "archive/data/0"}),
        "fewer numbers": with_part("data/0", RAW[:-4]),
        "more numbers": with_part("data/0", RAW + RAW),
        "an empty pickle": with_part("data.pkl", b""),
        "nothing": zipped({}),
        "names of another system": zipped({f"C:\\{part.removeprefix('archive/')}": parts[part] for part in parts}),
        "half of it": plain[: len(plain) // 2],
        "another zip file before": zipped({"a": b"b"}) + plain,
    }
    descriptions = {
        "a key that is a path": identity(key=text("../../../../etc/passwd")),
        "a key that is an absolute path": identity(key=text("/etc/passwd")),
        "a key that is the pickle": identity(key=text("../data.pkl")),
        "a key with a zero": identity(key=text("0\0")),
        "a key that is a number": identity(key=number(0)),
        "a key that is None": identity(key=NONE),
        "a count of -1": identity(count=number(-1)),
        "a count of 5": identity(count=number(5)),
        "a count of 2^62": identity(count=number(1 << 62)),
        "a count of 2^64": identity(count=number(1 << 64)),
        "a count of True": identity(count=b"\x88"),
        "a kind that is called": identity(call(name("os", "system"), text("touch ran"))),
        "a kind that isn't a storage": identity(name("os", "system")),
        "a quantized kind": identity(name("torch", "QInt8Storage")),
        "a wider kind": identity(name("torch", "DoubleStorage")),
        "a kind of odd letters": identity(text("torch") + text("Float\n\0Storage") + b"\x93"),
        "a kind that is a text": identity(text("FloatStorage")),
        "a view of another": identity(FLOATS, text("0"), number(6), several(text("1"), number(0), number(6))),
        "a module": several(text("module"), name("os", "system"), text("a.py"), text("import os")) + b"Q",
        "a text": text("storage") + b"Q",
        "nothing at all": EMPTY_TUPLE + b"Q",
        "a file within": stored(),
        "a zip file within": stored(STORAGE_ZIPPED),
    }
    paths = ("../../tmp/{}", "/tmp/{}", "archive/../{}", "a/b/c/{}", "{}", "\u202e/{}", "a b/{}")
    placed = {
        f"under {path!r}": Case(
            zipped({path.format(part.removeprefix("archive/")): parts[part] for part in parts}), True
        )
        for path in paths
    }
    cases = broken | {f"with {key}": with_part("data.pkl", content(value)) for key, value in descriptions.items()}
    return {f"zip: {key}": Case(value) for key, value in cases.items()} | {
        f"zip: {key}": value
        for key, value in {
            **placed,
            "as it is": Case(ZIPPED, True),
            "by another program": Case(plain, True),
            "without sums": Case(without_sums(ZIPPED), True),
            "a comment": Case(plain[:-2] + b"\x05\x00hello", True),
            "a path besides": Case(zipped(parts | {"../../../tmp/x.py": b"import os", "/etc/passwd": b""}), True),
            "numbers of untyped kind": Case(
                with_part("data.pkl", content(identity(name("torch.storage", "UntypedStorage"), text("0"), number(24))))
            ),
            "a call besides": Case(
                with_part(
                    "data.pkl",
                    whole(mapping(weight=tensor(identity()), other=call(name("os", "system"), text("touch ran"))), 2),
                ),
                True,
            ),
        }.items()
    }


def overlapping(plain: bytes) -> bytes:
    """The numbers' part is made to reach over the parts behind it, up to the list."""
    listed = plain.index(b"archive/data/0", plain.index(LIST_ENTRY)) - 46
    size = plain.index(LIST_ENTRY) - plain.index(RAW)
    return plain[: listed + 20] + struct.pack("<II", size, size) + plain[listed + 28 :]


def without_sums(original: bytes) -> bytes:
    """As torch.serialization.set_crc32_options(False) has it."""
    found, position = bytearray(original), 0
    while (position := found.find(LIST_ENTRY, position)) >= 0:
        found[position + 16 : position + 20] = bytes(4)
        position += 46
    return bytes(found)


def legacies() -> dict[str, Case]:
    raw = struct.pack("<q", 6) + RAW
    system = call(name("os", "system"), text("touch ran"))
    broken = {
        "another version": legacy(version=number(1002)),
        "a version that is a call": legacy(version=system),
        "a machine that is a call": legacy(machine=system),
        "another order of bytes": legacy(machine=mapping(little_endian=FALSE)),
        "no machine": legacy(machine=NONE),
        "keys that are a call": legacy(keys=system),
        "no keys": legacy(keys=EMPTY_LIST),
        "keys that are None": legacy(keys=NONE),
        "a key twice": legacy(mapping(weight=tensor(identity())), EMPTY_LIST + (text("0") + b"a") * 2, raw + raw),
        "another key": legacy(keys=EMPTY_LIST + text("1") + b"a"),
        "a key that is a number": legacy(keys=EMPTY_LIST + number(1) + b"a"),
        "one number too few": legacy(raw=raw[:-1]),
        "no numbers": legacy(raw=b""),
        "a count of 5": legacy(raw=struct.pack("<q", 5) + RAW),
        "a count of -1": legacy(raw=struct.pack("<q", -1) + RAW),
        "a count of 2^62": legacy(raw=struct.pack("<q", 1 << 62) + RAW),
        "both counts of 2^40": legacy_of(
            identity(key=text("0"), count=number(1 << 40)), struct.pack("<q", 1 << 40) + RAW
        ),
        "both counts of 2^63": legacy_of(
            identity(key=text("0"), count=number(1 << 63)), struct.pack("<Q", 1 << 63) + RAW
        ),
        "a quantized kind": legacy_of(identity(name("torch", "QInt8Storage"), text("0"), number(6)), raw),
        "a view of another": legacy_of(identity(FLOATS, text("0"), number(6), several(text("1"), number(0))), raw),
        "a file within": legacy_of(stored(), raw),
        "a reference to a file": legacy_of(text("/etc/passwd") + b"Q", raw),
        "a reference of a text": legacy_of(b"P/etc/passwd\n", raw),
        "a class that is a tensor": legacy_of(
            several(text("module"), name("os", "system"), text("a.py"), text("import os")) + b"Q", raw
        ),
        "half of it": LEGACY[: len(LEGACY) // 2],
    }
    again = several(text("storage"), name("torch", "HalfStorage"), text("0"), text("cpu"), number(6)) + b"Q"
    two_kinds = mapping(weight=tensor(identity()), other=again)
    module = several(text("module"), name("a", "B"), text("a.py"), text("import os\nos.system('touch ran')")) + b"Q"
    return {f"legacy: {key}": Case(value) for key, value in broken.items()} | {
        "legacy: as it is": Case(LEGACY, True),
        "legacy: more behind": Case(LEGACY + b"cos\nsystem\n", True),
        "legacy: two kinds of one key": Case(legacy(two_kinds, EMPTY_LIST + text("0") + b"a", raw)),
        "legacy: a call besides": Case(
            legacy(mapping(weight=tensor(identity()), other=system), EMPTY_LIST + text("0") + b"a", raw), True
        ),
        "legacy: a class's program": Case(
            legacy(mapping(weight=tensor(identity()), other=module), EMPTY_LIST + text("0") + b"a", raw), True
        ),
    }


def legacy_of(storage: bytes, raw: bytes) -> bytes:
    return legacy(mapping(weight=tensor(storage)), EMPTY_LIST + text("0") + b"a", raw)


CASES = zips() | legacies()
# Read when cut at each byte.
CUT: dict[str, bytes] = {"a pickle": network(), "a zip file": ZIPPED, "a legacy file": LEGACY}
