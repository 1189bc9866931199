"""Prompts through the text encoder, once: kept on disk for every later run, with progress and Cancel in between."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from torch import Tensor

from ...sid_core.data.conditioning import Cond
from ...sid_core.data.encodings import Encodings, require_room
from ...sid_core.data.prompts import PromptFile
from ...sid_core.files.atomic import remove_dead
from ...sid_core.words import log
from ..host import say
from ..host.conditioning import conditioning_tensors
from ..host.fingerprints import encoding_digest
from ..host.progress import CONSOLE_SECONDS, NODE_SECONDS, duration
from ..host.reach import is_local
from ..host.texts import conditionings
from ..sampling.guiders import SiDGuider


def encodings_folder() -> Path:
    """Where encodings are kept, in a folder for each text encoder. All of it may be deleted at any time."""
    return Path(folder_paths.get_output_directory()) / "sid_encodings"


def encoded(clip, prompts: PromptFile, guider: SiDGuider, latent: Tensor, node_id: str | None) -> Encodings:
    """The prompts and the guider's ∅-prompt as the teacher takes them. Call it inside `with_gradients()`.

    What is on disk already is not encoded again. latent: (1, C, …), for models that look at its size. Raises the host's
    interrupt when the user has cancelled, and OSError when the disk is too small; what was encoded till then is kept.
    What killed processes have left half written is removed.
    """
    model = guider.model_patcher

    def encode(texts: Sequence[str]) -> Iterator[Cond]:
        for text, conditioning in zip(texts, conditionings(clip, texts), strict=True):
            comfy.model_management.throw_exception_if_processing_interrupted()
            # It may be out of a file, of which other machines are told nothing.
            yield conditioning_tensors(model, conditioning, latent, like=uncond, text=text if is_local() else "")

    uncond = conditioning_tensors(model, guider.empty_prompt, latent)
    folder = encodings_folder() / encoding_digest(clip, model, latent, prompts)
    encodings = Encodings(prompts, folder, encode, uncond)
    for kept in encodings_folder().glob("*"):
        remove_dead(kept)
    missing = encodings.missing()
    sizes = [len(range(*encodings.span(shard))) for shard in missing]
    progress = EncodingProgress(sum(sizes), len(prompts), node_id)
    for shard, size in zip(missing, sizes, strict=True):
        encodings.make(shard)
        if shard == missing[0]:
            require_room(encodings, shard, len(missing) - 1)
        progress.update(size)
    return encodings


class EncodingProgress:
    """Says how far the encoding of `missing` of `total` such things is: the bar, text on the node, the console."""

    def __init__(self, missing: int, total: int, node_id: str | None, things: str = "prompts"):
        self.missing, self.total, self.node_id, self.things = missing, total, node_id, things
        self.done = 0
        self.began = time.monotonic()
        self.said_on_node, self.said_on_console = self.began - NODE_SECONDS, self.began
        self.bar = comfy.utils.ProgressBar(total)
        if missing < total:
            log.info("%d of %d %s are encoded already", total - missing, total, things)

    def update(self, more: int) -> None:
        """After `more` of the missing ones."""
        self.done += more
        now = time.monotonic()
        rate = self.done / max(now - self.began, 1e-9)
        position = self.total - self.missing + self.done
        self.bar.update_absolute(position, self.total)
        left = duration((self.missing - self.done) / rate)
        text = f"encoding {self.things}: {position}/{self.total}, {rate:.0f}/s, {left} left"
        last = self.done == self.missing
        if last or now - self.said_on_node > NODE_SECONDS:
            self.said_on_node = now
            say.on_node(text, self.node_id)
        if now - self.said_on_console > CONSOLE_SECONDS:
            self.said_on_console = now
            log.info("%s", text)
