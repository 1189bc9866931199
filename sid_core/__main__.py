"""`python -m sid_core run GRAPH.json`: run an API-format graph in a ComfyUI and show its progress."""

import argparse
import asyncio
import contextlib
import signal
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .headless import HeadlessError
from .headless.client import INTERRUPT_GRACE_S, ConnectionLost, Run
from .headless.console import Console
from .headless.graph import apply_setting, read_graph
from .headless.host import Host, find_comfyui, serve

FAILED = 1
INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = parse(arguments)
    _end_like_ctrl_c()
    try:
        return run(options)
    except HeadlessError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; contradicting ones end the program with the usage."""
    parser = argparse.ArgumentParser(prog="python -m sid_core", description="SiD without the browser.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("run", help="run an API-format graph in a ComfyUI and show its progress")
    command.add_argument("graph", type=Path, metavar="GRAPH.json", help="a workflow saved by 'Export (API)'")
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--comfyui", type=Path, metavar="PATH", help="start the ComfyUI in this folder (default: COMFYUI_PATH)"
    )
    where.add_argument("--server", metavar="URL", help="use the ComfyUI running there; it stays running")
    setting_help = "set an input; NODE is an id, a title or a class, VALUE is JSON or else text; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help=setting_help)
    command.add_argument("--output-directory", type=Path, metavar="DIR", help="where results go (default: ComfyUI's)")
    command.add_argument(
        "--base-directory", type=Path, metavar="DIR", help="folder of models, input, output and custom_nodes to use"
    )
    options = parser.parse_args(arguments)
    if options.server and (options.output_directory or options.base_directory):
        command.error("--output-directory and --base-directory are for a ComfyUI started here, not for --server")
    return options


def run(options: argparse.Namespace) -> int:
    """Run the graph in the ComfyUI that the options name, and list what it wrote."""
    started = time.monotonic()
    graph = read_graph(options.graph)
    for setting in options.set:
        apply_setting(graph, setting)
    with _comfyui(options) as (url, host), Console(sys.stdout) as console:
        task = Run(url, graph, console.show)
        try:
            outputs = asyncio.run(task.execute())
        except KeyboardInterrupt:
            _interrupt(task, console)
            raise
        except ConnectionLost as lost:
            if host:
                raise HeadlessError(f"{lost}\n{host.log_tail()}") from lost
            raise
        for file in _files(outputs, url, host):
            console.line(f"wrote {file}")
        console.line(f"done in {time.monotonic() - started:.1f} s")
    return 0


def _end_like_ctrl_c() -> None:
    """Let a termination or a closed terminal unwind as Ctrl-C does, so that a started ComfyUI is ended too."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        # nohup asks for SIGHUP to be ignored.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


@contextlib.contextmanager
def _comfyui(options: argparse.Namespace) -> Iterator[tuple[str, Host | None]]:
    if options.server:
        url = options.server if "://" in options.server else f"http://{options.server}"
        yield url.rstrip("/"), None
        return
    folder = find_comfyui(options.comfyui)
    print(f"starting ComfyUI in {folder}", flush=True)
    with serve(folder, base_directory=options.base_directory, output_directory=options.output_directory) as host:
        yield host.url, host


def _interrupt(task: Run, console: Console) -> None:
    console.line(f"interrupting; the running node may take {INTERRUPT_GRACE_S:.0f} s to save. Ctrl-C again ends it now")
    if not asyncio.run(task.interrupt()):
        console.line("the node did not stop in time")


def _files(outputs: dict[str, dict[str, Any]], url: str, host: Host | None) -> Iterator[str]:
    """Where the files are that the nodes list in their outputs. Temporary ones end with the ComfyUI started here."""
    items = [item for shown in outputs.values() for kind in shown.values() for item in kind]
    for item in items:
        if not isinstance(item, dict) or "filename" not in item:
            continue
        if host is None:
            yield f"{url}/view?{urllib.parse.urlencode(item)}"
        elif item.get("type") == "output":
            yield str(host.output_directory / item.get("subfolder", "") / item["filename"])


if __name__ == "__main__":
    sys.exit(main())
