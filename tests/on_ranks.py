"""What tests of ranks have `torchrun` start on each rank: toy runs, whose outcome each rank writes into a folder."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
import conftest  # noqa: E402, F401  makes the pack importable as sid_pack
from judged_toy import toy_run  # noqa: E402
from oracles import break_prompt  # noqa: E402

from sid_pack.sid_core.files.checkpoint import Checkpoint  # noqa: E402
from sid_pack.sid_core.training.distill import StepResult, distill  # noqa: E402
from sid_pack.sid_core.training.ranks import OtherRankError, Ranks  # noqa: E402
from sid_pack.sid_core.training.run import NotFiniteError, Run  # noqa: E402
from sid_pack.sid_core.training.run_state import checkpoint_of, parts_like, restore  # noqa: E402
from sid_pack.sid_core.training.sharding import shard, whole  # noqa: E402

IDENTITY = {"base": "toy"}
CPU = torch.device("cpu")


def train(case: dict, ranks: Ranks, folder: Path) -> dict:
    """The run of a case to its end; → what is to be compared."""
    torch.set_default_dtype(getattr(torch, case["dtype"]))  # of what is drawn
    toy = toy_run(case, case["batch"], ranks, shard if ranks.in_step else None)
    toy.predict = replace(toy.predict, in_step=ranks.in_step)
    if case.get("not_finite") == ranks.rank:
        break_prompt(toy, 0, everywhere=case.get("everywhere", False))
    if case.get("out_of_memory") == ranks.rank:
        raise_once(toy, at=3)
    if "begin" in case:
        like = parts_like(toy.run)
        restore(toy.run, Checkpoint.read(folder / case["begin"], like), IDENTITY)
    micro_batch, results = case.get("micro_batch"), []
    while len(results) < case["iterations"]:
        iterations = distill(toy.run, toy.predict, toy.buckets, toy.process, CPU, micro_batch=micro_batch)
        try:
            while len(results) < case["iterations"]:
                results.append(next(iterations))
        except MemoryError:
            micro_batch = 1
    if "save" in case:
        state = checkpoint_of(toy.run, IDENTITY)
        if ranks.in_step:
            state.write_in_parts(folder / case["save"], ranks.leads)
        elif ranks.leads:
            state.write(folder / case["save"])
        ranks.agree()  # before another reads it
    return outcome(toy.run, results)


def train_network(case: dict, ranks: Ranks) -> dict:
    from network_runs import NetworkRun, in_double  # which needs the host

    with in_double():
        run = NetworkRun(case, case["batch"], ranks)
        return outcome(run.run, run.train(case["iterations"]))


def outcome(run: Run, results: list[StepResult]) -> dict:
    networks = {"student": run.student, "fake": run.fake}
    tensors = {
        f"{role}.{name}": whole(weight.detach()).contiguous()
        for role, network in networks.items()
        for name, weight in network.named_parameters()
    }
    tensors |= {f"ema.{i}": whole(average).contiguous() for i, average in enumerate(run.ema.average)}
    return {"tensors": tensors, "results": [asdict(result) for result in results]}


def raise_once(toy, at: int) -> None:
    """The fake score's call of that number ends as where memory runs out."""
    fake, calls = toy.predict.fake, []

    def predict(x_t, t, cond):
        calls.append(t)
        if len(calls) == at:
            raise MemoryError
        return fake(x_t, t, cond)

    toy.predict = replace(toy.predict, fake=predict)


def main(folder: Path, comfyui: Path | None) -> None:
    if comfyui is not None:
        from comfyui_process import ComfyUIProcess

        ComfyUIProcess.start(comfyui, Path(__file__).parents[1], folder / f"base_{os.environ['RANK']}")
    ranks = Ranks.of_environment(CPU)
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        told = {}
        try:
            ranks.in_step = case.get("sharded", False)
            found = train_network(case, ranks) if "network" in case else train(case, ranks, folder)
            save_file(found["tensors"], folder / f"{name}_{ranks.rank}.safetensors")
            told = {"results": found["results"]}
        except (NotFiniteError, OtherRankError) as error:
            ranks.leave(cancelled=False)
            told = {"error": type(error).__name__, "message": str(error)}
        (folder / f"{name}_{ranks.rank}.json").write_text(json.dumps(told))
        ranks._closed = False  # the next case is another run
    dist.destroy_process_group()


if __name__ == "__main__":
    assert "RANK" in os.environ
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
