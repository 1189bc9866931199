"""What a student's file says of itself: how it is to be run, and on which base."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from ..method.sampling import NOISE_MODES
from .plain import is_number, is_whole, parse
from .tensors import NotACheckpointError

PREFIX = "sid."
LONGEST = 4000  # characters of a value
MOST_STEPS = 1000  # as many times as there are
LATEST = 1000.0  # of the training times of any process
MOST_SAMPLED, LARGEST = 256, 1e30  # values of a base's weights


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_sample(value: object) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MOST_SAMPLED
        and all(is_number(each) and abs(each) < LARGEST for each in value)
    )


# What each value has to be, and how that is said.
EXPECTED: dict[str, tuple[Callable[[object], bool], str]] = {
    "steps": (lambda value: is_whole(value, 1, MOST_STEPS), f"a whole number from 1 to {MOST_STEPS}"),
    "t_init": (lambda value: is_number(value) and 0 < value <= LATEST, f"a number above 0 and up to {LATEST:g}"),
    "noise_mode": (lambda value: _is_text(value) and value in NOISE_MODES, f"one of {', '.join(NOISE_MODES)}"),
} | {name: (_is_text, "a text") for name in ("base", "run", "guidance", "method")}
# What older files, and those of other tools, don't say.
OPTIONAL = {"base_weights": (_is_sample, f"a list of up to {MOST_SAMPLED} numbers")}


@dataclass(frozen=True)
class StudentInfo:
    """steps, t_init (training time), noise_mode: how to sample it. guidance: how it was distilled. base: see
    `base_signature`. run: the run's id. base_weights: some of the base's weights, by which another model of its
    architecture is known (see `apart`); None where nobody wrote them down."""

    steps: int
    t_init: float
    base: str
    run: str
    guidance: str
    noise_mode: str = "fresh"
    method: str = "sid"
    base_weights: tuple[float, ...] | None = None

    def to_metadata(self) -> dict[str, str]:
        """As strings, the only thing that safetensors metadata holds."""
        return {PREFIX + key: json.dumps(value) for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], name: str = "the file") -> "StudentInfo":
        """Raises NotACheckpointError where the metadata is not a student's or its values are unusable.

        name: what the file is called in the error.
        """
        missing = [PREFIX + field for field in EXPECTED if PREFIX + field not in metadata]
        if missing:
            raise NotACheckpointError(
                f"Choose a file that SiD Save Student has written: {name} is none, for its metadata lacks "
                f"{', '.join(missing)}. Ordinary checkpoints and LoRAs go into ComfyUI's own loaders."
            )
        values = {}
        said_of = {field: each for field, each in OPTIONAL.items() if PREFIX + field in metadata}
        for field, (is_usable, expected) in (EXPECTED | said_of).items():
            said = metadata[PREFIX + field]
            try:
                values[field] = parse(said, LONGEST)
                usable = is_usable(values[field])
            except ValueError:
                usable = False
            if not usable:
                raise NotACheckpointError(
                    f"Copy {name} again, or save the student anew: its {PREFIX}{field} is {said[:40]}"
                    f"{' …' * (len(said) > 40)}, and has to be {expected}."
                )
        sample = values.pop("base_weights", None)
        return cls(**values, base_weights=sample and tuple(map(float, sample)))


def base_signature(kind: str, weights: Mapping[str, Tensor]) -> str:
    """Tells architectures apart: the model class and the number and shapes of its weights, as 'SDXL-1680-1a2b3c4d'."""
    shapes = sorted((name, tuple(weight.shape)) for name, weight in weights.items())
    digest = hashlib.sha256(repr(shapes).encode()).hexdigest()
    return f"{kind}-{len(shapes)}-{digest[:8]}"


def apart(weights: Sequence[float], others: Sequence[float]) -> float:
    """How far weights are from others, of which both are the same sample: the norm of the difference relative to the
    others' norm. Infinite where they are not as many, or the others are all zero."""
    norm = math.hypot(*others)
    return math.dist(weights, others) / norm if len(weights) == len(others) and norm else math.inf
