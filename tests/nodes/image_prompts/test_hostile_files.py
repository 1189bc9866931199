"""Adapter files that were mutated or made to harm: the loader takes them or says why not, runs nothing, stays small.

In a process of its own, whose memory is limited.
"""

import io
import json
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from adapter_files import LAYOUTS, adapter_tensors, style_encoder_tensors, write_adapter

pytestmark = pytest.mark.usefixtures("comfyui")
WIDTHS, CONTEXT = [32, 64, 64, 64, 32, 32, 64], 16
MEMORY = 1 << 30  # bytes above what importing takes
OPENED = ("__builtin__", "posix", "os", "builtins", "pathlib", "subprocess", "torch", "torch.hub", "nt", "importlib")
RUN = """
import json, resource, sys, traceback
from pathlib import Path
import sid_pack_in_child
from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
for name in json.loads(sys.stdin.read()):
    path = Path(name)
    encoder = path.parent / "encoder.bin" if path.name.startswith("styleshot") else None
    try:
        load_adapter(path, encoder)
        said = None
    except ValueError as error:
        said = str(error)
    except BaseException as error:
        said = "RAW " + "".join(traceback.format_exception(error))[-600:]
    print("FOUND", json.dumps([path.name, said]))
    # That of getrusage begins with what the parent had when it forked.
    largest = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print("FOUND", json.dumps([f"largest after {path.name}", largest]), flush=True)
"""


@pytest.fixture(scope="module")
def loaded(comfyui, comfyui_path, tmp_path_factory):
    """What the loader says of each of some files, by their names: None where it takes one."""
    folder = tmp_path_factory.mktemp("child")
    root = Path(__file__).resolve().parents[3]
    (folder / "sid_pack_in_child.py").write_text(
        f"import sys\nsys.argv = ['x', '--cpu']\nsys.path[:0] = [{str(comfyui_path)!r}, {str(root / 'tests')!r}]\n"
        "import comfy.options\ncomfy.options.enable_args_parsing()\nimport conftest\n"
    )
    (folder / "run.py").write_text(RUN.replace("MEMORY", str(MEMORY)))

    def run(paths):
        child = subprocess.run(
            [sys.executable, folder / "run.py"],
            input=json.dumps([str(path) for path in paths]),
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=120,
        )
        lines = [line.removeprefix("FOUND ") for line in child.stdout.splitlines() if line.startswith("FOUND ")]
        found = dict(json.loads(line) for line in lines)  # the host may say something as well
        assert child.returncode == 0, (len(found), child.stderr[-2000:])
        assert not [said for said in found.values() if isinstance(said, str) and said.startswith("RAW")]
        return found

    return run


def in_words(name, said):
    return said is None or (
        name in said and said.split()[0] in ("Download", "Choose", "Set", "Use") and len(said) < 900
    )


@pytest.fixture
def originals(tmp_path):
    """Whole files: safetensors, zip and old pickles, in each layout."""
    torch.save(style_encoder_tensors(), tmp_path / "encoder.bin")
    for layout in LAYOUTS:
        parts = adapter_tensors(layout, WIDTHS, CONTEXT)
        write_adapter(tmp_path / f"{layout}.bin", layout, parts)
        if layout != "styleshot":
            write_adapter(tmp_path / f"{layout}.safetensors", layout, parts)
            torch.save(parts, tmp_path / f"{layout}-old.bin", _use_new_zipfile_serialization=False)
    return [path for path in sorted(tmp_path.iterdir()) if path.name != "encoder.bin"]


def mutated(content, draw):
    """One of: a flipped bit in the first thousand bytes or anywhere, cut, doubled, zeros, other bytes in the header."""
    content = bytearray(content)
    kind = draw.randrange(7)
    if kind < 3:
        place = draw.randrange(min(len(content), 1000) if kind else len(content))
        content[place] ^= 1 << draw.randrange(8)
    elif kind == 3:
        del content[draw.randrange(len(content)) :]
    elif kind == 4:
        start = draw.randrange(len(content))
        content[start:start] = content[start : start + draw.randrange(200)]
    elif kind == 5:
        start = draw.randrange(len(content))
        content[start : start + 64] = bytes(64)
    else:
        for _ in range(20):
            content[draw.randrange(min(len(content), 2000))] = draw.randrange(256)
    return bytes(content)


def test_mutated_files_are_taken_or_refused_in_words(tmp_path, originals, loaded):
    draw, paths = random.Random(0), list(originals)
    for number in range(400):
        original = originals[number % len(originals)]
        path = tmp_path / f"{original.stem}-{number}{original.suffix}"
        path.write_bytes(mutated(original.read_bytes(), draw))
        paths.append(path)
    found = loaded(paths)
    assert all(found[path.name] is None for path in originals)
    said = {path.name: found[path.name] for path in paths}
    assert [(name, text) for name, text in said.items() if not in_words(name, text)] == []
    assert sum(text is not None for text in said.values()) > 200


class Called:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def by_hand(canary):
    """Pickles that no program writes."""
    command = f"touch {canary}".encode()
    for module in OPENED:
        for name in ("system", "eval", "exec", "getattr", "Popen", "load", "import_module", "_load_local", "load_url"):
            yield b"c" + f"{module}\n{name}\n".encode() + b"(S'" + command + b"'\ntR."
    for module in ("posix", "os"):
        yield b"(S'" + command + b"'\ni" + module.encode() + b"\nsystem\n."  # INST
        yield b"(c" + module.encode() + b"\nsystem\nS'" + command + b"'\no."  # OBJ
        text = b"\x8c" + bytes([len(module)]) + module.encode() + b"\x8c\x06system"
        yield b"\x80\x04" + text + b"\x93\x8c" + bytes([len(command)]) + command + b"\x85R."  # STACK_GLOBAL
        yield b"}(S'a'\nc" + module.encode() + b"\nsystem\nus}b."  # BUILD
    yield b"\x82\x01."  # EXT1
    yield b"\x84\x01\x00\x00\x00."
    yield b"P" + command + b"\n."  # PERSID
    yield b"S'x'\nQ."  # BINPERSID
    yield b"c__builtin__\nbytearray\n(I3000000000\ntR."
    yield b"cbuiltins\nbytearray\n(I3000000000\ntR."
    yield b"\x80\x02" + b"}" + b"r\xff\xff\xff\x7f."  # a memo of 2^31 places
    yield b"\x8e" + (3 << 30).to_bytes(8, "little") + b"x."  # BINBYTES8
    yield b"\x8b" + (3 << 29).to_bytes(4, "little") + b"x."  # LONG4
    yield b"I" + b"9" * 5000 + b"\n."
    yield b"(" * 100_000 + b"."
    yield b"}" + b"}" * 100_000 + b"."
    yield b"(dp0\nS'ip_adapter'\ng0\ns."  # within itself
    yield b"N."
    yield b""
    yield b"\x80\xff."
    yield b"."


def old_file(pickled):
    """As torch wrote files before 1.6, with these tensors."""
    sysinfo = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    begin = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, sysinfo)]
    return b"".join([*begin, pickled, pickle.dumps([], 2)])


def zip_file(pickled, memory=b"", compressed=False):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", memory)
        archive.writestr("archive/version", b"3\n")
    return content.getvalue()


def tensor_of(shape, stride, numel, view=None):
    """A pickle of one tensor: its memory has `numel` numbers, it says."""
    storage = ("storage", torch.FloatStorage, "0", "cpu", numel, *([view] if view else []))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return storage if value is storage_mark else None

    storage_mark = object()
    made = Called(torch._utils._rebuild_tensor_v2, storage_mark, 0, shape, stride, False, {})
    content = io.BytesIO()
    Pickler(content, 2).dump({"ip_adapter": {"1.to_k_ip.weight": made, "1.to_v_ip.weight": made}})
    return content.getvalue()


HUGE = 750_000_000  # numbers, of 4 bytes each


def hostile(canary):
    """Whole files, by suffix."""
    pickles = list(by_hand(canary))
    pickles += [pickle.dumps({"ip_adapter": Called(Path.touch, Path(canary))}, protocol) for protocol in range(2, 5)]
    for pickled in pickles:
        yield pickled
        yield old_file(pickled)
        yield zip_file(pickled)
    for shape, stride, numel in [
        ((HUGE,), (1,), HUGE),
        ((HUGE,), (1,), 4),
        ((HUGE,), (0,), 4),
        ((20_000, 20_000), (0, 0), 1),
    ]:
        yield old_file(tensor_of(shape, stride, numel))
        yield zip_file(tensor_of(shape, stride, numel), bytes(16))
    yield zip_file(tensor_of((4, 4), (4, 1), 16), bytes(8))  # less memory than it says
    yield zip_file(tensor_of((4, 4), (4, 1), -16), bytes(64))
    yield old_file(tensor_of((4, 4), (4, 1), 16, ("1", 0, HUGE)))
    yield zip_file(b"}." + bytes(100 << 20), compressed=True)
    yield zip_file(tensor_of((26_214_400,), (1,), 26_214_400), bytes(100 << 20), compressed=True)


def test_hostile_pickles_run_nothing_and_stay_small(tmp_path, loaded):
    canary = tmp_path / "canary"
    paths = []
    for number, content in enumerate(hostile(canary)):
        paths.append(tmp_path / f"{number}.bin")
        paths[-1].write_bytes(content)
    header = json.dumps({"x": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}).encode()
    for number, size in enumerate((len(header), 3 << 30, 2**63)):
        paths.append(tmp_path / f"{number}.safetensors")
        paths[-1].write_bytes(size.to_bytes(8, "little") + header)
    assert len(paths) > 300
    found = loaded(paths)
    assert not canary.exists()
    said = {path.name: found[path.name] for path in paths}
    assert [(name, text) for name, text in said.items() if text is None or not in_words(name, text)] == []
    assert found[f"largest after {paths[-1].name}"] < 2 << 30


def test_memory_is_at_most_twice_the_file(tmp_path, loaded):
    """Of files of 100 MB, above what a small one takes."""
    sizes = {"small": ([64] * 16, 16), "large": ([1600] * 16, 512), "larger": ([1600] * 20, 512)}
    paths = [tmp_path / "small.bin", tmp_path / "large.safetensors", tmp_path / "larger.bin"]
    for path in paths:
        write_adapter(path, "base", adapter_tensors("base", *sizes[path.stem]))
    found = loaded(paths)
    assert [found[path.name] for path in paths] == [None] * 3
    least, *most = (found[f"largest after {path.name}"] for path in paths)
    for path, taken in zip(paths[1:], most, strict=True):
        assert path.stat().st_size > 100e6
        assert taken - least < 2.1 * path.stat().st_size
