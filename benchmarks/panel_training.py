"""A ComfyUI node that benchmarks/panel.py puts into its ComfyUI: a training to all who look on, without a model.

It writes metrics into a run's folder and reports by the pack's own code, so that events come as often as a real
training's do.
"""

import random
import sys
import time
from pathlib import Path


def of_the_pack(name: str):
    """A module of the pack, which ComfyUI has loaded by a name of its own making."""
    return next(module for loaded, module in sys.modules.items() if loaded.endswith(f".{name}"))


class PanelBenchmarkTraining:
    CATEGORY = "benchmarks"
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        required = {name: ("INT", {"default": 1}) for name in ("first", "iterations", "milliseconds")}
        return {"required": {"run_name": ("STRING", {}), **required}, "hidden": {"node_id": "UNIQUE_ID"}}

    def run(self, run_name: str, first: int, iterations: int, milliseconds: int, node_id: str) -> dict:
        import folder_paths  # ComfyUI's, which the benchmark itself has not

        RunFolder = of_the_pack("sid_core.files.run_folder").RunFolder  # noqa: N806
        TrainingProgress = of_the_pack("nodes.training.progress").TrainingProgress  # noqa: N806
        draw, progress = random.Random(first), TrainingProgress(first + iterations, 16, node_id, run_name)
        path = Path(folder_paths.get_output_directory()) / "sid_runs" / run_name
        with RunFolder(path) as folder, of_the_pack("nodes.host.under_way").under_way(run_name), progress.ending():
            progress.begin(first)
            for iteration in range(first + 1, first + iterations + 1):
                time.sleep(milliseconds / 1000)
                folder.metrics.append(row(iteration, draw))
                progress.update(iteration, "fake loss 0.1, student loss 0.1")
        return {}


def row(iteration: int, draw: random.Random) -> dict:
    """What a training with real pictures and evaluation notes of an iteration."""

    def around(middle: float) -> float:
        return middle * (1 + draw.gauss(0, 0.2))

    found = {"iteration": iteration, "images": 16 * iteration, "step": 1 + iteration % 4, "skipped": 0}
    found |= {"student_loss": around(0.2), "fake_loss": around(0.1), "spread": around(0.6), "magnitude": around(0.9)}
    found |= {"discriminator_loss": around(0.6), "adversarial_loss": around(0.7)}
    found |= {"student_learning_rate": 1e-5, "fake_learning_rate": 1e-5, "images_per_second": around(20)}
    if iteration % 500 == 0:
        found |= {"seed_spread": around(0.3)}
    if iteration % 2000 == 0:
        found |= {"kernel_distance": around(0.01), "frechet_distance": around(100)}
    return found


NODE_CLASS_MAPPINGS = {"PanelBenchmarkTraining": PanelBenchmarkTraining}
