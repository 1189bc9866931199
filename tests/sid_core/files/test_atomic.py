"""What a killed process leaves half written, in a folder that several write in at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sid_pack.sid_core.files import atomic
from sid_pack.sid_core.files.atomic import remove_dead, replacing

CHILD = """
import sys, time, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("atomic", sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
with atomic.replacing(Path(sys.argv[2])) as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Begins to write a file in a process of its own."""
    begun = []

    def begin(name: str) -> subprocess.Popen:
        arguments = [sys.executable, "-c", CHILD, atomic.__file__, str(tmp_path / name)]
        begun.append(subprocess.Popen(arguments, stdout=subprocess.PIPE))
        assert begun[-1].stdout.readline().strip() == b"written"
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def left(folder: Path) -> list[str]:
    return sorted(file.read_text() for file in folder.iterdir())


def test_what_a_killed_process_was_writing_is_removed_and_what_others_are_writing_is_not(writer, tmp_path):
    killed = writer("a.safetensors")
    writer("b.safetensors")
    killed.kill()
    killed.wait()
    (tmp_path / "c.safetensors").write_text("whole")
    with replacing(tmp_path / "d.safetensors") as mine:
        mine.write_text("mine")
        assert len(left(tmp_path)) == 4
        remove_dead(tmp_path)
        assert left(tmp_path) == ["half", "mine", "whole"]


def test_a_file_of_another_machine_is_removed_when_nobody_has_written_to_it_for_a_day(tmp_path):
    now = time.time()
    for name, age in [
        (".a.00000000-1.tmp", 3600),
        (".b.00000000-1.tmp", 90_000),
        (".c.123.tmp", 0),
        (".d.123.tmp", 90_000),
        (".another program's.tmp", 90_000),
    ]:
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (now - age, now - age))
    remove_dead(tmp_path)
    assert left(tmp_path) == [".a.00000000-1.tmp", ".another program's.tmp", ".c.123.tmp"]


def test_a_file_of_an_earlier_process_with_the_same_number_is_removed(tmp_path):
    """In a container, every ComfyUI has the number that the one before had."""
    with replacing(tmp_path / "a") as mine:
        name = mine.name
    long_ago = time.time() - 40_000
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (long_ago, long_ago))
    remove_dead(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
