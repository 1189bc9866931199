"""A distillation on its way: the loop around the iterations, with its savings and previews."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..sid_core.checkpoint import save_run
from ..sid_core.data import EncodedPrompts
from ..sid_core.distill import Run, StepResult, distill, generator_for
from ..sid_core.process import VP, Flow
from ..sid_core.sampling import few_step, step_times
from .memory import Savings, is_out_of_memory, release
from .progress import Progress, picture_grid, say_on_node
from .roles import Roles

log = logging.getLogger(__name__)
PREVIEWS = 8
SMOOTHING = 50  # iterations that the losses on display are averaged over


@dataclass
class Training:
    """A run on its way: what `SiDDistill` needs from one iteration to the next."""

    run: Run
    roles: Roles
    prompts: EncodedPrompts
    process: VP | Flow
    latent_shape: tuple[int, ...]
    device: torch.device
    folder: Path
    identity: dict[str, str]
    progress: Progress
    savings: Savings
    saved: int = 0

    @property
    def state_file(self) -> Path:
        return self.folder / "state.safetensors"

    def train(self, iterations: int, save_every: int, preview_every: int, show) -> None:
        """Up to `iterations` in all. However it ends, what was learnt is on disk. show(latents): → a picture."""
        results = self.iterations()
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

    def iterations(self) -> Iterator[StepResult]:
        """The results of `distill`. An iteration that runs out of memory is begun again, with less of it in use."""
        results = None
        while True:
            results = results or distill(
                self.run,
                self.roles.predict,
                self.prompts,
                self.process,
                self.latent_shape,
                self.device,
                micro_batch=self.savings.micro_batch,
            )
            result = None
            try:
                with self.roles.ready():
                    result = next(results)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                saved = self.savings.more(self.device)
                if saved is None:
                    raise MemoryError(
                        f"there is too little memory on {self.device}, even with one picture at a time: {error}. What "
                        "was learnt is kept. Use mode lora, a smaller latent or rank, or close other programs."
                    ) from error
                log.warning("SiD: out of memory; from here on, %s", saved)
                say_on_node(f"out of memory; from here on, {saved}", self.progress.node_id)
            if result is not None:
                yield result
            else:
                results = None
                release()  # here, where the exception no longer holds on to the tensors of its frames

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
        with torch.no_grad(), self.roles.ready(), self.run.averaged_weights():
            latents = few_step(
                lambda x_t, t: self.roles.predict.student(x_t, t, cond), noise(), times, self.process, next_noise=noise
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
