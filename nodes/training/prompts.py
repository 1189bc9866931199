"""Prompt lists for distillation."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from ...sid_core.data.prompt_sources import read_prompts, source_files, text_prompts
from ...sid_core.data.prompts import write_prompts
from ..host import say
from ..host.node import Node
from .wildcards import Templates

DEMO_ASSETS = Path(__file__).parents[2] / "demo" / "assets"
SAY_EVERY = 10_000  # prompts
Prompts = io.Custom("SID_PROMPTS")


def prompt_files(name: str) -> list[Path]:
    """Files given by path, by name in ComfyUI's input folder, or by that of one of the demo's; a folder's files.

    Raises FileNotFoundError that says where it was looked for.
    """
    places = [Path(name).expanduser(), Path(folder_paths.get_input_directory()) / name, DEMO_ASSETS / name]
    found = next((place for place in places if place.is_file() or place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"there is no prompt file {name!r}; looked for {' and '.join(str(place) for place in places)}. Give the "
            "full path of a text, JSONL or CSV file or of a folder of them, or put it into ComfyUI's input folder."
        )
    return source_files(found)


def prompts_folder() -> Path:
    """Where lists are written. They are read anew after ComfyUI has started, so they go with what it clears then."""
    return Path(folder_paths.get_temp_directory()) / "sid_prompts"


def wildcard_folder(name: str | None) -> Path:
    """A folder given by its path, else by its name in ComfyUI's input folder. It need not be there."""
    given = Path((name or "").strip() or "wildcards").expanduser()
    return given if given.is_absolute() else Path(folder_paths.get_input_directory()) / given


def contents(files: Iterable[Path]) -> list[str]:
    """What is in the files, as digests: another place for the same file is no reason to do everything again."""
    states = ((file, file.stat()) for file in files)
    return [file.suffix + _content(file, state.st_mtime_ns, state.st_size) for file, state in states]


@lru_cache(maxsize=10_000)
def _content(file: Path, _changed: int, _size: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def watched(prompts: Iterable[str], node_id: str | None) -> Iterator[str]:
    """The same prompts, while the node says how many there are so far and can be cancelled."""
    for count, prompt in enumerate(prompts):
        if count % SAY_EVERY == SAY_EVERY - 1:
            comfy.model_management.throw_exception_if_processing_interrupted()
            say.on_node(f"reading prompts: {count + 1:,}", node_id)
        yield prompt


class SiDPrompts(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDPrompts",
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
                    tooltip="A UTF-8 text, .jsonl or .csv file, or a folder of them: its full path, or its name in "
                    "ComfyUI's input folder. emoji_names.txt comes with the pack. Empty: none.",
                ),
                io.String.Input(
                    "column",
                    default="prompt",
                    optional=True,
                    tooltip="Where the prompts are in .jsonl and .csv files. Text files have none.",
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
        # Read again when a file has changed on disk; a missing file fails in execute, with its message.
        try:
            sources = contents(prompt_files(file.strip())) if file and file.strip() else []
            if variants:
                sources += contents(sorted(f for f in wildcard_folder(wildcards).rglob("*") if f.is_file()))
        except OSError as error:
            sources = [str(error)]
        return json.dumps([text, column, variants, seed, wildcards, sources])

    @classmethod
    def execute(cls, text, file, column="prompt", variants=1, seed=0, wildcards="wildcards"):
        files = prompt_files(file.strip()) if file.strip() else []
        prompts = chain(text_prompts([text]), *(read_prompts(file, column.strip()) for file in files))
        if variants:
            prompts = Templates(wildcard_folder(wildcards), seed, variants).expand(prompts)
        written = write_prompts(watched(prompts, cls.hidden.unique_id), prompts_folder())
        if not len(written):
            raise ValueError(
                "there are no prompts: the box and the file hold only blank lines and # comments. Write one prompt a "
                "line."
            )
        said = f"{len(written)} prompts" + (f", {written.duplicates} duplicates dropped" * bool(written.duplicates))
        say.on_node(said, cls.hidden.unique_id)
        return io.NodeOutput(written, len(written), ui={"text": [said]})


NODES = [SiDPrompts]
