"""Several processes that train one run, as torch's own launcher starts them, against one process with all the batch."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from judged_toy import toy_run
from safetensors.torch import load_file

from sid_pack.sid_core.training import distill as distillation
from sid_pack.sid_core.training.batch import Draws, draw_batch
from sid_pack.sid_core.training.distill import generator_for

RANKS, BATCH = 2, 4
LIMIT_S = 300
CASES = {
    f"{guidance}_{dtype}{'_adversarial' * adversarial}{'_sharded' * sharded}": {
        "guidance": guidance,
        "dtype": dtype,
        "adversarial": adversarial,
        "sharded": sharded,
    }
    for guidance, dtype in (("lsg", "float64"), ("zero", "float32"), ("anti", "float64"))
    for adversarial in (False, True)
    for sharded in (False, True)
    if not (adversarial and sharded)  # the toy's discriminator reaches into its weights; see tests/nodes/training
}
CASES |= {
    "micro_batches": {"guidance": "lsg", "dtype": "float64", "micro_batch": 3, "norm": 0.5},
    "micro_batches_sharded": {"guidance": "lsg", "dtype": "float64", "micro_batch": 2, "norm": 0.5, "sharded": True},
    "not_finite": {"guidance": "lsg", "dtype": "float64", "not_finite": 1},
    "none_finite": {"guidance": "zero", "dtype": "float64", "not_finite": 1, "everywhere": True},
    "out_of_memory": {"guidance": "lsg", "dtype": "float64", "out_of_memory": 1},
    "not_finite_sharded": {"guidance": "lsg", "dtype": "float64", "not_finite": 1, "sharded": True},
}
CASES = {name: {"batch": BATCH, "iterations": 4} | case for name, case in CASES.items()}
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> Path:
    """A folder with each rank's outcome of each case, all trained in one start of the ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.json").write_text(json.dumps(CASES))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    script = Path(__file__).parents[2] / "on_ranks.py"
    done = subprocess.run(
        [*launcher, str(script), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def trained_alone(case: dict, monkeypatch) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The same run in this process, with a batch for all ranks, of what these draw."""

    def generators(seed, iteration, rank=None, update=0):
        if rank is None:
            return generator_for(seed, iteration)
        return [generator_for(seed, iteration, each, update) for each in range(RANKS)]

    def of_all(settings, process, draws, **facts) -> Draws:
        each = [draw_batch(replace(settings, batch=BATCH), process, draw, **facts) for draw in draws]
        values = {
            name: None if getattr(each[0], name) is None else torch.cat([getattr(one, name) for one in each])
            for name in vars(each[0])
            if name != "noises"
        }
        return Draws(noises=tuple(map(torch.cat, zip(*(one.noises for one in each), strict=True))), **values)

    monkeypatch.setattr(distillation, "generator_for", generators)
    monkeypatch.setattr(distillation, "draw_batch", of_all)
    toy = toy_run(case, RANKS * BATCH)
    if case.get("not_finite") is not None:
        break_rows(toy, case)
    results = toy.train(case["iterations"])
    tensors = {
        f"{role}.{name}": weight.detach()
        for role, network in (("student", toy.run.student), ("fake", toy.run.fake))
        for name, weight in network.named_parameters()
    }
    tensors |= {f"average.{i}": average for i, average in enumerate(toy.run.ema.average)}
    return tensors, [asdict(result) for result in results]


def break_rows(toy, case: dict) -> None:
    """The last rank's pictures for the first prompt, or all of its pictures, are not finite."""
    student = toy.predict.student

    def broken(x_t, t, cond):
        clean = student(x_t, t, cond)
        if len(clean) < RANKS * BATCH:  # the finite ones, once more
            return clean
        bad = torch.ones(len(clean), dtype=torch.bool) if case.get("everywhere") else cond["word"][:, 0] == 1
        bad &= torch.arange(len(clean)) >= BATCH
        return torch.where(bad[:, None, None, None], torch.full_like(clean, torch.nan), clean)

    toy.predict = replace(toy.predict, student=broken)


@pytest.mark.parametrize("name", [name for name in CASES if name != "not_finite_sharded"])
def test_ranks_learn_what_one_process_does_with_all_their_batches(name, outcomes, monkeypatch):
    case, usual = CASES[name], torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, case["dtype"]))  # of what is drawn
    try:
        expected, results = trained_alone(case, monkeypatch)
    finally:
        torch.set_default_dtype(usual)
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    for rank in range(RANKS):
        found = load_file(outcomes / f"{name}_{rank}.safetensors")
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            error = float((found[key] - tensor).abs().max()) / scale
            assert error <= TOLERANCE[case["dtype"]], (key, error)
    told = json.loads((outcomes / f"{name}_0.json").read_text())["results"]
    for mine, theirs in zip(told, results, strict=True):
        for number in ("iteration", "images", "step", "skipped"):
            assert mine[number] == theirs[number]
        for number in ("student_loss", "fake_loss", "discriminator_loss"):
            if theirs[number] is not None:
                assert mine[number] == pytest.approx(theirs[number], rel=1e-4)


def test_what_is_not_finite_ends_all_ranks_of_a_sharded_run(outcomes):
    """They have to call their networks equally often, so that no sample can be left out."""
    told = [json.loads((outcomes / f"not_finite_sharded_{rank}.json").read_text()) for rank in range(RANKS)]
    assert told[1]["error"] == "NotFiniteError"
    assert told[0]["error"] == "OtherRankError"
    assert told[0]["message"].startswith("Look at what the other process of this run says")
