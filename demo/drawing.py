"""Draw the demo's captions with ComfyUI's own guider and samplers, many captions to a batch.

Needs `host.start_comfyui()` first.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SID_TIMES = "sid"
LATENT_SIDE = 8


@dataclass(frozen=True)
class Setting:
    """What to draw with. The defaults are a student's: stock `lcm` over the times it was trained on, no guidance.

    `scheduler` is one of ComfyUI's, or "sid"; `student` is the file of one, None for the teacher; `name` is what to
    call it in a table, by default the file's name.
    """

    steps: int
    sampler: str = "lcm"
    scheduler: str = SID_TIMES
    cfg: float = 1.0
    student: Path | None = None
    name: str = ""

    @property
    def title(self) -> str:
        model = self.name or (self.student.stem if self.student else "teacher")
        return f"{model}, {self.steps} step{'s' * (self.steps > 1)}"


@dataclass(frozen=True)
class Drawn:
    """Pictures (N, 64, 64, 3) in [0, 1] and what they cost in all: network evaluations of one latent, and seconds."""

    images: Tensor
    forwards: int
    seconds: float


class Artist:
    """The demo's models and captions, at hand for any setting. Each caption is encoded once, when it is first drawn."""

    def __init__(self, captions: list[str], batch: int):
        from sid_pack.nodes.demo.model import load_demo

        self.teacher, self.clip, self.vae = load_demo()
        self.captions, self.batch = captions, batch
        self._contexts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def encoded(self, text: str) -> Tensor:
        """The text's conditioning, (1, tokens, width)."""
        if text not in self._contexts:
            self._contexts[text] = self.clip.encode_from_tokens(self.clip.tokenize(text))
        return self._contexts[text]

    @torch.inference_mode()
    def draw(
        self, setting: Setting, captions: Tensor, seed: int, patch: Callable[[object, slice], object] | None = None
    ) -> Drawn:
        """One picture for each caption index in `captions` (N,). The first noise depends on seed and N alone.

        patch: (MODEL, rows) -> MODEL, what is to be done to the model for the pictures of these rows.
        """
        import comfy.samplers

        model, forwards = count_forwards(self.model(setting))
        sampler, sigmas = comfy.samplers.sampler_object(setting.sampler), sigmas_of(model, setting)
        channels = model.get_model_object("latent_format").latent_channels
        noise = torch.randn(
            len(captions), channels, LATENT_SIDE, LATENT_SIDE, generator=torch.Generator().manual_seed(seed)
        )
        images = []
        began = time.perf_counter()
        for start in range(0, len(captions), self.batch):
            rows = slice(start, start + self.batch)
            guider = comfy.samplers.CFGGuider(patch(model, rows) if patch else model)
            # The host keeps a conditioning of as many rows as the batch as it is: each latent gets its own caption.
            contexts = torch.cat([self.encoded(self.captions[index]) for index in captions[rows]])
            guider.set_conds([[contexts, {}]], [[self.encoded(""), {}]])
            guider.set_cfg(setting.cfg)
            latents = guider.sample(
                noise[rows],
                torch.zeros_like(noise[rows]),
                sampler,
                sigmas,
                disable_pbar=True,
                seed=seed + start,  # or samplers that draw noise would draw the same for every batch
            )
            images.append(self.vae.decode(latents).cpu())
        return Drawn(torch.cat(images), forwards(), time.perf_counter() - began)

    def model(self, setting: Setting):
        from sid_pack.nodes.sampling.students import load_student

        return load_student(self.teacher, setting.student) if setting.student else self.teacher


def sigmas_of(model, setting: Setting) -> Tensor:
    """The sigmas that SiDScheduler, or stock KSampler with this sampler and scheduler, would run."""
    import comfy.samplers

    from sid_pack.nodes.sampling.few_step import schedule

    if setting.scheduler == SID_TIMES:
        return schedule(model, setting.steps, 0.0)
    return comfy.samplers.KSampler(model, setting.steps, "cpu", setting.sampler, setting.scheduler).sigmas


def count_forwards(model) -> tuple[object, Callable[[], int]]:
    """A clone of the MODEL, and a function that tells for how many latents its network was evaluated so far."""
    from comfy.patcher_extension import WrappersMP

    rows = 0

    def count(executor, x: Tensor, *args, **kwargs) -> Tensor:
        nonlocal rows
        rows += len(x)
        return executor(x, *args, **kwargs)

    counted = model.clone()
    counted.add_wrapper(WrappersMP.APPLY_MODEL, count)
    return counted, lambda: rows
