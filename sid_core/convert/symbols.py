"""The few names in a pickle that something comes of: what tensors, and dicts of them, are made from.

None of it is the function of that name; each is a reading of the arguments that this function is given. A call of
anything else is kept as a Record.
"""

from collections.abc import Callable
from typing import Any

import torch

from .budget import ITEM, Budget
from .errors import UnusableError, damaged
from .machine import as_key
from .values import KINDS, STORAGES, Global, LongText, Record, Storage, View

STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")
PIECE = 1 << 20  # bytes of a text
# Where tensors of a class of their own are told by their attributes, these are plain ones.
PLAIN_TENSORS = {
    Global("torch", "Tensor"),
    Global("torch._tensor", "Tensor"),
    Global("torch.nn.parameter", "Parameter"),
    Global("torch.nn.parameter", "Buffer"),
}


class Calls:
    """What comes of a pickle's calls. load: reads the bytes of a file within this one, None where there are none."""

    def __init__(self, budget: Budget, load: Callable[[memoryview], Any] | None = None):
        self._budget = budget
        self._load = load
        self._within: dict[int, tuple[memoryview, Any]] = {}  # by id, and kept so that it stays theirs
        self._made: dict[Global, Callable[..., Any]] = {
            Global("collections", "OrderedDict"): self._ordered,
            Global("_codecs", "encode"): self._encoded,
            Global("torch", "Size"): self._size,
            Global("torch._utils", "_rebuild_tensor"): self._tensor,
            Global("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            Global("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_kind,
            Global("torch._utils", "_rebuild_parameter"): self._parameter,
            Global("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            Global("torch._tensor", "_rebuild_from_type_v2"): self._typed,
        }
        for builtins in ("builtins", "__builtin__"):  # of Python 3 and 2, as which old protocols name them
            self._made |= {Global(builtins, name): self._list for name in ("set", "frozenset", "list")}
            self._made |= {Global(builtins, name): self._bytes for name in ("bytes", "bytearray")}
        if load:
            self._made[Global("torch.storage", "_load_from_bytes")] = self._loaded

    def __call__(self, called: Any, arguments: tuple) -> Any:
        """The value of the call. Raises UnusableError where a name of these has arguments that it can't have."""
        make = self._made.get(called) if isinstance(called, Global) else None
        if make is None:
            return Record(called, arguments)
        try:
            return make(*arguments)
        except (TypeError, AttributeError) as error:  # too few or many, or of another kind
            raise damaged(f"it calls {called} with what that doesn't take") from error

    def _ordered(self, pairs: list | tuple = ()) -> dict:
        made = {}
        for pair in pairs:
            self._budget.step()
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise TypeError
            made[as_key(pair[0])] = pair[1]
        return made

    def _list(self, values: list | tuple = ()) -> list:
        if isinstance(values, list):
            return values
        self._budget.take(8 * len(values))
        return list(values)

    def _size(self, values: list | tuple = ()) -> tuple:
        self._budget.take(8 * len(values))
        return tuple(values)

    def _bytes(self, *values: Any) -> Any:
        """Old protocols have no bytes of their own: empty ones are a call without arguments."""
        if not values:
            return memoryview(b"")
        return values[0] if isinstance(values[0], memoryview) else Record(Global("builtins", "bytes"), values)

    def _encoded(self, text: str | LongText, encoding: str = "utf-8") -> Any:
        """Other bytes are the characters of a text, each of which stands for one."""
        if encoding not in ("latin1", "latin-1"):
            raise TypeError
        try:
            if isinstance(text, LongText):
                return self._encoded_long(text)
            self._budget.take(len(text) + 3 * ITEM)
            return memoryview(bytearray(text, "latin-1"))
        except UnicodeError as error:
            raise damaged("it has bytes that are none") from error

    def _encoded_long(self, text: LongText) -> memoryview:
        # A character takes one byte at least; what isn't needed of this was never touched.
        self._budget.take(len(text.view))
        encoded, length = bytearray(len(text.view)), 0
        decoder = text.decoder()
        for start in range(0, len(text.view), PIECE):
            piece = text.view[start : start + PIECE]
            part = decoder.decode(bytes(piece), start + PIECE >= len(text.view)).encode("latin-1")
            encoded[length : length + len(part)] = part
            length += len(part)
        return memoryview(encoded)[:length]

    def _loaded(self, content: memoryview) -> Any:
        if not isinstance(content, memoryview):
            raise TypeError
        if id(content) not in self._within:
            self._budget.take(2 * ITEM)
            self._within[id(content)] = content, self._load(content)
        return self._within[id(content)][1]

    def _tensor(
        self, storage: Storage, offset: int, size: tuple, stride: tuple, *others: Any, kind: torch.dtype | None = None
    ) -> View:
        """others: whether it was trained, hooks, and what is to be done to its numbers: negated, or conjugated."""
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise TypeError
        if len(others) > 2 and others[2]:
            raise UnusableError("its numbers are to be conjugated or negated when they are read")
        kind = kind or storage.kind
        if kind is None:
            raise TypeError
        self._budget.take(3 * ITEM)
        return View(storage, kind, offset, size, stride)

    def _tensor_of_kind(
        self,
        storage: Storage,
        offset: int,
        size: tuple,
        stride: tuple,
        trained: Any,
        hooks: Any,
        kind: Any,
        *others: Any,
    ) -> View:
        known = KINDS.get(kind.name) if isinstance(kind, Global) and kind.module == "torch" else None
        if known is None:
            raise _unknown_kind(kind)
        return self._tensor(storage, offset, size, stride, trained, hooks, *others, kind=known)

    def _parameter(self, data: Any, *others: Any) -> Any:
        return data

    def _typed(self, rebuild: Any, kind: Any, arguments: tuple, state: Any) -> Any:
        if kind not in PLAIN_TENSORS or not isinstance(arguments, tuple):
            return Record(kind, arguments)
        return self(rebuild, arguments)


def storage_kind(named: Any) -> torch.dtype | None:
    """The kind of numbers in a storage of this class; None where its tensors say it.

    Raises UnusableError for others than those of plain tensors.
    """
    if isinstance(named, Global) and named.module in STORAGE_MODULES and named.name in STORAGES:
        return STORAGES[named.name]
    raise _unknown_kind(named)


def _unknown_kind(named: Any) -> UnusableError:
    return UnusableError(f"its numbers are of a kind that isn't read here ({str(named)[:100]})")
