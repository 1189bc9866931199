"""Runs of ComfyUI's true networks at tiny size, as a few plain values describe them: on one process or on several.

Needs a ComfyUI in this process, and `in_double`, so that what differs by rounding is told from what is wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tiny_families import FAMILIES
from torch import Tensor

from sid_pack.sid_core.data.conditioning import PromptSet, select, stack
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.training.distill import Bucket, distill
from sid_pack.sid_core.training.ranks import ALONE, Ranks
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

KAPPA = 1.5


@contextmanager
def in_double() -> Iterator[None]:
    """Within it, all that the host makes float32 of is float64."""
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)


class Pictures:
    """Real pictures for the adversarial term: noise around one place, each with one of the prompts."""

    def __init__(self, shape: tuple[int, ...], prompts: PromptSet):
        self.latents = 1 + torch.randn(6, *shape, generator=torch.Generator().manual_seed(3))
        self.prompts = prompts

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.latents[rows], self.prompts.batch(rows % len(self.prompts))


class NetworkRun:
    """case: "network" (a family), "mode" (lora, full), "tokens" of its prompts, whether "adversarial", "recompute"."""

    def __init__(self, case: dict, batch: int, ranks: Ranks = ALONE):
        from sid_pack.nodes.host.conditioning import conditioning_tensors
        from sid_pack.nodes.host.model import process_of
        from sid_pack.nodes.sampling.guiders import SiDGuider
        from sid_pack.nodes.training.memory import Savings
        from sid_pack.nodes.training.roles import LoRAOptions, full_roles, lora_roles

        tiny = FAMILIES[case["network"]]
        model = tiny.model()
        model.model.diffusion_model.double()
        model.model.manual_cast_dtype = None
        model.model.diffusion_model.dtype = torch.float64
        guidance, latent = Guidance.lsg(KAPPA), torch.zeros(1, *tiny.latent)
        guider = SiDGuider(model, guidance, None, 0.0)
        conds = [
            conditioning_tensors(model, tiny.conditioning(seed, tokens), latent)
            for seed, tokens in enumerate(case["tokens"])
        ]
        *rows, empty = (select(stack(conds), torch.tensor([i])) for i in range(len(conds)))
        prompts = PromptSet.of([f"prompt {i}" for i in range(len(rows))], rows, empty)
        self.process = process_of(model)
        savings = Savings(batch, case.get("recompute", False), can_offload=False)
        if case["mode"] == "lora":
            self.roles = lora_roles(guider, self.process, LoRAOptions(3, 2), savings)
            self.roles.student.double()
            self.roles.fake.double()
        else:
            self.roles = full_roles(guider, self.process, savings, ranks=ranks)
        self.predict = self.roles.predict
        settings = Settings(
            guidance,
            steps=2,
            batch=batch,
            student_learning_rate=3e-4,
            fake_learning_rate=3e-4,
            adversarial_weight=0.1 if case.get("adversarial") else 0.0,
            adversarial_warm_up=0,
            adam_epsilon=1e-3,  # so that a gradient that is rounding alone is no step
        )
        self.run = Run(self.roles.student, self.roles.fake, settings, ranks=ranks)
        pictures = Pictures(tiny.latent, prompts) if case.get("adversarial") else None
        self.buckets = [Bucket(tiny.latent, prompts, pictures)]

    def ready(self):
        return self.roles.ready()

    def train(self, iterations: int) -> list:
        results = distill(self.run, self.predict, self.buckets, self.process, torch.device("cpu"))
        done = []
        for _ in range(iterations):
            with self.ready():
                done.append(next(results))
        return done
