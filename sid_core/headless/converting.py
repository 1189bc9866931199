"""The command `convert`: a student of others' into one of this pack, and one of this pack into others' formats."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..words import printable
from . import HeadlessError
from .answers import Progress
from .console import Console
from .host import find_comfyui, user_path

if TYPE_CHECKING:
    from ..convert.architecture import Architecture
    from ..convert.sources import Source
    from ..convert.weights import Weight

STUDENT, FORMS = "student", ("student", "diffusers", "peft", "kohya")
PRECISIONS = ("float16", "bfloat16", "float32")
CONFIG = "config.json"
NAMES = {"diffusers": "diffusion_pytorch_model", "peft": "pytorch_lora_weights"}  # as diffusers looks for them


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's options, for `command.parse`."""
    what = "convert a student between this pack's format and those of diffusers, peft and kohya"
    command = commands.add_parser("convert", help=what, description=f"C{what[1:]}. Nothing is ever unpickled or run.")
    command.add_argument("source", type=user_path, metavar="FILE", help="a file, one of its shards, or a folder")
    command.add_argument(
        "--to", choices=FORMS, default=STUDENT, help=f"default: {STUDENT}, what SiD Load Student reads"
    )
    command.add_argument(
        "--output", type=user_path, metavar="PATH", help="a .safetensors file, or a folder for diffusers"
    )
    command.add_argument("--base", type=user_path, metavar="FILE", help="the model that a LoRA is of; only read")
    command.add_argument("--precision", choices=PRECISIONS, help="of the weights (default: as they are)")
    command.add_argument("--steps", type=int, metavar="N", help="how many steps the student was made for")
    command.add_argument(
        "--t-init", type=float, metavar="T", help="the time it begins at, such as 625, or 1 for flow models"
    )
    command.add_argument("--guidance", metavar="TEXT", help="how it was distilled, such as 'lsg 4.5'")
    command.add_argument("--method", metavar="TEXT", help="such as sid or dmd2")
    command.add_argument(
        "--comfyui", type=user_path, metavar="PATH", help="the ComfyUI whose names to use (default: COMFYUI_PATH)"
    )
    command.set_defaults(run=convert)


def convert(options: argparse.Namespace, console: Console) -> int:
    """Convert the file that the options name, and say what was found in it and what was written."""
    from ..convert.sources import open_source  # seconds to import, with torch

    began = time.monotonic()
    comfyui = find_comfyui(options.comfyui)
    try:
        source = open_source(options.source)
        base = open_source(options.base) if options.base else source
        architecture = _architecture(base, comfyui)
        weights, metadata, told = _converted(options, source, architecture)
        for line in told:
            console.line(line)
        target = _target(options)
        if options.to == "diffusers":
            _require_own_config(target.parent, base)
        _write(target, weights, metadata, options, console)
        if options.to == "diffusers":
            _describe(target.parent, base, console)
    except (ValueError, OSError) as error:
        raise HeadlessError(printable(error)) from error
    console.line(f"done in {time.monotonic() - began:.1f} s")
    return 0


def _architecture(base: "Source", comfyui: Path) -> "Architecture":
    from ..convert.students import network_of
    from .architectures import architecture_of

    architecture = architecture_of(comfyui, network_of(base))
    if architecture is None:
        named = base.config.get("_class_name") or "its names and shapes"
        raise HeadlessError(
            f"Use a newer ComfyUI, or the model in another format: this one knows no network like that of "
            f"{base.place.name} ({named})."
        )
    return architecture


def _converted(
    options: argparse.Namespace, source: "Source", architecture: "Architecture"
) -> "tuple[dict[str, Weight], dict[str, str], tuple[str, ...]]":
    """What to write, its metadata, and what to say of it."""
    from ..convert.facts import Facts
    from ..convert.students import NETWORK, exported, student_of

    if options.to != STUDENT:
        return (
            exported(source, architecture, options.to),
            dict(source.metadata),
            (f"{source.place.name}: {source.kind}",),
        )
    wanted = Facts(options.steps, options.t_init, options.guidance, None, options.method)
    student = student_of(source, architecture, wanted)
    before = "" if student.lora else NETWORK
    weights = {before + name: weight for name, weight in student.weights.items()}
    return weights, student.info.to_metadata(), student.told


def _target(options: argparse.Namespace) -> Path:
    """The file to write: beside the source where nothing is said, and in a folder by the name that diffusers wants."""
    given = options.output
    if given is None:
        stem = options.source.stem if options.source.is_file() else options.source.name
        given = options.source.parent / f"{stem}.{options.to}.safetensors"
    if given.suffix != ".safetensors":
        given = given / f"{NAMES.get(options.to, options.source.stem)}.safetensors"
    if given.exists():
        raise ValueError(f"Give another --output, or move that file: {given} is there already.")
    return given


def _write(
    target: Path,
    weights: "dict[str, Weight]",
    metadata: dict[str, str],
    options: argparse.Namespace,
    console: Console,
) -> None:
    import torch

    from ..convert.stream import write_streamed

    dtype = getattr(torch, options.precision) if options.precision else None
    cast = {name: weight.to(dtype) for name, weight in weights.items()}
    written = write_streamed(target, cast, metadata, _teller(console))
    console.line(f"wrote {written.path}: {written.nbytes:,} bytes, {len(cast)} tensors, read again and the same")
    console.line(f"sha256 {written.sha256}")


def _teller(console: Console) -> Callable[[str, int, int], None]:
    def tell(doing: str, done: int, total: int) -> None:
        console.show(Progress(doing, done / 1e6, total / 1e6, "MB"))

    return tell


def _require_own_config(folder: Path, base: "Source") -> None:
    """Raise ValueError where the folder's config.json is of another network."""
    place = folder / CONFIG
    if base.config and place.exists() and place.read_text(encoding="utf-8", errors="replace") != _described(base):
        raise ValueError(
            f"Give a folder of its own as --output: {CONFIG} in {folder} says something else, and would be replaced."
        )


def _described(base: "Source") -> str:
    import json

    return json.dumps(dict(base.config), indent=2)


def _describe(folder: Path, base: "Source", console: Console) -> None:
    """config.json beside the weights, where one is known."""
    if base.config:
        (folder / CONFIG).write_text(_described(base), encoding="utf-8")
    else:
        console.line(
            "Put config.json of the base's diffusers folder beside it, or give that folder as --base: diffusers makes "
            "the network by it."
        )
