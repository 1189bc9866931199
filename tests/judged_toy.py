"""Toy runs: with a discriminator, and as a few plain values describe them, the same on one process as on several."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from oracles import ToyDistillation, small
from torch import Tensor

from sid_pack.sid_core.method.discriminator import pooled
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.ranks import ALONE, Ranks
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

SD = VP.stable_diffusion()
WORDS = torch.eye(3)
GUIDANCES = {"lsg": Guidance.lsg(2.0), "zero": Guidance.zero_cfg(), "anti": Guidance.anti_cfg(-1.0)}


class ToyPictures:
    """Nine pairs: of each of three words pictures around one place; what it was asked for is noted."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        noise = torch.randn(9, 2, 1, 1, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        self.words = WORDS.repeat(3, 1).to(dtype)
        self.latents = (2 + 0.3 * noise).to(dtype)
        self.asked: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.asked.append(rows)
        return self.latents[rows], {"word": self.words[rows]}


class Judged(ToyDistillation):
    """A toy whose fake score's hidden layer is the discriminator's, called by name in `calls`."""

    def __init__(self, settings: Settings, process=SD, dtype=torch.float32, pictures: bool = True):
        super().__init__(process, settings, dtype=dtype, time_scale=1e-3 if process is SD else 1.0)
        self.pictures = ToyPictures(dtype)
        if pictures:
            self.buckets = [replace(bucket, images=self.pictures) for bucket in self.buckets]
        self.calls: list[tuple[str, bool, Tensor]] = []
        plain, scale = self.predict.fake, 1e-3 if process is SD else 1.0
        fake = self.run.fake

        def logits(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            times = (t * scale)[:, None].to(x_t.dtype)
            return pooled(4 * torch.tanh(x_t.flatten(1) @ fake.w + cond["word"] @ fake.u + times * fake.b)[:, None])

        def noted(name: str, call):
            def predict(x_t, t, cond):
                self.calls.append((name, fake.w.requires_grad, cond["word"]))
                return call(x_t, t, cond)

            return predict

        self.logits = logits
        self.predict = replace(
            self.predict,
            fake=noted("fake", plain),
            discriminator=noted("judge", logits),
            fake_with_logits=noted("both", lambda *given: (plain(*given), logits(*given))),
        )

    def counts(self) -> tuple[dict, dict]:
        """How often the fake score was called as what: while it is trained, and in the student's update."""
        return tuple(
            dict(Counter(name for name, trained, _ in self.calls if trained == role)) for role in (True, False)
        )


def toy_run(case: dict, batch: int, ranks: Ranks = ALONE, shard: Callable | None = None) -> ToyDistillation:
    """case: guidance, dtype, and whether adversarial. shard(network, ranks): for networks in parts."""
    settings = small(Settings(GUIDANCES[case["guidance"]], steps=3), batch=batch, gradient_norm=case.get("norm", 0.0))
    dtype = getattr(torch, case["dtype"])
    if case.get("adversarial"):
        toy = Judged(small(settings, batch=batch, adversarial_weight=0.1, adversarial_warm_up=0), SD, dtype=dtype)
    else:
        toy = ToyDistillation(SD, settings, dtype=dtype)
    if shard is not None:
        for network in (toy.teacher, toy.run.student, toy.run.fake):
            shard(network, ranks)
    toy.run = Run(toy.run.student, toy.run.fake, toy.run.settings, ranks=ranks)
    return toy
