"""The command line: run an API-format graph in a ComfyUI and show its progress, or convert a student."""

import argparse
import contextlib
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from . import FAILED, INTERRUPTED, HeadlessError, converting, many
from .client import INTERRUPTING, Run
from .console import Console, Output, open_outputs
from .graph import read_graph
from .host import Host, find_comfyui, serve, user_path
from .interrupts import Interrupts
from .ranks import Rank, share_of, this_rank
from .settings import find_setting
from .worker import as_rank

EXIT_CODES = (
    "Exit codes: 0 the graph ran; 1 it did not, and the last lines say why; 2 the command line is wrong; 130 it was "
    "interrupted. They tell of the graph alone: a console that can't be written to changes none."
)
SETTING_HELP = (
    "set an input; NODE is an id, a title or a class; VALUE is read by the input's type: true or false, a number, one "
    "of a list, or else text as it is, line breaks included; may be repeated"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    output, errors = open_outputs()
    try:
        options = parse(arguments)
        if options.run is converting.convert:  # writes a file, whole or not at all, so that it can end anywhere
            with Console(output) as console:
                return converting.convert(options, console)
        with Interrupts().noted() as interrupts:
            return _run(options, output, errors, interrupts)
    except HeadlessError as error:
        errors.write(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        errors.write("interrupted")
        return INTERRUPTED
    finally:
        # What argparse wrote too is out now, or nowhere: not when Python exits, which would complain.
        for stream in (output, errors):
            stream.write("", after="")


def _run(options: argparse.Namespace, output: Output, errors: Output, interrupts: Interrupts) -> int:
    rank = this_rank()
    if options.processes > 1:
        if rank:
            raise HeadlessError("Leave out --processes under torchrun: --nproc-per-node says there how many there are.")
        return many.run(options, output, interrupts)
    if rank is None:
        return run(options, Console(output), interrupts)
    console = Console(output if rank.is_first else Output(None))
    return as_rank(rank, errors, interrupts, lambda: run(options, console, interrupts, rank))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; contradicting ones end the program with the usage."""
    parser = argparse.ArgumentParser(prog="sid_core", description="SiD without the browser.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    what = "run an API-format graph in a ComfyUI and show its progress"
    command = commands.add_parser("run", help=what, description=f"R{what[1:]}.", epilog=EXIT_CODES)
    command.add_argument("graph", type=user_path, metavar="GRAPH.json", help="a workflow saved by 'Export (API)'")
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--comfyui", type=user_path, metavar="PATH", help="start the ComfyUI in this folder (default: COMFYUI_PATH)"
    )
    where.add_argument("--server", type=address, metavar="URL", help="use the ComfyUI running there; it stays running")
    command.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help=SETTING_HELP)
    command.add_argument(
        "--output-directory", type=user_path, metavar="DIR", help="where results go (default: ComfyUI's)"
    )
    command.add_argument(
        "--base-directory",
        type=user_path,
        metavar="DIR",
        help="folder of models, input, output and custom_nodes to use",
    )
    many.add_to(command)
    command.set_defaults(run=run)
    converting.add_to(commands)
    options = parser.parse_args(arguments)
    if options.run is run and options.server and (options.output_directory or options.base_directory):
        command.error("--output-directory and --base-directory are for a ComfyUI started here, not for --server")
    if options.run is run:
        many.check(options, command.error)
    return options


def address(text: str) -> str:
    """The URL of a ComfyUI, for which a host and a port will do."""
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is none, or a name that can't be one
        is_usable = False
    if not is_usable:
        raise argparse.ArgumentTypeError(f"give an address such as http://127.0.0.1:8188, not {text!r}")
    return url


def run(options: argparse.Namespace, console: Console, interrupts: Interrupts, rank: Rank | None = None) -> int:
    """Run the graph, or a rank's share of it, in the ComfyUI that the options name, and list what it wrote."""
    started = time.monotonic()
    graph = read_graph(options.graph)
    settings = [find_setting(graph, setting) for setting in options.set]
    share_of(graph, rank)  # refused before anything is started
    with _comfyui(options, console, interrupts, rank) as (url, host), console:
        task = Run(url, graph, console.show, console.line)
        if host:
            task.check_host = host.check
        try:
            if settings:
                classes = set().union(*(setting.classes(graph) for setting in settings))
                definitions = interrupts.run(task.describe(classes))
                for setting in settings:
                    setting.apply(graph, definitions)
            task.graph = share_of(graph, rank)
            outputs = interrupts.run(task.execute())
        except KeyboardInterrupt:
            if not (rank and rank.folder):  # which is told by what started it
                console.line(INTERRUPTING)
            trouble = interrupts.run(task.interrupt(), known=1)
            if trouble:
                console.line(trouble)
            raise
        for file in _files(outputs, url, host):
            console.line(f"wrote {file}")
        console.line(f"done in {time.monotonic() - started:.1f} s")
    return 0


@contextlib.contextmanager
def _comfyui(
    options: argparse.Namespace, console: Console, interrupts: Interrupts, rank: Rank | None
) -> Iterator[tuple[str, Host | None]]:
    if options.server:
        if rank:
            raise HeadlessError("Leave out --server under torchrun: each process starts a ComfyUI of its own.")
        yield options.server, None
        return
    folder = find_comfyui(options.comfyui)
    console.line(f"starting ComfyUI in {folder}")
    folders = {"base_directory": options.base_directory, "output_directory": options.output_directory}
    with serve(folder, **folders, rank=rank, say=console.line, check=interrupts.check) as host:
        yield host.url, host


def _files(outputs: dict[str, Any], url: str, host: Host | None) -> Iterator[str]:
    """Where the files are that the nodes list in their outputs. Temporary ones end with the ComfyUI started here."""
    for item in _items(outputs):
        named = {key: str(item[key]) for key in ("filename", "subfolder", "type") if key in item}
        if host is None:
            yield f"{url}/view?{urllib.parse.urlencode(named, errors='replace')}"
        elif item.get("type") == "output":
            yield str(host.output_directory / named.get("subfolder", "") / named["filename"])


def _items(outputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The files in what nodes show, which is whatever a node's author put there."""
    for shown in outputs.values():
        for items in shown.values() if isinstance(shown, dict) else ():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and "filename" in item:
                    yield item
