"""A distillation on its way: the loop around the iterations, with its savings, metrics and previews."""

import platform
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import comfy.model_management
import comfyui_version
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.files.atomic import replacing
from ...sid_core.files.checkpoint import Changes
from ...sid_core.files.run_folder import RunFolder
from ...sid_core.method.process import VP, Flow
from ...sid_core.method.sampling import few_step, step_times
from ...sid_core.training.distill import Bucket, StepResult, distill, generator_for
from ...sid_core.training.health import Health, HealthWarning
from ...sid_core.training.memory import Activations, measure_activations
from ...sid_core.training.run import NotFiniteError, Run
from ...sid_core.training.run_state import checkpoint_of, counters_of, restore
from ...sid_core.words import log
from ..host.progress import Progress
from ..pictures.grid import labelled_rows
from .curves import draw_metrics
from .memory import Demand, Savings, forwards_at_once, is_out_of_memory, plan, release
from .roles import Roles

PREVIEWS = 8
SEEDS = 8  # of one prompt, to see whether they still make a difference
MOST_ROWS = 4
SMOOTHING = 50  # iterations that the losses on display are averaged over


@dataclass(frozen=True)
class Schedule:
    """When a run ends, and how often something is done on the way; all of it may change within a run. In iterations."""

    iterations: int
    save_every: int
    preview_every: int
    keep_last: int  # checkpoints


@dataclass
class Training:
    """A run on its way: what `SiDDistill` needs from one iteration to the next.

    buckets: the sizes it trains on; the first one's pictures are those that are looked at.
    """

    run: Run
    roles: Roles
    buckets: Sequence[Bucket]
    process: VP | Flow
    device: torch.device
    folder: RunFolder
    identity: dict[str, str]
    progress: Progress
    schedule: Schedule
    savings: Savings
    health: Health = field(init=False)
    saved: int = 0

    def __post_init__(self) -> None:
        self.health = Health(self.run.settings.batch)

    def start_over(self) -> None:
        """Put aside the run that is in the folder, unless it is this one, begun before; and say which."""
        said = self.folder.start_over({"settings": self.run.settings.as_dict(), "identity": self.identity})
        if said:
            self._notice(said)

    def resume(self) -> None:
        """Go on from the folder's newest whole checkpoint, if there is one, and say what is otherwise than before."""
        resumed = self.folder.resume(lambda state: restore(self.run, state, self.identity))
        changes: Changes = {}
        if resumed is not None:
            for reason in resumed.broken:
                self._notice(f"{reason} {resumed.checkpoint.name} before it is used: iteration {self.run.iteration}.")
            log.info("the run in %s goes on at iteration %d", self.folder.path, self.run.iteration)
            before = self.folder.description().get("schedule", {})
            now = asdict(self.schedule)
            changes = {key: (then, now[key]) for key, then in before.items() if now.get(key, then) != then}
            changes |= resumed.changes
            for name, (then, value) in sorted(changes.items()):
                log.info("from iteration %d on, %s is %s; it was %s", self.run.iteration, name, value, then)
            # With other settings an old warning may be due again.
            self.health.recall(self.folder.metrics.rows(), warnings=not resumed.changes)
            self.saved = self.run.iteration
        facts = {"settings": self.run.settings.as_dict(), "schedule": asdict(self.schedule), "identity": self.identity}
        facts |= {"prompts": len(self.buckets[0].prompts), "versions": versions()}
        self.folder.describe(counters_of(self.run), facts, changes)

    def plan_memory(self, asked: int) -> str:
        """Choose the micro-batch, as `plan` does, and say what is expected."""
        run = self.run
        trained = sum(parameter.numel() for role in (run.student, run.fake) for parameter in role.parameters())
        demand = Demand(
            device=self.device,
            weights=self.roles.weights,
            trained=trained,
            batch=run.settings.batch,
            forwards=forwards_at_once(run.settings.guidance),
        )
        return plan(self.savings, demand, asked, self._activations)

    def _activations(self) -> Activations:
        """Of one picture of the largest size in one of the student's forwards."""
        largest = max(self.buckets, key=lambda bucket: torch.Size(bucket.latent_shape).numel())
        cond = {name: values.to(self.device) for name, values in largest.prompts.batch(torch.tensor([0])).items()}
        x_t = torch.randn(1, *largest.latent_shape, device=self.device)
        t = self.process.snap(torch.tensor([self.process.default_t_init], device=self.device))
        kept, self.savings.recompute = self.savings.recompute, False
        try:
            with self.roles.ready():
                return measure_activations(self.roles.network, lambda: self.roles.predict.student(x_t, t, cond))
        finally:
            self.savings.recompute = kept

    def train(self, show) -> None:
        """To the schedule's end. Cancelled or failing, all that was learnt is saved first; a run that has diverged
        stays at the checkpoint before. show: see `decoder`."""
        self.progress.begin(self.run.iteration)
        try:
            self._loop(show)
        except NotFiniteError as error:
            raise NotFiniteError(f"{error} {self._good_checkpoint()}") from error
        except BaseException:
            if self.run.torn:
                log.warning("stopped while weights were changed, so only what was saved before is kept")
            elif self.run.iteration > self.saved:
                self._save_what_can_be()
            raise
        if self.run.iteration > self.saved:
            self.save()

    def iterations(self) -> Iterator[StepResult]:
        """The results of `distill`. An iteration that runs out of memory is begun again, with less of it in use."""
        results = None
        while True:
            results = results or distill(
                self.run,
                self.roles.predict,
                self.buckets,
                self.process,
                self.device,
                micro_batch=self.savings.micro_batch,
            )
            result = None
            try:
                with self.roles.ready():
                    result = next(results)
            except (RuntimeError, MemoryError) as error:
                self._use_less_memory(error)
            if result is not None:
                yield result
            else:
                results = None
                release()  # here, where the exception no longer holds on to the tensors of its frames

    def _use_less_memory(self, error: Exception) -> None:
        """Answers running out of memory. Raises what is something else, or MemoryError where nothing is left to try."""
        if self.run.torn or not is_out_of_memory(error):
            raise error
        saved = self.savings.more(self.device)
        if saved is None:
            raise MemoryError(
                f"there is too little memory on {self.device}, even with one picture at a time: {error}. What was "
                "learnt is kept. Use mode lora, a smaller latent or rank, or close other programs."
            ) from error
        self._notice(f"out of memory; from here on, {saved}")

    def _loop(self, show) -> None:
        results, losses = self.iterations(), []
        schedule = self.schedule
        if self.run.iteration == 0:
            self.look(0, None)
        while self.run.iteration < schedule.iterations:
            began = time.monotonic()
            result = next(results)
            losses = [*losses[-SMOOTHING + 1 :], result]
            self._record(result, time.monotonic() - began)
            done = self.run.iteration
            self.progress.update(done, describe(losses))
            if done % schedule.preview_every == 0 or done == schedule.iterations:
                self.look(done, show)
            if done % schedule.save_every == 0:
                self.save()

    def _record(self, result: StepResult, seconds: float) -> None:
        """One line of metrics, and one more for each warning."""
        rates = {
            "student_learning_rate": self.run.student_optimizer.param_groups[0]["lr"],
            "fake_learning_rate": self.run.fake_optimizer.param_groups[0]["lr"],
        }
        speed = {"images_per_second": round(self.run.settings.batch / max(seconds, 1e-9), 3)}
        self.folder.metrics.append(asdict(result) | rates | speed)
        self._warn(result.iteration, self.health.update(result))

    def _warn(self, iteration: int, warnings: Iterable[HealthWarning]) -> None:
        for warning in warnings:
            self._notice(f"iteration {iteration}: {warning.message}")
            row = {"iteration": iteration, "warning": warning.kind, "message": warning.message}
            self.folder.metrics.append(row)

    def _notice(self, message: str) -> None:
        log.warning("%s", message)
        self.progress.notices.append(message)

    def _good_checkpoint(self) -> str:
        checkpoints = self.folder.checkpoints()
        if not checkpoints:
            return "The run had not been saved yet: lower save_every too."
        return (
            f"The run stays at its last good checkpoint, {checkpoints[-1].name}: lower the learning rates, queue "
            "again, and it goes on from there."
        )

    def save(self) -> None:
        self.folder.save(checkpoint_of(self.run, self.identity))
        self.saved = self.run.iteration
        with replacing(self.folder.path / "curves.png") as temporary:
            draw_metrics(self.folder.metrics.rows()).save(temporary, "PNG")

    def _save_what_can_be(self) -> None:
        """After an error, which is the one to be shown, and not that the disk is full as well."""
        try:
            self.save()
        except OSError as error:
            log.warning("what was learnt since iteration %d could not be saved: %s", self.saved, error)

    def look(self, iteration: int, show) -> None:
        """What the averaged student does by now: how far its pictures of one prompt differ by their seeds, and previews
        of the same prompts from the same noise each time, in 1 … N steps."""
        steps, prompts = self.run.settings.steps, len(self.buckets[0].prompts)
        of_one_prompt = self._sample(torch.zeros(SEEDS).long(), steps)
        seed_spread = float(of_one_prompt.std(0, correction=0).mean())
        self.folder.metrics.append({"iteration": iteration, "seed_spread": seed_spread})
        self._warn(iteration, self.health.look(seed_spread))
        if show is not None:
            rows = torch.linspace(0, prompts - 1, min(PREVIEWS, prompts)).long()
            picture = show({f"{n} step{'s' * (n > 1)}": self._sample(rows, n) for n in shown_steps(steps)})
            with replacing(self.folder.previews / f"preview_{iteration:07}.png") as temporary:
                picture.save(temporary, "PNG")
            self.progress.show(iteration, picture)

    def _sample(self, rows: Tensor, steps: int) -> Tensor:
        """The averaged student's pictures (B, C, …) of these prompts. If memory runs out, less of it is used."""
        sampled = None
        while sampled is None:
            try:
                with torch.no_grad(), self.roles.ready(), self.run.averaged_weights():
                    sampled = self._sample_by_micro_batches(rows, steps)
            except (RuntimeError, MemoryError) as error:
                self._use_less_memory(error)
            if sampled is None:
                release()  # here, where the exception no longer holds on to the tensors of its frames
        return sampled

    def _sample_by_micro_batches(self, rows: Tensor, steps: int) -> Tensor:
        bucket = self.buckets[0]
        times = step_times(steps, process=self.process, t_init=self.run.settings.t_init)
        draw = generator_for(self.run.settings.seed, 0)
        noises = [torch.randn(len(rows), *bucket.latent_shape, generator=draw) for _ in range(steps)]

        def pictures(part: Tensor) -> Tensor:
            cond = {name: values.to(self.device) for name, values in bucket.prompts.batch(rows[part]).items()}
            first, *others = (noise[part].to(self.device) for noise in noises)
            following = iter(others)
            return few_step(
                lambda x_t, t: self.roles.predict.student(x_t, t, cond),
                first,
                times,
                self.process,
                next_noise=lambda: next(following),
            )

        at_once = self.savings.micro_batch or len(rows)
        return torch.cat([pictures(part) for part in torch.arange(len(rows)).split(at_once)])


def shown_steps(steps: int) -> list[int]:
    """The numbers of steps that a preview is drawn with: all up to `steps`, but of many only some; most first."""
    return list(range(steps, 0, -1)) if steps <= MOST_ROWS else [steps, steps // 2, 1]


def describe(results: list[StepResult]) -> str:
    """The losses averaged over `results`, and how many samples were left out."""
    student = sum(r.student_loss for r in results) / len(results)
    fake = sum(r.fake_loss for r in results) / len(results)
    skipped = sum(r.skipped for r in results)
    return f"loss {student:.3g}, fake score {fake:.3g}" + (f", {skipped} samples not finite" * bool(skipped))


def decoder(model: ModelPatcher, vae):
    """{label: latents of the method} → one picture with all of them; None without a VAE."""
    if vae is None:
        return None

    def show(sampled: dict[str, Tensor]):
        with torch.inference_mode():
            process_out = model.get_model_object("latent_format").process_out
            return labelled_rows({label: vae.decode(process_out(x.cpu())) for label, x in sampled.items()})

    return show


def versions() -> dict[str, str]:
    """Of what a run's numbers depend on."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    return {
        "comfyui-sid": re.search(r'^version = "(.+)"', text, re.MULTILINE)[1],
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device()),
    }
