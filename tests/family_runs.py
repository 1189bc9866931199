"""What tests of the families share: one at tiny size with prompts, noise, and the three roles of a distillation."""

from types import SimpleNamespace

import torch
from tiny_families import FAMILIES, TOKENS
from torch import Tensor

BATCH = 2
KAPPA = 1.5
LORA, FULL = "lora", "full"


def made(name: str) -> SimpleNamespace | None:
    """name, tiny, model: as a loader leaves it. None where this host has no such class."""
    tiny = FAMILIES[name]
    if not tiny.known():
        return None
    with torch.inference_mode():
        return SimpleNamespace(name=name, tiny=tiny, model=tiny.model())


def rows_of(family, seeds: list[int], tokens: int = TOKENS) -> dict:
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.sid_core.data.conditioning import stack

    latent = torch.zeros(1, *family.tiny.latent)
    return stack([conditioning_tensors(family.model, family.tiny.conditioning(seed, tokens), latent) for seed in seeds])


def noise_like(family, seed: int, batch: int = BATCH) -> Tensor:
    return torch.randn(batch, *family.tiny.latent, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def is_flow(family) -> bool:
    from sid_pack.nodes.host.model import process_of
    from sid_pack.sid_core.method.process import Flow

    return isinstance(process_of(family.model), Flow)


def roles_of(family, mode: str, recompute: bool = False):
    from sid_pack.nodes.host.model import process_of
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider
    from sid_pack.nodes.training.memory import Savings
    from sid_pack.nodes.training.roles import LoRAOptions, full_roles, lora_roles

    conds = family.tiny.conditioning(0), family.tiny.conditioning(1)
    guider = SiDLSGGuider.execute(family.model, *conds, KAPPA).result[0]
    savings = Savings(BATCH, recompute, can_offload=False)
    if mode == FULL:
        return full_roles(guider, process_of(family.model), savings)
    return lora_roles(guider, process_of(family.model), LoRAOptions(4, 2), savings)
