"""What a student's file says of itself: how it is to be run, and on which base."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from ..method.sampling import NOISE_MODES
from .tensors import NotACheckpointError

PREFIX = "sid."


@dataclass(frozen=True)
class StudentInfo:
    """steps, t_init (training time), noise_mode: how to sample it. guidance: how it was distilled. base: see
    `base_signature`. run: the run's id."""

    steps: int
    t_init: float
    base: str
    run: str
    guidance: str
    noise_mode: str = "fresh"
    method: str = "sid"

    def to_metadata(self) -> dict[str, str]:
        """As strings, the only thing that safetensors metadata holds."""
        return {PREFIX + key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "StudentInfo":
        """Raises NotACheckpointError where the metadata is not a student's or its values are unusable."""
        missing = [name for name in cls.__dataclass_fields__ if PREFIX + name not in metadata]
        if missing:
            raise NotACheckpointError(
                f"its metadata lacks {', '.join(PREFIX + name for name in missing)}, so it is not a student saved by "
                "SiDSaveStudent. Ordinary checkpoints and LoRAs go into ComfyUI's own loaders."
            )
        values = {name: metadata[PREFIX + name] for name in cls.__dataclass_fields__}
        try:
            info = cls(**{name: json.loads(value) for name, value in values.items()})
            usable = isinstance(info.steps, int) and info.steps >= 1 and info.t_init > 0
        except (json.JSONDecodeError, TypeError):  # no JSON, or a first time that is no number
            usable = False
        if not (usable and info.noise_mode in NOISE_MODES):
            raise NotACheckpointError(f"its metadata says {values}, which no sampler can run")
        return info


def base_signature(kind: str, weights: Mapping[str, Tensor]) -> str:
    """Tells architectures apart: the model class and the number and shapes of its weights, as 'SDXL-1680-1a2b3c4d'."""
    shapes = sorted((name, tuple(weight.shape)) for name, weight in weights.items())
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()
    return f"{kind}-{len(shapes)}-{digest[:8]}"
