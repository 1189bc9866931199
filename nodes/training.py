"""A distillation on its way: the guider's teacher as predictors, and the loop with its savings."""

from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..sid_core.checkpoint import save_run
from ..sid_core.data import Cond, EncodedPrompts
from ..sid_core.distill import Predictors, Run, StepResult, distill, generator_for
from ..sid_core.guidance import guided, steer_away
from ..sid_core.process import VP, Flow
from ..sid_core.sampling import few_step, step_times
from . import adapt
from .guiders import SiDGuider
from .progress import Progress, picture_grid

PREVIEWS = 8
SMOOTHING = 50  # iterations that the losses on display are averaged over


def teacher_predictor(guider: SiDGuider, process: VP | Flow):
    """teacher(x_t, t, cond, uncond) with all that the guider does, on copies that gradients can pass through."""
    strong = adapt.predictor(adapt.own_copy(guider.model_patcher), process)
    weak = guider.weaker and adapt.predictor(adapt.own_copy(guider.weaker), process)
    scale = guider.guidance.teacher

    def teacher(x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond) -> Tensor:
        clean = guided(strong, x_t, t, cond, uncond, scale)
        return steer_away(clean, guided(weak, x_t, t, cond, uncond, scale), guider.strength) if weak else clean

    return teacher


@dataclass
class Training:
    """A run on its way: what `SiDDistill` needs from one iteration to the next."""

    run: Run
    predict: Predictors
    prompts: EncodedPrompts
    process: VP | Flow
    latent_shape: tuple[int, ...]
    device: torch.device
    folder: Path
    identity: dict[str, str]
    progress: Progress
    saved: int = 0

    @property
    def state_file(self) -> Path:
        return self.folder / "state.safetensors"

    def train(self, iterations: int, save_every: int, preview_every: int, show) -> None:
        """Up to `iterations` in all. However it ends, what was learnt is on disk. show(latents): → a picture."""
        results = distill(self.run, self.predict, self.prompts, self.process, self.latent_shape, self.device)
        losses: list[StepResult] = []
        self.progress.begin(self.run.iteration)
        try:
            while self.run.iteration < iterations:
                losses = [*losses[-SMOOTHING + 1 :], next(results)]
                done = self.run.iteration
                self.progress.update(done, describe(losses))
                if show is not None and (done % preview_every == 0 or done == iterations):
                    self.preview(done, show)
                if done % save_every == 0:
                    self.save()
        finally:
            if self.run.iteration > self.saved:
                self.save()

    def save(self) -> None:
        save_run(self.run, self.state_file, self.identity)
        self.saved = self.run.iteration

    def preview(self, iteration: int, show) -> None:
        """Pictures of the same prompts from the same noise each time, by the averaged student with all its steps."""
        rows = torch.linspace(0, len(self.prompts) - 1, min(PREVIEWS, len(self.prompts))).long()
        cond = {name: values.to(self.device) for name, values in self.prompts.batch(rows).items()}
        draw = generator_for(self.run.settings.seed, 0)

        def noise() -> Tensor:
            return torch.randn(len(rows), *self.latent_shape, generator=draw).to(self.device)

        times = step_times(self.run.settings.steps, process=self.process, t_init=self.run.settings.t_init)
        with torch.no_grad(), self.run.averaged_weights():
            latents = few_step(
                lambda x_t, t: self.predict.student(x_t, t, cond), noise(), times, self.process, next_noise=noise
            )
        picture = show(latents)
        picture.save(self.folder / f"preview_{iteration:06}.png")
        self.progress.show(iteration, picture)


def describe(results: list[StepResult]) -> str:
    """The losses averaged over `results`, and how many samples were left out."""
    student = sum(r.student_loss for r in results) / len(results)
    fake = sum(r.fake_loss for r in results) / len(results)
    skipped = sum(r.skipped for r in results)
    return f"loss {student:.3g}, fake score {fake:.3g}" + (f", {skipped} samples not finite" * bool(skipped))


def decoder(model: ModelPatcher, vae):
    """latents of the method → one picture with all of them; None without a VAE."""
    if vae is None:
        return None

    def show(latents: Tensor):
        with torch.inference_mode():
            return picture_grid(vae.decode(model.get_model_object("latent_format").process_out(latents.cpu())))

    return show
