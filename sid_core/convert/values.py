"""What a pickle is read into: Python's plain values, bytes as views on the file, and these, which do nothing.

Lists, tuples, dicts, strings and numbers stand for themselves; sets are lists. Bytes are memoryviews.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import UnusableError, damaged

MOST_DIMENSIONS = 64  # as PyTorch has it
LARGEST = 1 << 48  # numbers in a shape that there can be

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": None,  # its tensors say of what kind they are
}
# Those of the storages, and the newer ones, which have none of their own and which an older PyTorch may lack.
_NEWER = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_NAMES = (
    *(str(kind).removeprefix("torch.") for kind in STORAGES.values() if kind),
    *_NEWER,
    "uint16",
    "uint32",
    "uint64",
)
KINDS = {name: getattr(torch, name) for name in _NAMES if hasattr(torch, name)}


class Global(NamedTuple):
    """A name that a pickle refers to. Nothing is looked up by it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """An object as a pickle describes it: what would have been called, with what, and the state it would have got."""

    __slots__ = ("called", "arguments", "state", "items")

    def __init__(self, called: Any, arguments: Any):
        self.called = called
        self.arguments = arguments
        self.state: Any = None
        self.items: dict[Any, Any] | None = None  # what a dict of another class holds

    def attribute(self, name: str) -> Any:
        """Of the state, which is a dict, or a pair of dicts where a class has slots; None where there is none."""
        is_pair = isinstance(self.state, tuple) and len(self.state) == 2
        for part in self.state if is_pair else (self.state,):
            if isinstance(part, dict) and name in part:
                return part[name]
        return None


class LongText:
    """A text too long to be a name, not decoded. decoder: an incremental one's class."""

    __slots__ = ("view", "decoder")

    def __init__(self, view: memoryview, decoder: Any):
        self.view = view
        self.decoder = decoder


class Storage:
    """Numbers in a row, which tensors are views of. data: their bytes, None until the file says where they are."""

    __slots__ = ("kind", "count", "data", "_bytes")

    def __init__(self, kind: torch.dtype | None, count: int, data: memoryview | None = None):
        self.kind = kind
        self.count = count
        self.data = data
        self._bytes: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.count * (self.kind.itemsize if self.kind else 1)

    def numbers(self, kind: torch.dtype) -> Tensor:
        """All of it as a 1-D tensor, which shares the file's memory; it need not be aligned."""
        if self._bytes is None:
            self._bytes = torch.frombuffer(self.data, dtype=torch.uint8)
        return self._bytes[: self.nbytes // kind.itemsize * kind.itemsize].view(kind)


class View:
    """A tensor as a pickle describes it: where its numbers lie in a storage. The description is checked here."""

    __slots__ = ("storage", "kind", "offset", "size", "stride")

    def __init__(self, storage: Storage, kind: torch.dtype, offset: int, size: tuple, stride: tuple):
        shape = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
            raise damaged("it describes a tensor by a shape and strides that don't fit each other")
        if not all(type(number) is int and 0 <= number < LARGEST for number in shape):
            raise damaged("it describes a tensor by numbers that no tensor has")
        if math.prod(max(length, 1) for length in size) >= LARGEST:
            raise damaged("it describes a tensor larger than there can be")
        self.storage, self.kind, self.offset, self.size, self.stride = storage, kind, offset, size, stride

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * self.kind.itemsize

    def tensor(self) -> Tensor:
        """On the CPU, in the file's own memory."""
        if not self.nbytes:
            return torch.empty(self.size, dtype=self.kind)
        if self.storage.data is None:
            raise UnusableError("it refers to the memory of another program")
        reach = self.offset + 1 + sum((length - 1) * step for length, step in zip(self.size, self.stride, strict=True))
        if reach * self.kind.itemsize > self.storage.nbytes:
            raise damaged("it describes a tensor that reaches beyond its numbers")
        return self.storage.numbers(self.kind).as_strided(self.size, self.stride, self.offset)
