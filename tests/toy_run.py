"""`python toy_run.py FOLDER ITERATIONS SAVE_EVERY`: a toy's run in a folder, in a process of its own to be killed."""

import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  makes the pack importable as sid_pack
from oracles import ToyDistillation, small

from sid_pack.sid_core.files.run_folder import Resumed, RunFolder
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.run_state import checkpoint_of, counters_of, restore
from sid_pack.sid_core.training.settings import Settings

SETTINGS = small(Settings(Guidance.lsg(2.0), steps=3, ema_half_life_images=100))
IDENTITY = {"base": "toy-4-abc", "prompts": "3"}


def toy(settings: Settings = SETTINGS) -> ToyDistillation:
    return ToyDistillation(VP.stable_diffusion(), settings)


def asked(distillation: ToyDistillation) -> dict:
    """What `RunFolder.start_over` is told of a run."""
    return {"settings": distillation.run.settings.as_dict(), "identity": IDENTITY}


def train(
    folder: RunFolder, distillation: ToyDistillation, iterations: int, save_every: int, goal: int = 0
) -> Resumed | None:
    """Resume and train to `iterations`, saving on the way alone. goal: where it would have ended; 0: there."""
    run = distillation.run
    resumed = folder.resume(lambda state: restore(run, state, IDENTITY))
    description = asked(distillation) | {"schedule": {"iterations": goal or iterations}}
    folder.describe(counters_of(run), description, resumed.changes if resumed else {})
    results = distillation.iterations()
    while run.iteration < iterations:
        folder.metrics.append(asdict(next(results)))
        if run.iteration % save_every == 0:
            folder.save(checkpoint_of(run, IDENTITY))
    return resumed


if __name__ == "__main__":
    with RunFolder(Path(sys.argv[1])) as opened:
        train(opened, toy(), int(sys.argv[2]), int(sys.argv[3]))
