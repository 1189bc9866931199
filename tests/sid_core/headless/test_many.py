"""One graph in many processes: each a real ComfyUI, on the CPU, in which a stand-in for SiDDistill does as planned."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from headless_runs import IMAGE, ROOT, SAVE, Started, command, run, started, wait_until

from sid_pack.sid_core.headless.command import parse
from sid_pack.sid_core.headless.many import _threads

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")

NODES = Path(__file__).parents[2] / "fakes" / "rank_nodes.py"


def graph(**plan: str) -> dict[str, Any]:
    """Rank 0 saves a picture; all distil. plan: {rank: what SiDDistill does there}, with _ before the rank."""
    inputs = {"needed": ["1", 0], "plan": json.dumps({key.strip("_"): does for key, does in plan.items()})}
    return {"1": IMAGE, "2": SAVE, "3": {"class_type": "SiDDistill", "inputs": inputs}}


@pytest.fixture
def with_nodes(tmp_path):
    """A base directory with the stand-in. The pack seems to be there, and ComfyUI leaves out what is .disabled."""
    custom_nodes = tmp_path / "base" / "custom_nodes"
    custom_nodes.mkdir(parents=True)
    shutil.copy(NODES, custom_nodes)
    (custom_nodes / "pack.disabled").symlink_to(ROOT)
    return tmp_path / "base"


@pytest.fixture
def ctrl_c():
    """Ctrl+C reaches what a test starts. In a shell's background job it is ignored, and that would be inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def output_of(process: Started) -> Path:
    return process.base / "output"


def seen(output: Path) -> set[str]:
    return {file.name for file in output.glob("seen-*")}


def test_contradicting_options_are_refused(capsys):
    for options in (["--processes=2", "--server=host:1"], ["--processes=0"], ["--max-restarts=1"]):
        with pytest.raises(SystemExit):
            parse(["run", "graph.json", *options])
    assert "give a whole number of at least 1, not '0'" in capsys.readouterr().err
    assert parse(["run", "graph.json"]).processes == 1


def test_a_graph_that_can_not_be_shared_is_refused_before_anything_is_started(tmp_path):
    result = run({"1": IMAGE, "2": SAVE}, tmp_path, "--processes", "2")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: Run this graph in one process")


def test_the_cores_are_shared_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [_threads(count)["OMP_NUM_THREADS"] for count in (3, 16)] == ["2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert _threads(2) == {}


def test_where_a_comfyui_is_killed_all_start_again_and_only_the_first_rank_writes(comfyui_path, with_nodes, tmp_path):
    # The other one's exchange with it fails, before the death is known.
    plan = graph(**{"_1-0": "die", "_0-0": "fail"})
    with started(tmp_path, comfyui_path, plan, "--processes=2", "--max-restarts=1") as process:
        assert process.client.wait(300) == 0, process.said()
        said, output = process.said(), output_of(process)
        assert "attempt 2 of 2" in said
        assert "[rank 1] Look into ComfyUI's log" in said and "ended with code -9 while running node 3" in said
        assert "Traceback" not in said and "do not fit" not in said
        assert seen(output) == {f"seen-{rank}-{attempt}.json" for rank in (0, 1) for attempt in (0, 1)}
        for rank in (0, 1):
            environment = json.loads((output / f"seen-{rank}-1.json").read_text(encoding="utf-8"))
            assert [environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == [str(rank)] * 2 + ["2"]
            assert environment["MASTER_ADDR"] == "127.0.0.1"
            # What the ranks of the attempt before have left there would mislead those of the next.
            assert environment["TORCHELASTIC_USE_AGENT_STORE"] == "False"
        # One in each attempt: the other rank's graph is cut to what is trained.
        assert len(list(output.glob("plain_*.png"))) == 2
        assert said.count("wrote ") == 1
        process.leaves_nothing()
        assert not list(process.temporary.glob("torchelastic*"))


def test_an_error_that_would_come_again_is_told_once_and_ends_all(comfyui_path, with_nodes, tmp_path):
    """Also where another rank waits in vain, and heeds no interrupt."""
    with started(tmp_path, comfyui_path, graph(_0="hang", _1="fail"), "--processes=2") as process:
        assert process.client.wait(300) == 1
        lines = process.said().splitlines()
        message = "error: [rank 1] node 3 (SiDDistill), class SiDDistill: ValueError: the settings do not fit"
        assert lines[-1] == message
        assert process.said().count("do not fit") == 1
        assert "ending the others, as one process has failed" in process.said()
        assert seen(output_of(process)) == {"seen-0-0.json", "seen-1-0.json"}
        process.leaves_nothing()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_ended_saves_in_each_process_and_leaves_nothing(
    comfyui_path, with_nodes, tmp_path, ctrl_c, number
):
    with started(tmp_path, comfyui_path, graph(_0="train", _1="train"), "--processes=2") as process:
        output = output_of(process)
        wait_until(lambda: len(seen(output)) == 2, 200)
        process.client.send_signal(number)
        assert process.client.wait(100) == (130 if number == signal.SIGINT else -9), process.said()
        process.leaves_nothing()
        assert {file.name for file in output.glob("saved-*")} == {"saved-0", "saved-1"}
        assert process.said().count("interrupting;") == (number == signal.SIGINT)
        assert "Traceback" not in process.said()
        assert seen(output) == {"seen-0-0.json", "seen-1-0.json"}


def test_under_torchrun_the_reason_is_what_the_launcher_shows_last(tmp_path):
    line = command({"1": IMAGE, "2": SAVE}, tmp_path)[3:]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    both = [sys.executable, *launcher, f"--log-dir={tmp_path / 'logs'}", "sid_core/__main__.py", *line]
    result = subprocess.run(both, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    # The launcher may end one before it has said why, as the other has failed.
    assert re.search(r"^(\[rank 1\] )?error: Run this graph in one process", result.stderr, re.MULTILINE)
    assert "Run this graph in one process" in result.stderr.rpartition("Root Cause")[2]
