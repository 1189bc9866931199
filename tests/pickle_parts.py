"""Pickles put together from their operations, and the small network that all of them hold."""

import io
import pickletools
import struct
import zipfile
from dataclasses import dataclass

import torch

NUMBERS = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
NETWORK = {"weight": NUMBERS}  # what comes of a case that can be read


@dataclass(frozen=True)
class Case:
    """A file that was made to harm. is_readable: whether the network comes of it; else one error does."""

    content: bytes
    is_readable: bool = False


NONE, FALSE, EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT = b"N", b"\x89", b")", b"]", b"}"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def binary(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def numbers(*values: int) -> bytes:
    return several(*map(number, values))


def call(called: bytes, *arguments: bytes) -> bytes:
    return called + several(*arguments) + b"R"


def mapping(**items: bytes) -> bytes:
    return EMPTY_DICT + b"(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def whole(value: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + value + b"."


def saved(value: object, *, is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def storage_of(values: torch.Tensor) -> torch.storage.TypedStorage:
    """As PyTorch makes it of a tensor when that is pickled."""
    return torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=values.dtype, _internal=True)


STORAGE = saved(storage_of(torch.tensor(NUMBERS)), is_zip=False)
STORAGE_ZIPPED = saved(storage_of(torch.tensor(NUMBERS)), is_zip=True)
STATE = {"weight": torch.tensor(NUMBERS)}
LEGACY = saved(STATE, is_zip=False)
ZIPPED = saved(STATE, is_zip=True)
HOOKS = call(name("collections", "OrderedDict"))
LOAD = name("torch.storage", "_load_from_bytes")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
REBUILD_KIND = name("torch._utils", "_rebuild_tensor_v3")


def stored(content: bytes = STORAGE) -> bytes:
    return call(LOAD, binary(content))


def tensor(
    storage: bytes | None = None, offset: bytes = number(0), size: bytes = numbers(6), stride: bytes = numbers(1)
) -> bytes:
    return call(REBUILD, storage or stored(), offset, size, stride, FALSE, HOOKS)


def network(**others: bytes) -> bytes:
    """The network, after something else."""
    return whole(mapping(**others, ema=mapping(weight=tensor())))


def only(weight: bytes) -> bytes:
    return whole(mapping(ema=mapping(weight=weight)))


def legacy_parts(content: bytes = LEGACY) -> list[bytes]:
    """Of a file of torch.save before 1.6: number, version, machine, content, keys; then the raw numbers."""
    file = io.BytesIO(content)
    parts, start = [], 0
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
        parts.append(content[start : file.tell()])
        start = file.tell()
    return [*parts, content[start:]]


def legacy(content: bytes | None = None, keys: bytes | None = None, raw: bytes | None = None, **others: bytes) -> bytes:
    """Such a file with some of its parts replaced, which are values and no whole pickles."""
    number, version, machine, *rest = legacy_parts()
    head = [
        whole(others[part], 2) if part in others else as_is
        for part, as_is in (("number", number), ("version", version), ("machine", machine))
    ]
    given = [content and whole(content, 2), keys and whole(keys, 2), raw]
    return b"".join([*head, *(as_is if new is None else new for new, as_is in zip(given, rest, strict=True))])


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file by Python's own module."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return buffer.getvalue()


def zip_parts(content: bytes = ZIPPED) -> dict[str, bytes]:
    """What is in a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {part: archive.read(part) for part in archive.namelist()}


def with_part(part: str, content: bytes) -> bytes:
    """The zip file of torch.save with a part added or replaced."""
    return zipped(zip_parts() | {f"archive/{part}": content})
