"""Hostile files: nothing in them runs, nothing else is opened, memory stays within bounds, one error says what to do.

All are read in one process of its own, which notes each event that Python's audit hooks tell of while it reads.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hostile_containers
import hostile_pickles
import pytest
from pickle_parts import NETWORK

ROOT = Path(__file__).resolve().parents[3]
CASES = hostile_pickles.CASES | hostile_containers.CASES
BASE = 80 << 20  # bytes that reading may take besides twice the file
DO = "Copy or download|Use another file than|Unpack|Download|Choose|Save"
ERROR = re.compile(rf"({DO}) [^\n]*file[^\n]*: its? [^\n]*\.")
CHILD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import pickle
from sid_core.convert.errors import ForeignFileError
from sid_core.convert.pickles import read_pickle
from sid_core.words import printable

def peak():
    # Of this process alone: what the resource module tells begins with what its parent had.
    if sys.platform != "linux":
        return 0
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

events = None

def note(event, arguments):
    if events is None or event in ("mmap.__new__", "builtins.id"):
        return
    is_reading = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not (is_reading and str(arguments[0]) == sys.argv[3]):
        events.append(f"{event} {arguments}")

def ours(path):
    return {name: tensor.tolist() for name, tensor in read_pickle(path).tensors.items()}

def plain(path):
    return str(pickle.loads(path.read_bytes()))

read = {"ours": ours, "plain": plain}[sys.argv[2]]
path = Path(sys.argv[3])
sys.addaudithook(note)
for name in sys.argv[4:]:
    ours(Path(name))  # all that is imported once
printable("\\0")
base = peak()
for line in sys.stdin:
    name, size = json.loads(line)
    with open("cases", "rb") as cases, path.open("wb") as file:
        cases.seek(name[0])
        for start in range(0, size, 1 << 20):
            file.write(cases.read(min(1 << 20, size - start)))
    said = tensors = None
    events = seen = []
    try:
        tensors = read(path)
    except ForeignFileError as error:
        said = str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        seen.append("another error")
    events = None
    print(json.dumps([name[1], said, tensors, seen, peak() - base]), flush=True)
"""


def read_all(folder: Path, contents: dict[str, bytes], reader: str = "ours") -> dict[str, tuple]:
    """name: (what was said, the tensors, events, how far memory has grown so far), smallest files first."""
    contents = dict(sorted(contents.items(), key=lambda item: len(item[1])))
    asked, start = [], 0
    with (folder / "cases").open("wb") as file:
        for name, content in contents.items():
            file.write(content)
            asked.append(json.dumps([[start, name], len(content)]))
            start += len(content)
    (folder / "good.pt").write_bytes(hostile_containers.ZIPPED)
    (folder / "good.pkl").write_bytes(hostile_containers.network())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT), reader, str(folder / "file"), "good.pt", "good.pkl"],
        input="\n".join(asked),
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=600,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
    return {name: tuple(told) for name, *told in map(json.loads, done.stdout.splitlines())}


def cuts() -> dict[str, bytes]:
    """A small file of each form, cut at each byte."""
    whole = hostile_containers.CUT.items()
    return {f"{kind} of {length} bytes": file[:length] for kind, file in whole for length in range(len(file))}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, tuple]:
    folder = tmp_path_factory.mktemp("hostile")
    found = read_all(folder, {name: case.content for name, case in CASES.items()} | cuts())
    assert {file.name for file in folder.iterdir()} == {"cases", "file", "good.pt", "good.pkl"}
    return found


def test_there_are_some_hundred_cases():
    assert len(CASES) >= 600
    assert sum(not case.is_readable for case in CASES.values()) >= 200


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_runs_nothing_and_is_told_in_one_sentence(results, name):
    said, tensors, events, grown = results[name]
    assert not events
    if CASES[name].is_readable:
        assert (said, tensors) == (None, NETWORK)
    else:
        assert ERROR.fullmatch(said)
        assert str(ROOT) not in said and "/file" not in said
        assert said.isprintable() and len(said) < 500
    # The smallest were read first, so that what an earlier one took is not hidden by a later one's size.
    assert grown <= 2 * len(CASES[name].content) + BASE


def test_a_file_that_is_cut_at_any_byte_is_told_so(results):
    told = {name: results[name] for name in cuts()}
    assert len(told) > 2_000
    assert not [name for name, (said, _, events, _) in told.items() if events or not ERROR.fullmatch(said or "")]


def test_the_watch_sees_what_a_plain_loader_runs(tmp_path):
    case = CASES["os.system by GLOBAL REDUCE"]
    told = read_all(tmp_path, {"bomb": case.content.replace(b"touch", b"true ")}, "plain")["bomb"]
    assert any(event.startswith("os.system") for event in told[2])
