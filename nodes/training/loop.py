"""A distillation on its way: the loop around the iterations, with its savings, metrics and previews."""

import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Protocol

import comfy.model_management
import comfyui_version
import torch
from torch import Tensor

from ...sid_core.data.conditioning import moved
from ...sid_core.files.atomic import replacing
from ...sid_core.files.checkpoint import Changes, Checkpoint
from ...sid_core.files.replaced import TEACHER_PREVIEW, preview_name
from ...sid_core.files.run_folder import Resumed, RunFolder
from ...sid_core.method.process import VP, Flow
from ...sid_core.training.distill import Bucket, StepResult, distill, is_adversarial
from ...sid_core.training.health import Health, HealthWarning
from ...sid_core.training.memory import Activations, measure_activations
from ...sid_core.training.ranks import OtherRankCancelledError
from ...sid_core.training.run import NotFiniteError, Run
from ...sid_core.training.run_state import checkpoint_of, counters_of, parts_like, restore
from ...sid_core.training.settings import ADAM_8_BIT, shown_name
from ...sid_core.words import log
from ..host import say
from .curves import draw_metrics
from .memory import Demand, Savings, at_a_time, forwards_at_once, gigabytes, is_out_of_memory, plan, release
from .previews import TEACHER_STEPS, Show, sample_few_step, sample_teacher, shown_steps
from .progress import TrainingProgress
from .roles import Roles

PREVIEWS = 8
SEEDS = 8  # of one prompt, to see whether they still make a difference
SMOOTHING = 50  # iterations that the losses on display are averaged over


@dataclass(frozen=True)
class Schedule:
    """When a run ends, and how often something is done on the way; all of it may change within a run. In iterations."""

    iterations: int
    save_every: int
    preview_every: int
    keep_last: int  # checkpoints


class Evaluator(Protocol):
    """What looks at a run on its way: see `best.Evaluation`."""

    def recall(self, training: "Training") -> None:
        """What the run's folder knows of it already."""

    def stops(self, training: "Training") -> bool:
        """Look where that is due; → whether the run is to end."""


@dataclass
class Training:
    """A run on its way: what `SiDDistill` needs from one iteration to the next.

    Of several ranks that train it, each has one of these; what they see and save goes into the first one's folder, and
    the others' are for nothing but their own use. buckets: the sizes it trains on; the first one's pictures are those
    that are looked at. stop: set from outside to have it end after the iteration it is in.
    """

    run: Run
    roles: Roles
    buckets: Sequence[Bucket]
    process: VP | Flow
    device: torch.device
    folder: RunFolder
    identity: dict[str, str]
    progress: TrainingProgress
    schedule: Schedule
    savings: Savings
    health: Health = field(init=False)
    saved: int = 0
    evaluation: Evaluator | None = None
    stop: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.ranks = self.run.ranks
        self.health = Health(self.run.batch)

    def start_over(self) -> None:
        """Put aside the run that is in the folder, unless it is this one, begun before; and say which."""
        said = self.folder.start_over({"settings": self.run.settings.as_dict(), "identity": self.identity})
        if said:
            self.progress.remark(said)

    def resume(self) -> None:
        """Go on from the folder's newest whole checkpoint, if there is one, and say what is otherwise than before."""
        resumed = self._resumed()
        changes: Changes = {}
        if resumed is not None:
            at = self.run.iteration
            for reason in resumed.broken:
                self.progress.warn(f"{reason} {resumed.checkpoint.name} before it is used: iteration {at}.")
            self.progress.remark(f"goes on from iteration {at} of the run in {say.shown(self.folder.path)}")
            before, now = self.folder.description().get("schedule", {}), self._schedule()
            before.setdefault("processes", 1)  # as runs of earlier versions had it
            changes = {key: (then, now[key]) for key, then in before.items() if now.get(key, then) != then}
            changes |= resumed.changes
            for name, (then, value) in sorted(changes.items()):
                name = shown_name(name)
                self.progress.remark(f"from iteration {at} on, {name} is {value}; it was {then}")
            # With other settings an old warning may be due again.
            self.health.recall(self.folder.metrics.rows(), warnings=not resumed.changes)
            self.saved = self.run.iteration
            if at >= self.schedule.iterations:
                self.progress.warn(
                    f"Raise iterations above {at} to train on: it is {self.schedule.iterations}, and this run has {at} "
                    "already. Its student comes out as it is."
                )
        if self.evaluation is not None:
            self.evaluation.recall(self)
        facts = {"settings": self.run.settings.as_dict(), "schedule": self._schedule(), "identity": self.identity}
        facts |= {"prompts": len(self.buckets[0].prompts), "versions": versions()}
        self.folder.describe(counters_of(self.run), facts, changes)

    def _schedule(self) -> dict[str, int]:
        """What may change within a run."""
        return asdict(self.schedule) | {"processes": self.ranks.size}

    def _resumed(self) -> Resumed | None:
        """What the folder has, restored; on other ranks than the first, what that one has."""
        restored: list[Checkpoint] = []

        def take(state: Checkpoint) -> Changes:
            changes = restore(self.run, state, self.identity)
            restored[:] = [state]
            return changes

        read = partial(Checkpoint.read, like=parts_like(self.run))
        resumed = self.folder.resume(take, read)
        # Of networks in parts each rank reads its own, from a disk that all have; else the first sends what it read.
        # As plain values: a class of the pack has a module of another name in another ComfyUI.
        sent = vars(restored[0]) if restored and not self.ranks.in_step else None
        file, sent = self.ranks.shared((resumed and resumed.checkpoint, sent))
        if file is not None and not self.ranks.leads:
            take(Checkpoint(**sent) if sent else read(file))
            self.saved = self.run.iteration
        return resumed

    def plan_memory(self, asked: int) -> str:
        """Choose the micro-batch, as `plan` does, and say what is expected."""
        run = self.run
        if self.ranks.in_step:  # none can measure alone, and all have to take the same
            self.savings.micro_batch = min(asked or run.settings.batch, run.settings.batch)
            weights, part = gigabytes(self.roles.weights), self.ranks.size
            return (
                f"memory: {weights} of weights with {part} processes, a {part}th in each; in each of them, "
                f"{at_a_time(self.savings.micro_batch)}, of {run.settings.batch}."
            )
        trained = sum(parameter.numel() for role in (run.student, run.fake) for parameter in role.parameters())
        demand = Demand(
            device=self.device,
            weights=self.roles.weights,
            trained=trained,
            batch=run.settings.batch,
            forwards=forwards_at_once(run.settings.guidance, adversarial=is_adversarial(run.settings, self.buckets)),
        )
        return plan(self.savings, demand, asked, self._activations)

    def _activations(self) -> Activations:
        """Of one picture of the largest size in one of the student's forwards."""
        largest = max(self.buckets, key=lambda bucket: torch.Size(bucket.latent_shape).numel())
        cond = moved(largest.prompts.batch(torch.tensor([0])), self.device)
        x_t = torch.randn(1, *largest.latent_shape, device=self.device)
        t = self.process.snap(torch.tensor([self.process.default_t_init], device=self.device))
        kept, self.savings.recompute = self.savings.recompute, False
        try:
            with self.roles.ready():
                return measure_activations(self.roles.network, lambda: self.roles.predict.student(x_t, t, cond))
        finally:
            self.savings.recompute = kept

    def train(self, show: Show | None) -> None:
        """To the schedule's end. Cancelled or failing, all that was learnt is saved first, and the error says what is
        kept; a run that has diverged stays at the checkpoint before. show: see `decoder`."""
        self._require_room()
        self.progress.begin(self.run.iteration)
        try:
            self._loop(show)
            if self.run.iteration > self.saved:
                self.save()
        except NotFiniteError as error:
            self.ranks.leave(cancelled=False)
            say.add_note(error, self._good_checkpoint())
            raise
        except OtherRankCancelledError as error:
            # As if it had been this one, whose node then ends as one that was cancelled.
            cancelled = comfy.model_management.InterruptProcessingException()
            say.add_note(cancelled, self._what_is_kept(cancelled, self._save_what_can_be()))
            raise cancelled from error
        except BaseException as error:
            self.ranks.leave(isinstance(error, comfy.model_management.InterruptProcessingException))
            unsaved = self._save_what_can_be()
            say.add_note(error, self._what_is_kept(error, unsaved))
            raise

    def _require_room(self) -> None:
        """Raises OSError where the disk has no room for a checkpoint; for fewer than there are to be, it warns."""
        if self.run.iteration >= self.schedule.iterations or not self.ranks.leads:
            return
        student, fake = (sum(w.numel() for w in role.parameters()) for role in (self.run.student, self.run.fake))
        averages = 2 if self.run.settings.optimizer == ADAM_8_BIT else 8  # bytes of both that Adam keeps
        size = (2 * student + fake) * 4 + (student + fake) * averages  # the student has one of its weights as well
        free = shutil.disk_usage(self.folder.path).free
        # The oldest is deleted after the newest has been written.
        missing = max(1, self.schedule.keep_last + 1 - len(self.folder.checkpoints()))
        if free >= missing * size:
            return
        where = say.shown(self.folder.path)
        needed = f"a checkpoint takes {gigabytes(size)}, and there are {gigabytes(free)} for {where}"
        if free < size:
            raise OSError(f"Free some space, or let ComfyUI write to a larger disk (--output-directory): {needed}.")
        self.progress.warn(f"Free some space, or lower keep_last: {needed}, where {missing} of them are to come.")

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
        if self.ranks.in_step:  # the others are within a pass that this one has left
            raise MemoryError(
                f"Set micro_batch to less than {self.savings.micro_batch}, switch gradient_checkpointing on, or take "
                f"more processes: there is too little memory on {self.device} ({error})."
            ) from error
        saved = self.savings.more(self.device)
        if saved is None:
            raise MemoryError(
                "Choose mode lora, a smaller latent or rank, or close other programs: there is too little memory on "
                f"{self.device}, even with one picture at a time ({error})."
            ) from error
        self.progress.warn(f"out of memory; from here on, {saved}")

    def _loop(self, show: Show | None) -> None:
        results, losses = self.iterations(), []
        schedule = self.schedule
        if self.run.iteration == 0:
            self.look(0, show)
        shown = self.ranks.shared_in_step((self.folder.previews / TEACHER_PREVIEW).exists())
        if self.ranks.looks and show is not None and not shown:
            self._show_teacher(show)
        while not self._is_done():
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

    def _is_done(self) -> bool:
        """Evaluates first, where that is due. What one rank finds, all do."""
        stopped, ended_early = self.stop.is_set(), False
        if stopped:
            self.progress.remark(f"stopped at iteration {self.run.iteration}, and saved: queue again to go on")
        elif self.evaluation is not None:
            ended_early = self.evaluation.stops(self)
        stops = self.ranks.agree(stopping=stopped or ended_early).stopping
        return stops or self.run.iteration >= self.schedule.iterations

    def _record(self, result: StepResult, seconds: float) -> None:
        """One line of metrics, and one more for each warning."""
        rates = {
            "student_learning_rate": self.run.student_optimizer.param_groups[0]["lr"],
            "fake_learning_rate": self.run.fake_optimizer.param_groups[0]["lr"],
        }
        speed = {"images_per_second": round(self.run.batch / max(seconds, 1e-9), 3)}
        told = {name: value for name, value in asdict(result).items() if value is not None}
        self.folder.metrics.append(told | rates | speed)
        self._warn(result.iteration, self.health.update(result))

    def _warn(self, iteration: int, warnings: Iterable[HealthWarning]) -> None:
        for warning in warnings:
            self.progress.warn(f"{warning.message} (iteration {iteration})")
            row = {"iteration": iteration, "warning": warning.kind, "message": warning.message}
            self.folder.metrics.append(row)

    def _good_checkpoint(self) -> str:
        checkpoints = self.folder.checkpoints()
        if not checkpoints:
            return "Lower save_every too: the run had not been saved yet."
        return (
            "Lower the learning rates and queue again, and the run goes on from its last good checkpoint, "
            f"{checkpoints[-1].name}."
        )

    def _what_is_kept(self, error: BaseException, unsaved: str | None) -> str:
        """How to go on after Cancel or an error, for the node."""
        if not self.ranks.leads:
            return "What is kept, the first process of this run says."
        cancelled = isinstance(error, comfy.model_management.InterruptProcessingException)
        stopped = f"{'cancelled' if cancelled else 'stopped'} at iteration {self.run.iteration}"
        if not self.saved:
            begun = "Queue again to begin anew" if cancelled else "Nothing of this run is saved"
            return f"{begun}: it was {stopped}{unsaved or ', before there was anything to save'}."
        folder = say.shown(self.folder.path)
        return (
            f"Queue again to go on from iteration {self.saved}, which is saved in {folder}: the run was {stopped}"
            f"{unsaved or ''}."
        )

    def save(self) -> None:
        """By the first rank, or in parts by all of them."""
        if self.ranks.in_step:
            state = checkpoint_of(self.run, self.identity)
            place = self.ranks.shared(self.folder.place_of(state))
            if self.ranks.leads:
                self.folder.save(state, in_parts=True)
            else:
                state.write_in_parts(place, leads=False)
        elif self.ranks.leads:
            self.folder.save(checkpoint_of(self.run, self.identity))
        self.saved = self.run.iteration
        with (
            self._only_a_notice("Free some space for curves.png"),
            replacing(self.folder.path / "curves.png") as temporary,
        ):
            draw_metrics(self.folder.metrics.rows()).save(temporary, "PNG")

    def _save_what_can_be(self) -> str | None:
        """After an error, which is the one to be shown. → why what came after the last checkpoint is lost, if it is."""
        if self.ranks.in_step and not self.ranks.all_cancelled:
            return ", which can't be saved without the other processes"
        if self.run.torn:
            log.warning("stopped while weights were changed, so only what was saved before is kept")
            return ", while weights were changed, which can't be saved"
        if self.run.iteration > self.saved:
            try:
                self.save()
            except (OSError, NotFiniteError) as error:
                log.warning("what was learnt since iteration %d could not be saved: %s", self.saved, error)
                return f", which could not be saved ({say.shown(error)})"
        return None

    @contextmanager
    def _only_a_notice(self, repair: str) -> Iterator[None]:
        """Within it, errors cost a picture to look at, and not the run."""
        try:
            yield
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the student can do without
            self.progress.warn(f"{repair}; training goes on without: {say.shown(error)}")

    def look(self, iteration: int, show: Show | None) -> None:
        """What the averaged student does by now: how far its pictures of one prompt differ by their seeds, and previews
        of the same prompts from the same noise each time, in 1 … N steps."""
        if not self.ranks.looks:
            return
        steps = self.run.settings.steps
        of_one_prompt = self._sample(torch.zeros(SEEDS).long(), steps)
        seed_spread = float(of_one_prompt.std(0, correction=0).mean())
        self.folder.metrics.append({"iteration": iteration, "seed_spread": seed_spread})
        self._warn(iteration, self.health.look(seed_spread))
        if show is not None:
            rows = self._previewed()
            sampled = {f"{n} step{'s' * (n > 1)}": self._sample(rows, n) for n in shown_steps(steps)}
            self._show(show, sampled, preview_name(iteration))

    def _show_teacher(self, show: Show) -> None:
        """The teacher's pictures of what previews show of the student, once for a run."""
        rows = self._previewed()
        run, bucket = self.run, self.buckets[0]
        at_once = self.savings.micro_batch or len(rows)
        pictures = self.drawn(
            lambda: sample_teacher(
                self.roles.predict.teacher, bucket, run.settings, self.process, self.device, rows=rows, at_once=at_once
            )
        )
        self._show(show, {f"teacher, {TEACHER_STEPS} steps": pictures}, TEACHER_PREVIEW)

    def _previewed(self) -> Tensor:
        """The prompts (B,) that previews are of."""
        prompts = len(self.buckets[0].prompts)
        return torch.linspace(0, prompts - 1, min(PREVIEWS, prompts)).long()

    def _show(self, show: Show, sampled: dict[str, Tensor], name: str) -> None:
        with (
            self._only_a_notice("Free some space, or connect another VAE, for previews"),
            replacing(self.folder.previews / name) as temporary,
        ):
            show(sampled, len(shown_steps(self.run.settings.steps))).save(temporary, "PNG")

    def _sample(self, rows: Tensor, steps: int) -> Tensor:
        """The averaged student's pictures (B, C, …) of these prompts. If memory runs out, less of it is used."""
        with self.run.averaged_weights():
            return self.drawn(
                lambda: sample_few_step(
                    self.roles.predict.student,
                    self.buckets[0],
                    self.run.settings,
                    self.process,
                    self.device,
                    rows=rows,
                    steps=steps,
                    at_once=self.savings.micro_batch or len(rows),
                )
            )

    def drawn(self, draw: Callable[[], Tensor]) -> Tensor:
        """What `draw` gives, with the roles ready; called again with less memory in use where that runs out."""
        sampled = None
        while sampled is None:
            try:
                with torch.no_grad(), self.roles.ready():
                    sampled = draw()
            except (RuntimeError, MemoryError) as error:
                self._use_less_memory(error)
            if sampled is None:
                release()  # here, where the exception no longer holds on to the tensors of its frames
        return sampled


def describe(results: list[StepResult]) -> str:
    """The losses averaged over `results`, and how many samples were left out."""
    student = sum(r.student_loss for r in results) / len(results)
    fake = sum(r.fake_loss for r in results) / len(results)
    judged = [r.discriminator_loss for r in results if r.discriminator_loss is not None]
    judge = f", discriminator {sum(judged) / len(judged):.3g}" if judged else ""
    skipped = sum(r.skipped for r in results)
    return f"loss {student:.3g}, fake score {fake:.3g}{judge}" + (f", {skipped} samples not finite" * bool(skipped))


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
