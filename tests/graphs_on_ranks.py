"""What tests/nodes/training/test_distill_on_ranks.py has `torchrun` start on each rank: a ComfyUI that runs graphs.

`graphs_on_ranks.py FOLDER COMFYUI`: the graphs in FOLDER/queue.json one after the other, all ranks writing to the
folder FOLDER/output. What comes of each goes to FOLDER/NAME_RANK.json.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import conftest  # noqa: F401  makes the pack importable as sid_pack
import torch
from comfyui_process import ComfyUIProcess

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def troubled(trouble: dict, rank: int) -> Iterator[None]:
    """Within it, the rank that the trouble is of has it at an iteration: "cancel", "error", "memory" or "nan"."""
    import comfy.model_management

    from sid_pack.nodes.training import loop, progress
    from sid_pack.sid_core.training import distill

    if trouble.get("rank") != rank:
        yield
        return
    at, kind = trouble["at"], trouble["kind"]
    update, share = progress.TrainingProgress.update, distill.student_share

    def updated(self: object, iteration: int, note: str) -> None:
        if iteration == at and kind == "cancel":
            comfy.model_management.interrupt_current_processing()
        if iteration == at and kind == "error":
            raise RuntimeError("Look here first: this is the trouble.")
        update(self, iteration, note)

    done: list[int] = []

    def shared(part: object, **given: object) -> object:
        done.append(len(done))
        if kind == "memory" and len(done) == at:
            raise MemoryError("there is none")
        if kind == "nan" and len(done) == at:
            part.x_g = part.x_g * torch.nan
        return share(part, **given)

    progress.TrainingProgress.update, distill.student_share = updated, shared
    assert loop.distill is distill.distill
    try:
        yield
    finally:
        progress.TrainingProgress.update, distill.student_share = update, share


def main(folder: Path, comfyui: Path) -> None:
    rank = int(os.environ["RANK"])
    process = ComfyUIProcess.start(comfyui, ROOT, folder / f"base_{rank}")
    import folder_paths

    folder_paths.set_output_directory(str(folder / "output"))
    run = process.executor()
    for name, queued in json.loads((folder / "queue.json").read_text()).items():
        with troubled(queued["trouble"], rank):
            result = run(queued["graph"])
        (folder / f"{name}_{rank}.json").write_text(json.dumps({"success": result.success, "error": result.error}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
