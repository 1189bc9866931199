"""Several processes as torch's own launcher starts them, and one that draws what they all do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from sid_pack.sid_core.training import distill as distillation
from sid_pack.sid_core.training.batch import Draws, draw_batch
from sid_pack.sid_core.training.distill import generator_for

RANKS = 2
LIMIT_S = 1200  # beside other tests


def launch(folder: Path, *more: str, script: str = "on_ranks.py") -> None:
    """Have a script run what a folder asks for, on two ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    done = subprocess.run(
        [*launcher, str(Path(__file__).with_name(script)), str(folder), *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def drawn_in(dtype: str) -> Iterator[None]:
    """Within it, numbers are drawn in this precision."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def draw_for_all(monkeypatch, batch: int) -> None:
    """From here on, a run of one process draws what all ranks together would, whose batches are of this size."""

    def generators(seed, iteration, rank=None, update=0):
        if rank is None:
            return generator_for(seed, iteration)
        return [generator_for(seed, iteration, each, update) for each in range(RANKS)]

    def of_all(settings, process, draws, **facts) -> Draws:
        each = [draw_batch(replace(settings, batch=batch), process, draw, **facts) for draw in draws]
        values = {
            name: None if getattr(each[0], name) is None else torch.cat([getattr(one, name) for one in each])
            for name in vars(each[0])
            if name != "noises"
        }
        return Draws(noises=tuple(map(torch.cat, zip(*(one.noises for one in each), strict=True))), **values)

    monkeypatch.setattr(distillation, "generator_for", generators)
    monkeypatch.setattr(distillation, "draw_batch", of_all)


def require_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        error = float((found[key] - tensor).abs().max()) / scale
        assert error <= tolerance, (key, error)
