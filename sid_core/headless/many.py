"""`run --processes N`: the same graph in N processes, which torch's launcher starts, and starts again where one dies.

The launcher is torch.distributed.run, with this same command line for each process. What it can't know is seen to here:
an error that another start would only repeat ends all without one, and an interrupted run may save for longer than the
launcher waits. Its own words, and Python's tracebacks, go into a log that is shown where nothing else says what it was.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import HeadlessError, keeper
from .console import Output
from .following import Following
from .graph import read_graph
from .host import PACK, find_comfyui
from .interrupts import Interrupts
from .kept import exit_code, kept, start
from .ranks import FOLDER, shared_in
from .settings import find_setting

RESTARTS = 3
LOOK_AGAIN_S = 0.1
# torch's launcher kills what has not ended 30 s after it was asked to.
LAUNCHER_GRACE_S = 40.0
# Else all attempts share one store, and the next one fails at the addresses that it finds there (torch 2.11).
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def add_to(command: argparse.ArgumentParser) -> None:
    """Add the options of a run in many processes."""
    command.add_argument(
        "--processes",
        type=_whole(1),
        default=1,
        metavar="N",
        help="distil in N processes on this machine, with a GPU each; on several machines, see docs/many_gpus.md",
    )
    command.add_argument(
        "--max-restarts",
        type=_whole(0),
        metavar="R",
        help=f"how often all are started again where one has died, to go on (default: {RESTARTS}; for --processes)",
    )


def check(options: argparse.Namespace, error: Callable[[str], None]) -> None:
    """Call `error` with what contradicts the other options."""
    if options.processes > 1 and options.server:
        error("--processes starts a ComfyUI for each process, so it can't go with --server")
    if options.processes == 1 and options.max_restarts is not None:
        error("--max-restarts is for --processes of 2 or more")


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"give a whole number of at least {least}, not {text!r}")
        return int(text)

    return read


def run(options: argparse.Namespace, output: Output, interrupts: Interrupts) -> int:
    """Run the graph in many processes. What is wrong with the command line is said before any is started."""
    graph = read_graph(options.graph)
    for setting in options.set:
        find_setting(graph, setting)
    shared_in(graph)
    find_comfyui(options.comfyui)
    restarts = RESTARTS if options.max_restarts is None else options.max_restarts

    def say(text: str) -> None:
        # Below the first rank's progress, which may stand in the last line of a terminal.
        output.write(text, before="\n" if output.is_terminal else "")

    output.write(f"starting {options.processes} processes")
    with kept(shows=True) as (scratch, process):
        folder = scratch / "ranks"
        folder.mkdir()
        variables = {FOLDER: str(folder), **OWN_STORE, **_threads(options.processes)}
        command = _launcher(options, restarts, scratch)
        start(process, command, os.getcwd(), variables=variables, end_s=LAUNCHER_GRACE_S, shows=True)
        following = Following(folder, scratch / keeper.LOG, options.processes, restarts, say)
        while exit_code(scratch) is None and process.poll() is None:
            following.look(interrupts.count)
            time.sleep(LOOK_AGAIN_S)
        code = exit_code(scratch)
        if code is None or code < 0:
            following.await_end(interrupts)
        interrupts.check()
        reason = following.reason(code)
    if reason:
        raise HeadlessError(reason)
    return 0


def _launcher(options: argparse.Namespace, restarts: int, scratch: Path) -> list[str]:
    """torch's launcher on this machine alone, with this command line for each process."""
    each = [str(PACK / "sid_core" / "__main__.py"), "run", str(options.graph)]
    for name in ("comfyui", "output_directory", "base_directory"):
        if getattr(options, name):
            each.append(f"--{name.replace('_', '-')}={getattr(options, name)}")
    each += [f"--set={setting}" for setting in options.set]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        # The machine's name, which it would take, need not lead to it.
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={options.processes}",
        f"--max-restarts={restarts}",
        # It would leave a folder behind elsewhere.
        f"--log-dir={scratch / 'launcher'}",
        *each,
    ]


def _threads(processes: int) -> dict[str, str]:
    """How many threads a process may use: its part of the cores. torch's launcher would let each have one."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // processes))}
