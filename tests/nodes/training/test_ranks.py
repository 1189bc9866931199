"""True networks on several ranks, against one process with all the batch: LoRAs averaged, whole networks in parts."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ranks import RANKS, draw_for_all, launch, require_near  # isort: skip

BATCH, ITERATIONS = 2, 2
CASES = {
    f"{network}_{mode}{'_adversarial' * adversarial}": {
        "network": network,
        "mode": mode,
        "adversarial": adversarial,
        "sharded": mode == "full",
        "tokens": tokens,
        "batch": BATCH,
        "iterations": ITERATIONS,
    }
    for network, tokens in (("SD1.5", (7, 7, 7)), ("Qwen-Image", (5, 8, 6)))
    for mode in ("lora", "full")
    for adversarial in (False, True)
}
CASES["SD1.5_full_recompute"] = CASES["SD1.5_full"] | {"recompute": True}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, comfyui_path) -> Path:
    folder = tmp_path_factory.mktemp("networks_on_ranks")
    (folder / "cases.json").write_text(json.dumps(CASES))
    for rank in range(RANKS):
        (folder / f"base_{rank}").mkdir()
    launch(folder, str(comfyui_path))
    return folder


@pytest.mark.usefixtures("comfyui")
@pytest.mark.parametrize("name", CASES)
def test_ranks_learn_what_one_process_does(name, outcomes, monkeypatch):
    from network_runs import NetworkRun, in_double

    draw_for_all(monkeypatch, BATCH)
    with in_double():
        alone = NetworkRun(CASES[name], RANKS * BATCH)
        results = alone.train(ITERATIONS)
    expected = {
        f"{role}.{key}": weight.detach()
        for role, network in (("student", alone.run.student), ("fake", alone.run.fake))
        for key, weight in network.named_parameters()
    }
    for rank in range(RANKS):
        found = load_file(outcomes / f"{name}_{rank}.safetensors")
        tolerance = 1e-10 if CASES[name]["mode"] == "lora" else 1e-5  # whole networks are trained in float32
        require_near({key: found[key] for key in expected}, expected, tolerance)
    told = json.loads((outcomes / f"{name}_0.json").read_text())["results"]
    for mine, theirs in zip(told, results, strict=True):
        assert mine["images"] == theirs.images
        assert mine["student_loss"] == pytest.approx(theirs.student_loss, rel=max(1e-6, 10 * tolerance))
