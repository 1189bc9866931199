"""The pickle machine without anything to call: each of its operations, on inert values.

By the description of the operations in Python's pickletools. What a pickle calls is handed to `call`, which decides
what comes of it and imports nothing; all that is made is counted in a budget before it is made.
"""

import codecs
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from .budget import ITEM, Budget
from .errors import damaged
from .reader import Reader, decoded
from .values import Global, LongText, Record

LONGEST_TEXT = 1 << 16  # bytes that are decoded at once; longer texts are bytes of tensors in old protocols
LONGEST_NUMBER = 255  # bytes, or digits
NEWEST_PROTOCOL = 5
PLAIN_KEYS = 1 << 32  # larger numbers as keys could be chosen to have one hash
# Made here, for the first use of one imports a module.
UTF8 = codecs.getincrementaldecoder("utf-8")
ESCAPED = codecs.getincrementaldecoder("raw-unicode-escape")


class Machine:
    """Reads one pickle after the other from a reader.

    call(called, arguments): the value of a call. refer(identity): of what a pickle says lies outside of it.
    """

    def __init__(
        self, reader: Reader, budget: Budget, call: Callable[[Any, Any], Any], refer: Callable[[Any], Any] | None = None
    ):
        self.reader = reader
        self.budget = budget
        self._call = call
        self._refer = refer

    def read(self) -> Any:
        """The value of the next pickle. Raises UnusableError for what is none, or takes too much."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        step, byte = self.budget.step, self.reader.byte
        while True:
            step()
            code = byte()
            if code == STOP:
                return self.pop()
            operation = OPERATIONS.get(code)
            if operation is None:
                raise damaged(f"it has the byte {code:#04x} where a pickle has an operation")
            operation(self)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= self.floor():
            raise damaged("it takes more from its stack than there is")
        return self.stack.pop()

    def top(self) -> Any:
        self.push(value := self.pop())
        return value

    def floor(self) -> int:
        """How much of the stack lies below the last mark."""
        return self.marks[-1] if self.marks else 0

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise damaged("it goes back to a mark that isn't there")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def drop(self) -> None:
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def keep(self, place: int) -> None:
        if place < 0:
            raise damaged("it keeps a value at a place below the first")
        self.budget.take(2 * ITEM)
        self.memo[place] = self.top()

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise damaged("it refers to a value that it has not kept")
        self.push(self.memo[place])

    def text(self, view: memoryview) -> None:
        if len(view) > LONGEST_TEXT:
            self.long(view, UTF8)
        else:
            self.budget.take(4 * len(view))
            self.push(decoded(view))

    def escaped_text(self) -> None:
        line = self.reader.line()
        if len(line) > LONGEST_TEXT:
            self.long(line, ESCAPED)
        else:
            self.budget.take(4 * len(line))
            try:
                self.push(str(line, "raw-unicode-escape"))
            except UnicodeDecodeError as error:
                raise damaged("it has a text that is none") from error

    def long(self, view: memoryview, decoder: Any) -> None:
        self.budget.take(3 * ITEM)
        self.push(LongText(view, decoder))

    def old_text(self, view: memoryview) -> None:
        """Bytes of Python 2, which are names."""
        if len(view) > LONGEST_TEXT:
            raise damaged(f"it has a name of {len(view):,} bytes")
        self.budget.take(4 * len(view))
        try:
            self.push(str(view, "utf-8"))
        except UnicodeDecodeError:
            self.push(str(view, "latin-1"))

    def quoted_text(self) -> None:
        line = self.reader.line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"" or b"\\" in bytes(line[:LONGEST_TEXT]):
            raise damaged("it has a name that isn't in quotes, or has escapes in it")
        self.old_text(line[1:-1])

    def binary(self, view: memoryview) -> None:
        self.budget.take(3 * ITEM)
        self.push(view)

    def long_number(self, count: int) -> None:
        if not 0 <= count <= LONGEST_NUMBER:
            raise damaged(f"it has a number of {count:,} bytes")
        self.budget.take(count)
        self.push(self.reader.number(count, signed=True))

    def written_number(self, ending: str, read: Callable[[str], Any]) -> None:
        word = self.reader.word().removesuffix(ending)
        if len(word) > LONGEST_NUMBER:
            raise damaged(f"it has a number of {len(word):,} digits")
        try:
            self.push(read(word))
        except ValueError as error:
            raise damaged("it has a number that is none") from error

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def marked(self, make: Callable[[list[Any]], Any]) -> None:
        values = self.since_mark()
        self.budget.take(8 * len(values))
        self.push(make(values))

    def fill(self, pairs: list[Any]) -> None:
        """Into the dict on the stack, or into a record that is a dict of another class."""
        target = self.top()
        if isinstance(target, Record):
            target.items = {} if target.items is None else target.items
            target = target.items
        if not isinstance(target, dict) or len(pairs) % 2:
            raise damaged("it sets items of what has none")
        self.budget.take(32 * len(pairs))
        target.update(zip(map(as_key, pairs[::2]), pairs[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            self.budget.take(8 * len(values))
            target.extend(values)
        elif not isinstance(target, Record):  # a list of another class, the members of which nobody asks for
            raise damaged("it appends to what isn't a list")

    def name(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise damaged("it refers to something by what is no name")
        return Global(module, name)

    def call(self, called: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise damaged("it calls something without a tuple of arguments")
        self.budget.take(2 * ITEM)
        self.push(self._call(called, arguments))

    def call_marked(self, called: Any = None) -> None:
        values = self.since_mark()
        if called is None:
            if not values:
                raise damaged("it makes an object of no class")
            called = values.pop(0)
        self.call(called, tuple(values))

    def call_popped(self, extra: int = 0) -> None:
        """With the tuple on the stack. extra: how much lies above it, which is left out of what is remembered."""
        for _ in range(extra):
            self.pop()
        arguments = self.pop()
        self.call(self.pop(), arguments)

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Record):
            if target.state is not None:
                raise damaged("it sets the state of an object twice")
            target.state = state

    def named_on_stack(self) -> None:
        name = self.pop()
        self.push(self.name(self.pop(), name))

    def refer(self, identity: Any) -> None:
        if self._refer is None:
            raise damaged("it refers to what another file or program has")
        self.budget.take(2 * ITEM)
        self.push(self._refer(identity))

    def protocol(self) -> None:
        if (found := self.reader.byte()) > NEWEST_PROTOCOL:
            raise damaged(f"it says that it is a pickle of protocol {found}, and the newest is {NEWEST_PROTOCOL}")

    def frame(self) -> None:
        length = self.reader.number(8)
        if length > len(self.reader.view) - self.reader.position:
            raise damaged(f"it is cut short: a part of {length:,} bytes isn't all there")

    def refuse(self, why: str) -> None:
        raise damaged(why)


def as_key(key: Any) -> Any:
    """What stands for a key in a dict: itself where it is a name or a small number, else an object of its own."""
    is_plain = key is None or isinstance(key, str) or (isinstance(key, int) and abs(key) < PLAIN_KEYS)
    return key if is_plain else object()


def as_dict(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise damaged("it makes a dict of a key without a value")
    return dict(zip(map(as_key, values[::2]), values[1::2], strict=True))


def sized(width: int, signed: bool = False) -> Callable[[Machine], memoryview]:
    """Reads bytes that follow their number."""
    return lambda m: m.reader.take(m.reader.number(width, signed))


def _written_place(m: Machine) -> int:
    m.written_number("", int)
    return m.pop()


def _whole_or_truth(word: str) -> int:
    """How protocol 0 writes False and True besides numbers."""
    return word == "01" if word in ("00", "01") else int(word)


def _registered(m: Machine) -> None:
    m.refuse("it refers to classes by numbers that only the program that wrote it knows")


def _buffers(m: Machine) -> None:
    m.refuse("its numbers lie in buffers outside of the file")


# By pickletools' names, in its order.
_BY_NAME: dict[str, Callable[[Machine], None]] = {
    "INT": lambda m: m.written_number("", _whole_or_truth),
    "BININT": lambda m: m.push(m.reader.number(4, signed=True)),
    "BININT1": lambda m: m.push(m.reader.byte()),
    "BININT2": lambda m: m.push(m.reader.number(2)),
    "LONG": lambda m: m.written_number("L", int),
    "LONG1": lambda m: m.long_number(m.reader.byte()),
    "LONG4": lambda m: m.long_number(m.reader.number(4, signed=True)),
    "STRING": lambda m: m.quoted_text(),
    "BINSTRING": lambda m: m.old_text(sized(4, signed=True)(m)),
    "SHORT_BINSTRING": lambda m: m.old_text(sized(1)(m)),
    "BINBYTES": lambda m: m.binary(sized(4)(m)),
    "SHORT_BINBYTES": lambda m: m.binary(sized(1)(m)),
    "BINBYTES8": lambda m: m.binary(sized(8)(m)),
    "BYTEARRAY8": lambda m: m.binary(sized(8)(m)),
    "NEXT_BUFFER": _buffers,
    "READONLY_BUFFER": _buffers,
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "UNICODE": lambda m: m.escaped_text(),
    "SHORT_BINUNICODE": lambda m: m.text(sized(1)(m)),
    "BINUNICODE": lambda m: m.text(sized(4)(m)),
    "BINUNICODE8": lambda m: m.text(sized(8)(m)),
    "FLOAT": lambda m: m.written_number("", float),
    "BINFLOAT": lambda m: m.push(struct.unpack(">d", m.reader.take(8))[0]),
    "EMPTY_LIST": lambda m: m.push([]),
    "APPEND": lambda m: m.extend([m.pop()]),
    "APPENDS": lambda m: m.extend(m.since_mark()),
    "LIST": lambda m: m.marked(list),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "TUPLE": lambda m: m.marked(tuple),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "EMPTY_DICT": lambda m: m.push({}),
    "DICT": lambda m: m.marked(as_dict),
    "SETITEM": lambda m: m.fill([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.fill(m.since_mark()),
    "EMPTY_SET": lambda m: m.push([]),
    "ADDITEMS": lambda m: m.extend(m.since_mark()),
    "FROZENSET": lambda m: m.marked(list),
    "POP": lambda m: m.drop(),
    "DUP": lambda m: m.push(m.top()),
    "MARK": lambda m: m.mark(),
    "POP_MARK": lambda m: m.since_mark(),
    "GET": lambda m: m.recall(_written_place(m)),
    "BINGET": lambda m: m.recall(m.reader.byte()),
    "LONG_BINGET": lambda m: m.recall(m.reader.number(4)),
    "PUT": lambda m: m.keep(_written_place(m)),
    "BINPUT": lambda m: m.keep(m.reader.byte()),
    "LONG_BINPUT": lambda m: m.keep(m.reader.number(4)),
    "MEMOIZE": lambda m: m.keep(len(m.memo)),
    "EXT1": _registered,
    "EXT2": _registered,
    "EXT4": _registered,
    "GLOBAL": lambda m: m.push(m.name(m.reader.word(), m.reader.word())),
    "STACK_GLOBAL": lambda m: m.named_on_stack(),
    "REDUCE": lambda m: m.call_popped(),
    "BUILD": lambda m: m.build(),
    "INST": lambda m: m.call_marked(m.name(m.reader.word(), m.reader.word())),
    "OBJ": lambda m: m.call_marked(),
    "NEWOBJ": lambda m: m.call_popped(),
    "NEWOBJ_EX": lambda m: m.call_popped(extra=1),
    "PROTO": lambda m: m.protocol(),
    "PERSID": lambda m: m.refer(m.reader.word()),
    "BINPERSID": lambda m: m.refer(m.pop()),
    "FRAME": lambda m: m.frame(),
}
STOP = ord(".")
OPERATIONS = {ord(code.code): _BY_NAME[code.name] for code in pickletools.opcodes if code.name != "STOP"}
