"""Whether anything outlives a distillation: RSS and living tensors of one ComfyUI through many of them.

`python benchmarks/leaks.py` runs 50 short ones of the demo model in one process, by turns into a LoRA and of the whole
network, each fifth cancelled in its second iteration, and prints a table. Exits with 1 where RSS grows by more than
2 % from the tenth to the last, or the living tensors after runs of one kind are not as many each time.
"""

import argparse
import gc
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from launch import ROOT, in_environment

WARM_UP = 10  # runs in which caches and the allocator's arenas fill
GROWTH = 0.02


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50, help=f"more than {WARM_UP} (default: 50)")
    parser.add_argument("--iterations", type=int, default=2, help="of each run (default: 2)")
    asked = parser.parse_args()
    if asked.runs <= WARM_UP:
        parser.error(f"set --runs to more than {WARM_UP}; it is {asked.runs}")
    return asked


def living_tensors() -> tuple[int, int]:
    """How many Python's collector knows of, and their bytes in all."""
    import torch

    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
    return len(tensors), sum(tensor.nbytes for tensor in tensors)


def cancel_in(iteration: int | None) -> None:
    """Have runs cancelled after that iteration, or none, as by the browser's button."""
    import comfy.model_management

    from sid_pack.nodes.host import progress

    def update(self: progress.Progress, done: int, note: str) -> None:
        if done == iteration:
            comfy.model_management.interrupt_current_processing()
        plain(self, done, note)

    plain = getattr(progress.Progress.update, "plain", progress.Progress.update)
    update.plain = plain
    progress.Progress.update = update


def main() -> int:
    asked = arguments()
    in_environment()
    sys.path[:0] = [str(ROOT / "tests")]
    import os

    import conftest  # noqa: F401  makes the pack importable as sid_pack
    import psutil
    from comfyui_process import ComfyUIProcess
    from graphs import distilled

    modes = {"full": {"mode": "full"}, "lora": {"mode": "lora", "student_rank": 64, "fake_rank": 32}}
    process = psutil.Process()
    sizes: list[int] = []
    alive: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as base:
        run = ComfyUIProcess.start(Path(os.environ["COMFYUI_PATH"]), ROOT, Path(base)).executor()
        print("run  mode  outcome    living tensors        MB    RSS, MB", flush=True)
        for i in range(asked.runs):
            mode, outcome = ("full", "lora")[i % 2], "cancelled" if i % 5 == 4 else "done"
            cancel_in(2 if outcome == "cancelled" else None)
            graph = distilled(iterations=asked.iterations, seed=i, run_name=mode, **modes[mode])
            graph["distilled"]["inputs"]["vae"] = ["demo", 2]
            result = run(graph)
            if result.success != (outcome == "done"):
                print(result.error)
                return 1
            del result
            living = living_tensors()
            sizes.append(process.memory_info().rss)
            if i >= WARM_UP:
                alive[mode, outcome].add(living)
            print(
                f"{i + 1:3}  {mode}  {outcome:9} {living[0]:15}{living[1] / 1e6:10.1f}{sizes[-1] / 1e6:11.0f}",
                flush=True,
            )
    growth = max(sizes[-2:]) / max(sizes[WARM_UP - 2 : WARM_UP]) - 1
    equal = all(len(found) == 1 for found in alive.values())
    print(
        f"RSS grew by {growth:.1%} from run {WARM_UP} to the last; living tensors are {'' if equal else 'not '}equal."
    )
    return 0 if growth <= GROWTH and equal else 1


if __name__ == "__main__":
    sys.exit(main())
