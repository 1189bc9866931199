"""What many GPUs may gain: by hand, and with the sizes of ComfyUI's true networks."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FLUX = {
    **{"in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "context_in_dim": 4096},
    **{"hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38},
    **{"axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "guidance_embed": True},
}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


scaling = load("scaling")
SD15 = scaling.NETWORKS[0]
FAST = scaling.Links(within=450e9, between=50e9)


def test_a_lora_s_gradients_go_round_twice():
    # 423,936 · (64 + 32) weights of 4 bytes; by two GPUs, half of it is sent twice.
    assert scaling.sent(SD15, "LoRA", 2) == 162_791_424
    assert scaling.sent(SD15, "LoRA", 1) == 0
    # 16 GPUs on 50 GB/s: 2 · 15/16 · 0.162791424 / 50 = 0.0061047 s besides the second.
    assert scaling.speed_up(SD15, "LoRA", 16, FAST, 1.0) == pytest.approx(16 / 1.0061047)


def test_whole_networks_are_put_together_as_they_are_needed():
    # 9.5 times 2 bytes a weight, and gradients of 4 for two networks: 27 bytes.
    assert scaling.GATHERS == 9.5
    assert scaling.sent(SD15, "full", 8) == pytest.approx(7 / 8 * 27 * 859_520_964)
    # 20.30618 GB at 450 GB/s are 0.0451248 s.
    assert scaling.speed_up(SD15, "full", 8, FAST, 1.0) == pytest.approx(8 / 1.0451248)
    # Longer iterations hide it.
    assert scaling.speed_up(SD15, "full", 8, FAST, 10.0) == pytest.approx(8 / 1.00451248)


def test_one_gpu_is_what_all_are_compared_with():
    assert scaling.speed_up(SD15, "full", 1, FAST, 1.0) == 1.0


def test_the_page_has_the_table():
    page = (BENCHMARKS.parent / "docs" / "many_gpus.md").read_text(encoding="utf-8")
    for network in (400e9, 10e9):
        lines = "\n".join(scaling.table(scaling.Links(450e9, network / 8), 1.0))
        assert lines in page


@pytest.mark.parametrize("network", scaling.NETWORKS, ids=lambda network: network.name)
def test_the_sizes_are_those_of_the_true_networks(comfyui, network):
    import comfy.ops
    import torch
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from sid_pack.sid_core.training.adapters import LoRASet, find_targets

    sizes = load("full_size")
    meta = {"device": "meta", "dtype": torch.float16, "operations": comfy.ops.disable_weight_init}
    made = {
        "SD1.5": lambda: UNetModel(**sizes.SD15_UNET, num_heads=8, num_head_channels=-1, **meta),
        "SDXL": lambda: UNetModel(**sizes.SDXL_UNET, num_heads=-1, num_head_channels=64, **meta),
        "FLUX.1 dev": lambda: Flux(image_model="flux", **FLUX, **meta),
    }[network.name]()
    assert sum(weight.numel() for weight in made.parameters()) == network.parameters
    lora = LoRASet(find_targets(made), 1, seed=0)
    assert sum(weight.numel() for weight in lora.parameters()) == network.lora
