"""Features of drawn pictures on disk, a file for each batch, so that what was drawn need not be drawn again."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..files.plain import is_number, parse
from ..files.tensors import NotACheckpointError, checksum, read_tensors, write_tensors
from ..words import log

FORMAT = "sid-features-1"
FEATURES, ALIGNMENT, PICTURES = "features", "alignment", "pictures"
SAID = "measured"  # what the metadata says, as one entry: the order of several is random in a file
LONGEST = 1000


@dataclass(frozen=True)
class Batch:
    """What is kept of a batch of n pictures.

    features: (n, D), D = 0 without an image encoder. alignment: (n, 2), cosine of each with its own prompt's text and
    with another's, or None without a text tower. seconds, forwards: an image's.
    """

    features: Tensor
    alignment: Tensor | None
    seconds: float
    forwards: float


class FeatureFolder:
    """The batches of one model, at one setting, by their number."""

    def __init__(self, path: Path):
        self.path = path

    def read(self, number: int, pictures: int) -> Batch | None:
        """None where there is none of so many pictures, or only a damaged file, which is told."""
        tensors, said = self._read(self._batch(number), f"pictures from {number * pictures + 1}")
        if len(tensors.get(FEATURES, ())) != pictures or not {"seconds", "forwards"} <= said.keys():
            return None
        return Batch(tensors[FEATURES], tensors.get(ALIGNMENT), said["seconds"], said["forwards"])

    def write(self, number: int, batch: Batch) -> None:
        """Whole or not at all. Raises OSError when the disk is full."""
        tensors = {FEATURES: batch.features} | ({} if batch.alignment is None else {ALIGNMENT: batch.alignment})
        self._write(self._batch(number), tensors, {"seconds": batch.seconds, "forwards": batch.forwards})

    def shown(self, pictures: int) -> Tensor | None:
        """The pictures to look at (n, H, W, 3) in [0, 1], if they have been written."""
        found = self._read(self.path / "shown.safetensors", "pictures to look at")[0].get(PICTURES)
        return found.float() / 255 if found is not None and len(found) == pictures else None

    def show(self, pictures: Tensor) -> None:
        self._write(self.path / "shown.safetensors", {PICTURES: (pictures * 255).round().byte()}, {})

    def _batch(self, number: int) -> Path:
        return self.path / f"{number:07}.safetensors"

    def _write(self, file: Path, tensors: dict[str, Tensor], said: dict[str, float]) -> None:
        facts = said | {"checksum": checksum(tensors)}
        write_tensors(file, tensors, {SAID: json.dumps({"format": FORMAT} | facts)})

    def _read(self, file: Path, what: str) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Both empty where the file is not there, or is not what was written."""
        if not file.exists():
            return {}, {}
        try:
            tensors, metadata = read_tensors(file)
            said = parse(metadata.get(SAID, ""), LONGEST)
            if not isinstance(said, dict) or said.pop("format", None) != FORMAT:
                raise ValueError("it is of another version")
            if not all(map(is_number, said.values())) or said["checksum"] != checksum(tensors):
                raise ValueError("its checksum is wrong")
            return tensors, said
        except (NotACheckpointError, ValueError, KeyError) as error:
            why = getattr(error, "why", None) or error
            log.warning("%s is damaged (%s): its %s on are drawn again", Path(file.parent.name, file.name), why, what)
            return {}, {}
