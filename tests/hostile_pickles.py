"""Pickles that were made to harm: by what they call, how large they say something is, and what they make of memory."""

import pickle
import struct

import torch
from pickle_parts import (
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    FALSE,
    HOOKS,
    LEGACY,
    LOAD,
    NONE,
    REBUILD,
    REBUILD_KIND,
    STORAGE,
    STORAGE_ZIPPED,
    ZIPPED,
    Case,
    binary,
    call,
    legacy,
    mapping,
    name,
    network,
    number,
    numbers,
    only,
    saved,
    several,
    storage_of,
    stored,
    tensor,
    text,
    whole,
    with_part,
)

CALLED = {
    ("os", "system"): [text("touch ran")],
    ("posix", "system"): [text("touch ran")],
    ("nt", "system"): [text("touch ran")],
    ("os", "popen"): [text("touch ran")],
    ("os", "execlp"): [text("touch"), text("touch"), text("ran")],
    ("os", "remove"): [text("ran")],
    ("subprocess", "Popen"): [text("touch ran")],
    ("subprocess", "check_output"): [text("touch ran")],
    ("builtins", "eval"): [text("open('ran', 'w')")],
    ("builtins", "exec"): [text("open('ran', 'w')")],
    ("__builtin__", "eval"): [text("open('ran', 'w')")],
    ("builtins", "open"): [text("ran"), text("w")],
    ("builtins", "__import__"): [text("antigravity")],
    ("builtins", "getattr"): [name("os", "path"), text("exists")],
    ("builtins", "breakpoint"): [],
    ("builtins", "input"): [],
    ("io", "open"): [text("ran"), text("w")],
    ("codecs", "open"): [text("ran"), text("w")],
    ("importlib", "import_module"): [text("antigravity")],
    ("runpy", "run_path"): [text("ran")],
    ("code", "interact"): [],
    ("pty", "spawn"): [text("sh")],
    ("pdb", "run"): [text("open('ran', 'w')")],
    ("timeit", "timeit"): [text("open('ran', 'w')")],
    ("webbrowser", "open"): [text("http://localhost")],
    ("socket", "create_connection"): [several(text("localhost"), number(9))],
    ("urllib.request", "urlopen"): [text("http://localhost:9")],
    ("shutil", "rmtree"): [text("ran")],
    ("pathlib", "Path.touch"): [text("ran")],
    ("ctypes", "CDLL"): [text("libc.so.6")],
    ("pickle", "loads"): [binary(pickle.dumps(1))],
    ("marshal", "loads"): [binary(b"N")],
    ("types", "FunctionType"): [NONE, EMPTY_DICT],
    ("operator", "attrgetter"): [text("system")],
    ("functools", "partial"): [name("os", "system"), text("touch ran")],
    ("torch.hub", "load"): [text("a/b"), text("c")],
    ("torch", "load"): [text("ran")],
    ("torch.jit", "load"): [text("ran")],
    ("torch.serialization", "load"): [text("ran")],
    ("torch._utils", "_import_dotted_name"): [text("antigravity.geohash")],
    ("torch", "empty"): [number(1 << 40)],
    ("numpy", "zeros"): [number(1 << 40)],
    ("sys", "exit"): [number(0)],
}


def ways(module: str, attribute: str, arguments: list[bytes]) -> dict[str, bytes]:
    """The operations that make a pickle call something."""
    named, given = name(module, attribute), several(*arguments)
    on_stack = text(module) + text(attribute) + b"\x93"
    return {
        "GLOBAL REDUCE": named + given + b"R",
        "STACK_GLOBAL REDUCE": on_stack + given + b"R",
        "INST": b"(" + b"".join(arguments) + f"i{module}\n{attribute}\n".encode(),
        "OBJ": b"(" + named + b"".join(arguments) + b"o",
        "NEWOBJ": named + given + b"\x81",
        "NEWOBJ_EX": named + given + EMPTY_DICT + b"\x92",
        "BUILD": named + EMPTY_TUPLE + b"\x81" + given + b"b",
        "called twice": named + given + b"R" + EMPTY_TUPLE + b"R",
    }


def calls() -> dict[str, Case]:
    cases = {}
    for (module, attribute), arguments in CALLED.items():
        for way, operations in ways(module, attribute, arguments).items():
            cases[f"{module}.{attribute} by {way}"] = Case(network(other=operations), is_readable=True)
    system = call(name("os", "system"), text("touch ran"))
    partial = call(name("functools", "partial"), name("os", "system"), text("touch ran"))
    chain = name("os", "system")
    for step in ("__globals__", "__getitem__", "__call__"):
        chain = call(name("builtins", "getattr"), chain, text(step))
    within = {
        "a call as the file": whole(system),
        "a call as the network": whole(mapping(ema=system)),
        "a call as a tensor": only(call(name("torch._utils", "_rebuild_sparse_tensor"), system)),
        "a call as a storage": only(tensor(storage=system)),
        "a call as a size": only(tensor(size=system)),
        "a call as an offset": only(tensor(offset=system)),
        "a call as what is loaded": only(tensor(storage=call(LOAD, system))),
        "a call as a parameter": only(call(name("torch._utils", "_rebuild_parameter"), system)),
        "a tensor of a class": only(
            call(name("torch._tensor", "_rebuild_from_type_v2"), name("os", "system"), name("os", "system"), NONE, NONE)
        ),
        "a rebuilder that isn't one": only(
            call(
                name("torch._tensor", "_rebuild_from_type_v2"),
                name("os", "system"),
                name("torch", "Tensor"),
                several(text("touch ran")),
                NONE,
            )
        ),
        "an encoding": only(tensor(storage=call(LOAD, call(name("_codecs", "encode"), text("a"), text("zip"))))),
        "a loader of a path": only(tensor(storage=call(LOAD, text("ran")))),
        "EXT1": network(other=b"\x82\x01"),
        "EXT2": network(other=b"\x83\x01\x00"),
        "EXT4": network(other=b"\x84\x01\x00\x00\x00"),
        "PERSID": network(other=b"Pos.system\n"),
        "BINPERSID": network(other=text("os.system") + b"Q"),
        "BINPERSID of a storage": network(other=several(text("storage"), name("os", "system")) + b"Q"),
        "NEXT_BUFFER": network(other=b"\x97"),
        "READONLY_BUFFER": network(other=binary(b"a") + b"\x98"),
        "STACK_GLOBAL of a call": network(other=text("os") + system + b"\x93"),
        "STACK_GLOBAL of numbers": network(other=number(1) + number(2) + b"\x93"),
        "REDUCE without a tuple": network(other=name("os", "system") + text("touch ran") + b"R"),
        "OBJ of nothing": network(other=b"(o"),
    }
    readable = {
        "a chain of getattr": chain,
        "a call of a call's value": call(partial),
        "STACK_GLOBAL with dots": call(text("os") + text("path.os.system") + b"\x93", text("touch ran")),
        "STACK_GLOBAL without a module": call(text("") + text("eval") + b"\x93", text("1")),
        "a call as a key": EMPTY_DICT + system + number(1) + b"s",
        "a call in a set": b"\x8f(" + system + b"\x90",
        "a call in a frozenset": b"(" + system + b"\x91",
        "a state that is a call": name("a", "B") + EMPTY_TUPLE + b"\x81" + system + b"b",
        "state of slots": name("a", "B") + EMPTY_TUPLE + b"\x81" + several(mapping(a=system), mapping(b=system)) + b"b",
        "__setstate__ of a name": name("os", "system") + text("touch ran") + b"b",
        "__reduce__ in a state": name("a", "B") + EMPTY_TUPLE + b"\x81" + mapping(__reduce__=system) + b"b",
        "items of a call": system + b"(" + text("a") + number(1) + b"u",
        "appended to a call": system + b"(" + text("a") + b"e",
        "a name with a path": call(name("../../tmp/x", "y"), NONE),
        "a name of odd letters": call(name("os\u202e", "\x1b[31msystem"), NONE),
    }
    return (
        cases
        | {key: Case(content) for key, content in within.items()}
        | {key: Case(network(other=operations), is_readable=True) for key, operations in readable.items()}
    )


def nested() -> dict[str, Case]:
    """Files within the pickle, as its storages are."""
    system = call(name("os", "system"), text("touch ran"))
    contents = {
        "a pickle": whole(system),
        "a pickle of a storage": whole(stored()),
        "a pickle of a pickle": whole(stored(whole(stored()))),
        "nothing": b"",
        "a page": b"<html>",
        "a legacy file of a dict": LEGACY,
        "a zip file of a dict": ZIPPED,
        "half a legacy file": STORAGE[: len(STORAGE) // 2],
        "half a zip file": STORAGE_ZIPPED[: len(STORAGE_ZIPPED) // 2],
        "a legacy file, one byte short": STORAGE[:-1],
        "a legacy file with a call": legacy(system, EMPTY_LIST, b""),
        "a legacy file that loads another": legacy(stored(), EMPTY_LIST, b""),
        "a zip file with a call": with_part("data.pkl", whole(system, 2)),
        "a zip file that loads another": with_part("data.pkl", whole(stored(), 2)),
    }
    again = LOAD + b"h\x01\x85R"
    often = mapping(other=EMPTY_LIST + b"(" + 5_000 * again + b"e", ema=mapping(weight=tensor(storage=again)))
    readable = {
        "a zip file": only(tensor(storage=stored(STORAGE_ZIPPED))),
        "a file loaded 5,000 times": whole(binary(STORAGE) + b"q\x010" + often),
    }
    return {f"within: {key}": Case(only(tensor(storage=stored(content)))) for key, content in contents.items()} | {
        f"within: {key}": Case(content, is_readable=True) for key, content in readable.items()
    }


def tensors() -> dict[str, Case]:
    """Shapes that no tensor has, or that reach beyond its numbers."""
    huge = 1 << 62
    described = {
        "offset -1": tensor(offset=number(-1)),
        "offset 1": tensor(offset=number(1)),
        "offset 2^62": tensor(offset=number(huge)),
        "offset 2^64": tensor(offset=number(1 << 64)),
        "offset 2^600": tensor(offset=number(1 << 600)),
        "offset True": tensor(offset=b"\x88"),
        "offset 0.5": tensor(offset=b"G" + struct.pack(">d", 0.5)),
        "offset None": tensor(offset=NONE),
        "offset a list": tensor(offset=EMPTY_LIST),
        "size -1": tensor(size=numbers(-1)),
        "size -6, -1": tensor(size=numbers(-6, -1), stride=numbers(1, 1)),
        "size 7": tensor(size=numbers(7)),
        "size 2^62": tensor(size=numbers(huge)),
        "size 2^64": tensor(size=numbers(1 << 64)),
        "size 2^32, 2^32": tensor(size=numbers(1 << 32, 1 << 32), stride=numbers(0, 0)),
        "size 0, 2^47, 2^47": tensor(size=numbers(0, 1 << 47, 1 << 47), stride=numbers(1, 1, 1)),
        "size a list": tensor(size=EMPTY_LIST),
        "size a text": tensor(size=text("6")),
        "size of texts": tensor(size=several(text("6"))),
        "size of True": tensor(size=several(b"\x88")),
        "size None": tensor(size=NONE),
        "size of 65": tensor(size=numbers(*[1] * 65), stride=numbers(*[1] * 65)),
        "size of 100,000": tensor(size=numbers(*[1] * 100_000), stride=numbers(*[1] * 100_000)),
        "size of itself": tensor(size=EMPTY_LIST + b"q\x01h\x01a\x85"),
        "stride -1": tensor(stride=numbers(-1)),
        "stride 2": tensor(stride=numbers(2)),
        "stride 2^62": tensor(stride=numbers(huge)),
        "stride 2^63": tensor(size=numbers(2), stride=numbers(1 << 63)),
        "stride 0 and size 2^40": tensor(size=numbers(1 << 40), stride=numbers(0)),
        "stride 0 and size 2^21": tensor(size=numbers(1 << 21), stride=numbers(0)),
        "stride of two": tensor(stride=numbers(1, 1)),
        "stride of none": tensor(stride=EMPTY_TUPLE),
        "stride a dict": tensor(stride=EMPTY_DICT),
        "no storage": tensor(storage=NONE),
        "a tensor as a storage": tensor(storage=tensor()),
        "a storage as a tensor": stored(),
        "no arguments": call(REBUILD),
        "three arguments": call(REBUILD, stored(), number(0), numbers(6)),
        "conjugated": call(REBUILD, stored(), number(0), numbers(6), numbers(1), FALSE, HOOKS, mapping(conj=b"\x88")),
        "of no kind": call(REBUILD_KIND, stored(), number(0), numbers(6), numbers(1), FALSE, HOOKS, NONE),
        "of an unknown kind": call(
            REBUILD_KIND, stored(), number(0), numbers(6), numbers(1), FALSE, HOOKS, name("torch", "qint8")
        ),
        "of a called kind": call(
            REBUILD_KIND, stored(), number(0), numbers(6), numbers(1), FALSE, HOOKS, name("os", "float32")
        ),
        "of a wider kind": call(
            REBUILD_KIND, stored(), number(0), numbers(6), numbers(1), FALSE, HOOKS, name("torch", "float64")
        ),
        "quantized": call(name("torch._utils", "_rebuild_qtensor"), stored(), number(0), numbers(6), numbers(1)),
        "on no device": call(name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float32")),
        "a number": number(5),
    }
    names = b"".join(text(f"{index}") + b"h\x01" for index in range(50_000))
    many = stored(saved(storage_of(torch.zeros(1_000)), is_zip=False))
    large = tensor(many, size=numbers(1_000)) + b"q\x010"
    return {f"tensor: {key}": Case(only(operations)) for key, operations in described.items()} | {
        "tensor: one of 4 kB under 50,000 names": Case(whole(large + mapping(ema=EMPTY_DICT + b"(" + names + b"u"))),
    }


def rubbish() -> dict[str, Case]:
    """Pickles that are none, or that don't fit together."""
    good = mapping(ema=mapping(weight=tensor()))
    operations = {
        "an unknown operation": b"\xff",
        "the operation zero": b"\x00",
        "POP of nothing": b"000000000",
        "below the mark": b"(" + b"a",
        "TUPLE3 of two": b"(NN\x87",
        "POP_MARK without a mark": b"1",
        "TUPLE without a mark": b"t",
        "APPENDS to a number": number(1) + b"(Ne",
        "APPEND to a dict": EMPTY_DICT + b"Na",
        "SETITEM of a list": EMPTY_LIST + b"NNs",
        "SETITEMS of an odd number": EMPTY_DICT + b"(NNNu",
        "DICT of an odd number": b"(NNNd",
        "ADDITEMS to None": b"N(N\x90",
        "BINGET of what isn't kept": b"h\x63",
        "GET of a word": b"gabc\n",
        "GET of -1": b"g-1\n",
        "PUT of -1": b"Np-1\n",
        "PUT of a long number": b"Np" + b"9" * 300 + b"\n",
        "MEMOIZE of nothing": b"(\x94",
        "INT of a word": b"Iabc\n",
        "INT of 100,000 digits": b"I" + b"9" * 100_000 + b"\n",
        "LONG of 900 digits": b"L" + b"9" * 900 + b"L\n",
        "FLOAT of a word": b"Fabc\n",
        "FLOAT of 100,000 digits": b"F" + b"9" * 100_000 + b"\n",
        "STRING without quotes": b"Sabc\n",
        "STRING of one quote": b"S'\n",
        "STRING with escapes": b"S'a\\x00'\n",
        "UNICODE that is cut": b"V\\u12\n",
        "UTF-8 that is none": b"X\x01\x00\x00\x00\xff",
        "a name without an end": b"cabc",
        "a name of 100,000 letters": b"c" + b"a" * 100_000 + b"\nb\n",
        "a name that isn't UTF-8": b"c\xff\xfe\nb\n",
        "LONG4 of -1 bytes": b"\x8b\xff\xff\xff\xff",
        "LONG4 of 2^31-1 bytes": b"\x8b\xff\xff\xff\x7f",
        "LONG4 of 100,000 bytes": b"\x8b" + struct.pack("<i", 100_000) + bytes(100_000),
        "BINSTRING of -1 bytes": b"T\xff\xff\xff\xff",
        "BINSTRING of 2^31-1 bytes": b"T\xff\xff\xff\x7f",
        "BINUNICODE of 2^32-1 bytes": b"X\xff\xff\xff\xff",
        "BINUNICODE8 of 2^63 bytes": b"\x8d" + struct.pack("<Q", 1 << 63),
        "BINBYTES of 2^32-1 bytes": b"B\xff\xff\xff\xff",
        "BINBYTES8 of 2^64-1 bytes": b"\x8e" + struct.pack("<Q", (1 << 64) - 1),
        "BYTEARRAY8 of 2^62 bytes": b"\x96" + struct.pack("<Q", 1 << 62),
        "FRAME of 2^63 bytes": b"\x95" + struct.pack("<Q", 1 << 63),
        "BINFLOAT that is cut": b"G\x00",
        "PROTO 6": b"\x80\x06",
        "PROTO 255": b"\x80\xff",
        "a state that is set twice": name("a", "B") + EMPTY_TUPLE + b"\x81" + EMPTY_DICT + b"b" + EMPTY_DICT + b"b",
        "an OrderedDict of a number": call(name("collections", "OrderedDict"), number(3)),
        "an OrderedDict of triples": call(
            name("collections", "OrderedDict"), EMPTY_LIST + several(NONE, NONE, NONE) + b"a"
        ),
        "a Size of a number": call(name("torch", "Size"), number(3)),
        "a set of a number": call(name("builtins", "set"), number(3)),
        "bytes of a euro": call(name("_codecs", "encode"), text("€"), text("latin1")),
        "bytes of many euros": call(name("_codecs", "encode"), text("€" * 100_000), text("latin1")),
    }
    return {f"rubbish: {key}": Case(network(other=value)) for key, value in operations.items()} | {
        "rubbish: no end": Case(whole(good)[:-1]),
        "rubbish: an end alone": Case(b"\x80\x04."),
        "rubbish: nothing of a network": Case(whole(NONE)),
        "rubbish: an empty network": Case(whole(mapping(ema=EMPTY_DICT))),
        "rubbish: a number": Case(whole(number(5))),
        "rubbish: PROTO 9 at once": Case(b"\x80\x09" + good + b"."),
        "rubbish: one name twice, by a wrapper": Case(
            whole(mapping(ema=mapping(**{"weight": tensor(), "_orig_mod.weight": tensor()})))
        ),
        "rubbish: one name twice, by dots": Case(
            whole(mapping(ema=mapping(**{"a": mapping(b=tensor()), "a.b": tensor()})))
        ),
        "rubbish: more behind the end": Case(network() + b"cos\nsystem\n", is_readable=True),
        "rubbish: another pickle behind": Case(network() + whole(NONE), is_readable=True),
        "rubbish: a key twice": Case(
            whole(mapping(ema=NONE) + b"(" + text("ema") + mapping(weight=tensor()) + b"u"), True
        ),
        "rubbish: a marks' pile": Case(network(other=NONE + b"(" * 1_000 + b"0" * 1_000), is_readable=True),
    }


def bombs() -> dict[str, Case]:
    """Few bytes that make much of memory or time: by copies, by references, by depth."""
    deep = 100_000
    pair = lambda kept: b"h" + bytes([kept])  # noqa: E731
    laughs = mapping(weight=tensor()) + b"q\x01"
    for level in range(1, 100):
        inner = pair(level)
        laughs += b"0" + mapping(a=inner, b=inner) + b"q" + bytes([level + 1])
    module = name("torch.nn.modules.module", "Module") + EMPTY_TUPLE + b"\x81"
    circle = (
        module + b"q\x01" + mapping(_parameters=mapping(weight=tensor()), _modules=mapping(a=pair(1), b=pair(1))) + b"b"
    )
    long_text = "\u0100" + "a" * 2_000_000
    lists = EMPTY_LIST + b"q\x01"
    for level in range(1, 7):
        lists += b"0](" + pair(level) * 100 + b"eq" + bytes([level + 1])
    configured = (
        module
        + mapping(_parameters=mapping(weight=tensor()), _modules=EMPTY_DICT, _internal_dict=mapping(a=lists))
        + b"b"
    )
    encoded = call(name("_codecs", "encode"), pair(1), text("latin1")) + b"0"
    megabyte = text("a" * 1_000_000) + b"q\x010"
    colliding = b"".join(number(key * ((1 << 61) - 1)) + NONE for key in range(20_000))
    shared = EMPTY_LIST + b"(" + several(number(1), NONE) * 10_000 + b"eq\x010"
    return {
        "bomb: references to references": Case(whole(mapping(ema=laughs))),
        "bomb: a module within itself": Case(whole(mapping(ema=circle))),
        "bomb: a dict within itself": Case(whole(EMPTY_DICT + b"q\x01" + text("ema") + pair(1) + b"s")),
        "bomb: settings of references": Case(whole(mapping(ema=configured))),
        "bomb: 2,000,000 lists": Case(network(other=b"](" + b"]" * 2_000_000 + b"e")),
        "bomb: 2,000,000 dicts kept": Case(network(other=b"](" + b"}\x94" * 2_000_000 + b"e")),
        "bomb: 1,000,000 objects": Case(network(other=b"](" + (name("a", "b") + b")\x81") * 1_000_000 + b"e")),
        "bomb: 2,000,000 copies on the stack": Case(network(other=b"](N" + b"2" * 2_000_000 + b"e")),
        "bomb: 1,000,000 empty bytes": Case(network(other=b"](" + b"C\x00" * 1_000_000 + b"e")),
        "bomb: a long text of wide letters": Case(network(other=text(long_text)), is_readable=True),
        "bomb: 400 texts of wide letters": Case(
            network(other=b"](" + text("\U0001f600" + "a" * 60_000) * 400 + b"e"),
        ),
        "bomb: bytes made a thousand times": Case(
            whole(megabyte + encoded * 1_000 + mapping(ema=mapping(weight=tensor())))
        ),
        "bomb: dicts of shared pairs": Case(
            whole(
                shared
                + call(name("collections", "OrderedDict"), pair(1)) * 1_000
                + mapping(ema=mapping(weight=tensor()))
            ),
        ),
        "bomb: keys of one hash": Case(network(other=EMPTY_DICT + b"(" + colliding + b"u"), is_readable=True),
        "deep: lists": Case(network(other=EMPTY_LIST * deep + b"a" * (deep - 1)), is_readable=True),
        "deep: tuples": Case(network(other=EMPTY_TUPLE + b"\x85" * deep), is_readable=True),
        "deep: tuples as a key": Case(
            network(other=EMPTY_DICT + EMPTY_TUPLE + b"\x85" * deep + b"Ns"), is_readable=True
        ),
        "deep: calls": Case(network(other=name("a", "b") + (EMPTY_TUPLE + b"R") * deep), is_readable=True),
        "deep: arguments": Case(
            network(other=name("a", "b") * deep + EMPTY_TUPLE + b"R\x85" * deep + b""), is_readable=True
        ),
        "deep: states": Case(network(other=(name("a", "b") + b")\x81") * deep + b"b" * (deep - 1)), is_readable=True),
        "deep: dicts of the network": Case(
            whole(
                mapping(weight=tensor()) + b"q\x01" + b"".join(b"0}" + text("a") + b"h\x01sq\x01" for _ in range(deep))
            )
        ),
        "deep: marks": Case(network(other=b"(" * deep + b"t" * deep), is_readable=True),
        "deep: a name": Case(only(mapping(**{"a" * 2_000: tensor()}))),
    }


CASES = calls() | nested() | tensors() | rubbish() | bombs()
