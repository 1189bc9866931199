"""Prompt lists for distillation."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

import comfy.model_management
from comfy_api.latest import io

from ...sid_core.data.prompt_sources import read_prompts, source_files, text_prompts
from ...sid_core.data.prompts import write_prompts
from ...sid_core.data.text_files import TextFile, files_under, open_regular, reading
from ...sid_core.data.wildcard_files import SUFFIXES
from ...sid_core.words import quoted
from ..host import reach, say
from ..host.node import Node
from ..host.progress import NODE_SECONDS
from ..host.search import found_by
from .wildcards import BOX, Templates

DEMO_LISTS = {file.name: file for file in (Path(__file__).parents[2] / "demo" / "assets").glob("*.txt")}
PIECE = 1 << 20
Prompts = io.Custom("SID_PROMPTS")
Thing = TypeVar("Thing")


def prompt_files(name: str, visit: Callable[[Path], None]) -> list[TextFile]:
    """The file of that name or path, or the files in that folder, if it is not one of the demo's.

    Raises FileNotFoundError that says where to put it.
    """
    place = reach.place_of(name)
    if not place.exists() and place == reach.place_of(place.name):
        place = DEMO_LISTS.get(place.name, place)
    if not place.exists():
        raise FileNotFoundError(
            f"Put {quoted(name)} into ComfyUI's input folder, or give the full path of a file or folder of prompts: it "
            "is not there."
        )
    return source_files(place, visit)


def wildcard_folder(name: str | None) -> Path:
    """It need not be there."""
    return reach.place_of((name or "").strip() or "wildcards")


def contents(files: Iterable[TextFile], visit: Callable[[Path], None]) -> list[str]:
    """What is in the files, as digests: another place for the same file is no reason to do everything again."""
    return [file.path.suffix + _state(file, visit) for file in files]


def _state(file: TextFile, visit: Callable[[Path], None]) -> str:
    with reading(file.name):
        visit(file.path)
        state = file.path.stat()
        return _content(file.path, state.st_mtime_ns, state.st_size, visit)


@lru_cache(maxsize=10_000)
def _content(file: Path, _changed: int, _size: int, visit: Callable[[Path], None]) -> str:
    digest = hashlib.sha256()
    with open_regular(file) as content:
        while piece := content.read(PIECE):
            visit(file)
            digest.update(piece)
    return digest.hexdigest()


class CancelledError(Exception):
    """The user has cancelled while files were looked at; `execute` raises what ComfyUI knows."""


def may_be_read(path: Path) -> None:
    """Raises where the user has cancelled, or where the path, its links followed, may not be read."""
    if comfy.model_management.processing_interrupted():
        raise CancelledError
    reach.require(path)


class Reading:
    """Says on the node how far it is, and ends it when the user cancels."""

    def __init__(self, node_id: str | None, things: str = "prompts"):
        self.node_id, self.things, self.count = node_id, things, 0
        self.said = time.monotonic()

    def visit(self, path: Path) -> None:
        """Before a file or folder is used, and now and then while prompts are drawn."""
        self.check()
        reach.require(path)

    def check(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if (now := time.monotonic()) - self.said > NODE_SECONDS:
            self.said = now
            say.on_node(f"reading {self.things}: {self.count:,}", self.node_id)

    def watched(self, things: Iterable[Thing]) -> Iterator[Thing]:
        for thing in things:
            self.check()
            self.count += 1
            yield thing


class SiDPrompts(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDPrompts",
            **found_by("distillation", "dataset", "captions", "wildcards", "dynamic prompts", "prompts from file"),
            display_name="SiD Prompts",
            category="SiD/training",
            description="The prompts a student is distilled on: one a line, from the box, from files, or both; as many "
            "as the disk holds. Blank lines and lines that begin with # are skipped, duplicates are dropped.",
            inputs=[
                io.String.Input(
                    "text", multiline=True, default="", tooltip="One prompt a line; # begins a comment line."
                ),
                io.String.Input(
                    "file",
                    default="",
                    tooltip="A UTF-8 .txt, .json, .jsonl, .csv or .tsv file, or a folder of them: its full path, or "
                    "its name in ComfyUI's input folder. emoji_names.txt comes with the pack. Empty: none.",
                ),
                io.String.Input(
                    "column",
                    default="prompt",
                    optional=True,
                    tooltip="Where the prompts are in .json, .jsonl, .csv and .tsv files. Text files have none.",
                ),
                io.Int.Input(
                    "variants",
                    default=1,
                    min=0,
                    max=100_000,
                    optional=True,
                    tooltip="Prompts drawn from each line with {a|b} or __wildcard__ in it, 0 to 100,000. 0: such "
                    "lines are taken as they are.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53 - 1,
                    # The browser would else draw a new seed, and so other prompts, after each run.
                    control_after_generate=False,
                    optional=True,
                    tooltip="Of these draws. The same seed draws the same prompts.",
                ),
                io.String.Input(
                    "wildcards",
                    default="wildcards",
                    optional=True,
                    tooltip="The folder whose files __wildcard__ stands for (__colour__: colour.txt): its full path, "
                    "or its name in ComfyUI's input folder.",
                ),
            ],
            outputs=[
                Prompts.Output(display_name="prompts"),
                io.Int.Output(display_name="count"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, text, file, column="prompt", variants=1, seed=0, wildcards="wildcards"):
        # Read again when a file has changed on disk. ComfyUI keeps this in a history that anybody can ask for.
        sources = contents(prompt_files(file, may_be_read), may_be_read) if file and file.strip() else []
        if variants and (folder := wildcard_folder(wildcards)).is_dir():
            sources += contents(files_under(folder, SUFFIXES, may_be_read), may_be_read)
        everything = json.dumps([text, column, variants, seed, wildcards, sources])
        return hashlib.sha256(everything.encode()).hexdigest()

    @classmethod
    def execute(cls, text, file, column="prompt", variants=1, seed=0, wildcards="wildcards"):
        reading, local = Reading(cls.hidden.unique_id), reach.is_local()
        files = prompt_files(file, reading.visit) if file.strip() else []
        read = (read_prompts(source, column.strip(), name_columns=local) for source in files)
        prompts = chain(text_prompts(enumerate(text.splitlines(), 1), BOX), chain.from_iterable(read))
        if variants:
            templates = Templates(wildcard_folder(wildcards), seed, variants, reading.visit, reading.check, local)
            plain = templates.expand(prompts)
        else:
            plain = (prompt.text for prompt in prompts)
        written = write_prompts(reading.watched(plain))
        if not len(written):
            raise ValueError("Write one prompt a line: text and file hold only blank lines and # comments.")
        said = str(written) + (f", {written.duplicates} duplicates dropped" * bool(written.duplicates))
        say.on_node(said, cls.hidden.unique_id)
        return io.NodeOutput(written, len(written), ui={"text": [said]})


NODES = [SiDPrompts]
