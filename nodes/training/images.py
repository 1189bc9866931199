"""Text-image pairs for the adversarial part of a distillation."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...sid_core.data.image_sources import LISTS, entries
from ...sid_core.data.picture_set import Caption, EncodedCaption, Gathering, PictureSet
from ...sid_core.data.pictures import SUFFIXES
from ...sid_core.data.text_files import TextFile, files_under
from ...sid_core.words import log, quoted
from ..host import reach, say
from ..host.conditioning import require_plain
from ..host.fingerprints import digest_of
from ..host.node import Node
from ..host.search import found_by
from .prompts import Prompts, Reading, may_be_read

Images = io.Custom("SID_IMAGES")
LEAVE_OUT, SCALE_UP = "leave out", "scale up"
NAMED = 3  # of those left out, on the node; the log has all


def place_of(name: str):
    """The folder or list of that name or path. Raises FileNotFoundError that says where to put it."""
    place = reach.place_of(name)
    if not place.exists():
        raise FileNotFoundError(
            f"Put {quoted(name)} into ComfyUI's input folder, or give the full path of a folder of pictures, or of a "
            "list of them: it is not there."
        )
    return place


def states(folder: str, column: str) -> list[tuple]:
    """What changes when a file of a folder does. ComfyUI keeps what is made of it in a history that anybody can read:
    it is to be digested."""
    place = place_of(folder)
    # A list's pictures may be anywhere in its folder, and be given other texts as well.
    around = place if place.is_dir() else place.parent
    files = list(files_under(around, (*SUFFIXES, *LISTS, ".txt"), may_be_read))
    if not place.is_dir():  # what it names may have any ending, or none, and be hidden
        files += [entry.file for entry in entries(place, column, may_be_read, True) if not entry.problem]
    return [_state(file) for file in files]


def _state(file: TextFile) -> tuple:
    state = file.path.stat()
    return file.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def with_captions(values: Sequence[Tensor], captions: Sequence[Caption]) -> Iterator[tuple[Tensor, Caption]]:
    """Each picture of `values`, (B, …) each, with its caption.

    captions: one for each picture or for each of `values`, or one for all; or none. Raises ValueError for another
    number.
    """
    count = sum(map(len, values))
    if len(captions) == count:
        each = list(captions)
    elif len(captions) == len(values):
        each = [caption for value, caption in zip(values, captions, strict=True) for _ in range(len(value))]
    elif len(captions) <= 1:
        each = [*captions, ""][:1] * count
    else:
        raise ValueError(
            f"Connect as many texts or conditioning as pictures, or one for all: images and latents have {count} "
            f"pictures, and there are {len(captions)} of these."
        )
    return zip((picture for value in values for picture in value), each, strict=True)


def captions_of(texts: Sequence[Any] | None, conditioning: Sequence[Any] | None) -> list[Caption]:
    """What came over one of the two wires. Raises ValueError for both, and for what training can't honour."""
    if texts and conditioning:
        raise ValueError("Connect texts or conditioning, not both: each is a caption for all pictures of wires.")
    for one_of_them in conditioning or ():
        require_plain(one_of_them)
    encoded = (EncodedCaption(digest_of(one_of_them).encode(), one_of_them) for one_of_them in conditioning or ())
    return [*(text.strip() for text in texts or ()), *encoded]


def tensors(name: str, given: Sequence[Any] | None, dimensions: tuple[int, ...]) -> list[Tensor]:
    """What came over an optional wire. Raises ValueError for what are no pictures."""
    for value in given or ():
        if not isinstance(value, Tensor) or value.ndim not in dimensions:
            raise ValueError(f"Connect pictures to {name}: it gets a {type(value).__name__} of another kind.")
    return list(given or ())


def told(found: PictureSet, gathering: Gathering) -> list[str]:
    """What was found and what was left out, as lines."""
    origins = ", ".join(f"{count:,} from {origin}" for origin, count in gathering.origins.most_common())
    lines = [
        f"{found}: {len(found.pictures):,} pictures, {len(found.captions) + len(found.encoded):,} captions ({origins})"
    ]
    if gathering.repeated:
        lines.append(f"{gathering.repeated:,} left out that are there twice, picture and caption")
    if skipped := gathering.skipped:
        first = ", ".join(f"{name} ({why})" for name, why in skipped[:NAMED])
        lines.append(f"⚠ {len(skipped):,} left out: {first}{', …; the log names all' * (len(skipped) > NAMED)}")
    return lines


class SiDImages(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiDImages",
            **found_by("distillation", "dataset", "captions", "training images", "adversarial", "gan"),
            display_name="SiD Images",
            category="SiD/training",
            description="Real pictures with captions, for the adversarial part of SiD Distill: a folder, a list of "
            "files, or what ComfyUI's dataset nodes give. What can't be used is left out and named.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="A folder of pictures, or a .jsonl, .json, .csv or .tsv list of them with their captions: "
                    "its full path, or its name in ComfyUI's input folder. Empty: none.",
                ),
                io.String.Input(
                    "column",
                    default="caption",
                    tooltip="Where a list has the captions. In a folder a .txt beside a picture comes first, then a "
                    "metadata.csv or .jsonl, then what is written in the picture's file.",
                ),
                io.String.Input(
                    "common_caption",
                    default="",
                    multiline=True,
                    tooltip="For pictures without a caption. Empty: they are left out.",
                ),
                io.Combo.Input(
                    "small_pictures",
                    options=[LEAVE_OUT, SCALE_UP],
                    default=LEAVE_OUT,
                    tooltip="What to do with pictures that are smaller than the size to learn: leave them out, or "
                    "scale them up, which teaches the student their blur.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="Pictures, one or a list. Needs texts or conditioning."
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="Pictures that the model's VAE has encoded, one or a list, of the sizes to learn. Needs "
                    "texts or conditioning.",
                ),
                io.String.Input(
                    "texts",
                    optional=True,
                    force_input=True,
                    tooltip="The captions of images and latents, in that order: one for each, or one for all.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The captions, encoded already, in place of texts. The output prompts has texts alone.",
                ),
            ],
            outputs=[
                Images.Output(display_name="images"),
                Prompts.Output(display_name="prompts"),
                io.Int.Output(display_name="count"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        folder=("",),
        column=("",),
        common_caption=("",),
        small_pictures=("",),
        images=(),
        latents=(),
        texts=(),
        conditioning=(),
    ):
        if not all(isinstance(name, str) for name in folder):
            return float("nan")  # it comes over a wire, and is not known before: look again each time
        files = [states(name, str(column[0]).strip()) for name in folder if name.strip()]
        everything = json.dumps([files, list(map(str, [*folder, *column, *common_caption, *small_pictures]))])
        return hashlib.sha256(everything.encode()).hexdigest()

    @classmethod
    def execute(cls, folder, column, common_caption, small_pictures, images=(), latents=(), texts=(), conditioning=()):
        reading = Reading(cls.hidden.unique_id, "pictures")
        gathering = Gathering(one("common_caption", common_caption).strip())
        if name := one("folder", folder).strip():
            found = entries(place_of(name), one("column", column).strip(), reading.visit, reach.is_local())
            for entry in reading.watched(found):
                if entry.problem:
                    gathering.skip(entry.file.name, entry.problem)
                else:
                    gathering.add_file(entry.file, entry.caption, entry.origin)
        pictures = tensors("images", images, (4,))
        encoded = tensors("latents", [latent and latent.get("samples") for latent in latents or ()], (4, 5))
        cut = sum(map(len, pictures))
        wired = with_captions([*pictures, *encoded], captions_of(texts, conditioning))
        for number, (picture, caption) in enumerate(reading.watched(wired)):
            if number < cut:
                gathering.add_image(f"picture {number + 1} of images", picture, caption)
            else:
                gathering.add_latent(f"picture {number - cut + 1} of latents", picture, caption)
        small = one("small_pictures", small_pictures)
        pairs = gathering.finish(scale_up=small == SCALE_UP)
        for name, why in gathering.skipped:
            log.warning("left out: %s (%s)", name, why)
        lines = told(pairs, gathering)
        log.info("%s", lines[0])
        say.on_node("\n".join(lines), cls.hidden.unique_id)
        return io.NodeOutput(pairs, pairs.captions, len(pairs), ui={"text": lines})


def one(name: str, values: Sequence[Any]) -> Any:
    """The value of a widget, which comes as a list of one. Raises ValueError for another number."""
    if len(values) != 1:
        raise ValueError(f"Connect one value to {name}: it gets {len(values)}.")
    return values[0]


NODES = [SiDImages]
