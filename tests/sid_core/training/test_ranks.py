"""Several processes that train one run, as torch's own launcher starts them, against one process with all the batch."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from judged_toy import toy_run
from oracles import ToyNetwork
from ranks import RANKS, draw_for_all, drawn_in, launch, require_near
from safetensors.torch import load_file

from sid_pack.sid_core.files.checkpoint import Checkpoint
from sid_pack.sid_core.training.run_state import checkpoint_of, restore

BATCH = 4
IDENTITY = {"base": "toy"}
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
# From one process to two, on as the same two, and back to one.
BEGUN, IN_BETWEEN, LAST = "begun.safetensors", "{}_between.safetensors", "{}_last.safetensors"
for kind, sharded in (("averaged", False), ("sharded", True)):
    facts = {"guidance": "lsg", "dtype": "float64", "sharded": sharded, "iterations": 2}
    CASES |= {
        f"{kind}_goes_on": facts | {"begin": BEGUN, "save": IN_BETWEEN.format(kind)},
        f"{kind}_goes_on_again": facts | {"begin": IN_BETWEEN.format(kind), "save": LAST.format(kind)},
    }
CASES = {name: {"batch": BATCH, "iterations": 4} | case for name, case in CASES.items()}
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> Path:
    """A folder with each rank's outcome of each case, all trained in one start of the ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "cases.json").write_text(json.dumps(CASES))
    with drawn_in("float64"):
        toy = toy_run(CASES["sharded_goes_on"], BATCH)
        toy.train(2)
        checkpoint_of(toy.run, IDENTITY).write(folder / BEGUN)
    launch(folder)
    return folder


def trained_alone(case: dict, monkeypatch, begin: Path | None = None) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The same run in this process, with a batch for all ranks, of what these draw; → its whole state, and results."""

    draw_for_all(monkeypatch, BATCH)
    toy = toy_run(case, RANKS * BATCH)
    if case.get("not_finite") is not None:
        break_rows(toy, case)
    if begin is not None:
        # A batch of another size is refused, as it is another run; here it is that of all ranks.
        restore(toy.run, replace(Checkpoint.read(begin), settings=toy.run.settings.as_dict()), IDENTITY)
    results = toy.train(case["iterations"])
    return checkpoint_of(toy.run, IDENTITY).tensors, [asdict(result) for result in results]


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


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if name != "not_finite_sharded" and "begin" not in case]
)
def test_ranks_learn_what_one_process_does_with_all_their_batches(name, outcomes, monkeypatch):
    case = CASES[name]
    with drawn_in(case["dtype"]):
        expected, results = trained_alone(case, monkeypatch)
    for rank in range(RANKS):
        found = load_file(outcomes / f"{name}_{rank}.safetensors")
        assert len(found) == 3 * len(list(ToyNetwork().parameters()))
        require_near(found, {key: expected[key] for key in found}, TOLERANCE[case["dtype"]])
    told = json.loads((outcomes / f"{name}_0.json").read_text())["results"]
    for mine, theirs in zip(told, results, strict=True):
        for number in ("iteration", "images", "step", "skipped"):
            assert mine[number] == theirs[number]
        for number in ("student_loss", "fake_loss", "discriminator_loss"):
            if theirs[number] is not None:
                assert mine[number] == pytest.approx(theirs[number], rel=1e-4)


@pytest.mark.parametrize("kind", ["averaged", "sharded"])
def test_a_run_goes_on_with_another_number_of_ranks(kind, outcomes, monkeypatch):
    """All of its state, the optimizers' too, is what it is in one process with all the batch."""
    case = CASES[f"{kind}_goes_on"] | {"iterations": 4}
    with drawn_in("float64"):
        expected, _ = trained_alone(case, monkeypatch, outcomes / BEGUN)
    last = Checkpoint.read(outcomes / LAST.format(kind))
    assert last.iteration == 6
    require_near(last.tensors, expected, 1e-10)
    # And one process goes on from it.
    toy = toy_run(case, BATCH)
    restore(toy.run, last, IDENTITY)
    require_near(checkpoint_of(toy.run, IDENTITY).tensors, last.tensors, 0)


def test_what_is_not_finite_ends_all_ranks_of_a_sharded_run(outcomes):
    """They have to call their networks equally often, so that no sample can be left out."""
    told = [json.loads((outcomes / f"not_finite_sharded_{rank}.json").read_text()) for rank in range(RANKS)]
    assert told[1]["error"] == "NotFiniteError"
    assert told[0]["error"] == "OtherRankError"
    assert told[0]["message"].startswith("Look at what the other processes of this run say")
