"""The three roles of a distillation, made from a guider's MODEL: as adapters on one network, or as three networks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.data.conditioning import Cond, by_length
from ...sid_core.method.discriminator import pooled
from ...sid_core.method.guidance import combined, halves, steer_away
from ...sid_core.method.process import VP, Flow
from ...sid_core.training import sharding
from ...sid_core.training.adapters import DEFAULT_TARGETS, Adapters, LoRASet, SharedRowsError, find_targets
from ...sid_core.training.batch import Predictor, Predictors
from ...sid_core.training.ranks import ALONE, Ranks
from ...sid_core.training.recompute import checkpointed
from ...sid_core.training.together import guided_together, together
from ..host.differentiable import changes_in_place, differentiable
from ..host.families import unknown_family
from ..host.features import EnoughError, watched
from ..host.model import compute_dtype, predictor
from ..host.weights import is_plain, open_to_gradients, own_copy
from ..sampling.guiders import SiDGuider
from .memory import Savings

STUDENT, FAKE = "student", "fake"
OF_TEACHER = " of teacher"  # beside a conditioning: which rows are the teacher's; the others are the fake score's


@dataclass(frozen=True)
class LoRAOptions:
    """The ranks of both LoRAs, and which layers have one (see `find_targets`)."""

    student_rank: int = 64
    fake_rank: int = 32
    targets: str = DEFAULT_TARGETS


@dataclass(frozen=True)
class Roles:
    """student, fake: what is trained of them. network: the one that `predict.student` calls. predict: how to call all
    three; within `ready()`, and backward too. weights: bytes of all that is kept in memory for the three."""

    student: nn.Module
    fake: nn.Module
    network: nn.Module
    predict: Predictors
    ready: Callable[[], AbstractContextManager[None]]
    weights: int


def lora_roles(
    guider: SiDGuider,
    process: VP | Flow,
    options: LoRAOptions,
    savings: Savings,
    begin: Callable[[LoRASet], None] = lambda adapters: None,
) -> Roles:
    """All three on the MODEL's own network, which is neither copied nor changed. Call it inside `with_gradients()`.

    begin: gives the student's adapters other weights than those that change nothing.

    The network is the user's, in cache for other nodes, so that everything that is done to it for training is undone
    when `ready()` is left.
    """
    models = [guider.model_patcher, *([guider.weaker] if guider.weaker else [])]
    comfy.model_management.load_models_gpu(models)
    model, device = models[0].model, models[0].load_device
    network = model.diffusion_model
    in_place = changes_in_place(network)
    layers = find_targets(network, options.targets)
    sets = {
        STUDENT: LoRASet(layers, options.student_rank, seed=0).to(device),
        FAKE: LoRASet(layers, options.fake_rank, seed=1).to(device),
    }
    begin(sets[STUDENT])
    adapters = Adapters(network, sets, is_plain)
    plain = predictor(model, process)

    def as_role(role: str | None, predict: Callable = plain) -> Callable:
        def predicted(x_t: Tensor, t: Tensor, cond: Cond) -> Any:
            with adapters.role(role):
                return predict(x_t, t, cond)

        return predicted

    def same_role() -> Callable[[], AbstractContextManager]:
        roles = adapters.active
        return lambda: adapters.roles(roles)

    @contextmanager
    def ready() -> Iterator[None]:
        # A preview's VAE may have taken its place; or there is to be less of it on the device than before.
        comfy.model_management.load_models_gpu(models, memory_required=savings.kept_free)
        with ExitStack() as stack:
            for patcher in models:
                stack.enter_context(open_to_gradients(patcher.model))
                if savings.recompute:
                    stack.enter_context(checkpointed(patcher.model.diffusion_model, same_role, in_place))
            stack.enter_context(differentiable(in_place))
            stack.enter_context(adapters.attached())
            yield

    weak = predictor(guider.weaker.model, process) if guider.weaker else None
    steer = _steering(guider, weak, savings.at_once)
    judge, fake_judged = judges(network, plain)
    predict = Predictors(
        _guided_teacher(guider, as_role(None), steer, savings.at_once),
        as_role(FAKE),
        as_role(STUDENT),
        as_role(FAKE, judge),
        as_role(FAKE, fake_judged),
        None if unknown_family(guider.model_patcher) else _both_scores(guider, adapters, plain, fake_judged, steer),
        savings.at_once,
    )
    return Roles(
        sets[STUDENT], sets[FAKE], network, predict, ready, size_of(*(m.model for m in models), *sets.values())
    )


def full_roles(
    guider: SiDGuider,
    process: VP | Flow,
    savings: Savings,
    initial: ModelPatcher | None = None,
    ranks: Ranks = ALONE,
) -> Roles:
    """Three networks, two of them trained in float32. Call it inside `with_gradients()`.

    initial: the MODEL that the student begins as; None is the guider's. ranks: where they are several, each has a part
    of all weights, and the trained ones are computed with in the precision that the MODEL is.
    """
    model = guider.model_patcher
    in_place = changes_in_place(model.model.diffusion_model)

    def copied(model: ModelPatcher, trained: bool) -> nn.Module:
        copy = own_copy(model, torch.float32 if trained else None)
        copy.diffusion_model.requires_grad_(trained)
        if ranks.in_step:
            shard(copy, ranks, compute_dtype(model) if trained else None)
        return copy

    student, fake = (copied(each, trained=True) for each in (initial or model, model))
    teacher = copied(model, trained=False)
    weaker = copied(guider.weaker, trained=False) if guider.weaker else None
    predict_by = partial(predictor, process=process, singly=ranks.in_step)

    @contextmanager
    def ready() -> Iterator[None]:
        with ExitStack() as stack:
            for network in filter(None, (student, fake, teacher, weaker)) if savings.recompute else ():
                stack.enter_context(checkpointed(network.diffusion_model, changes_in_place=in_place))
            stack.enter_context(differentiable(in_place))
            yield

    steer = _steering(guider, predict_by(weaker) if weaker else None, savings.at_once)
    fake_score = predict_by(fake)
    predict = Predictors(
        _guided_teacher(guider, predict_by(teacher), steer, savings.at_once),
        fake_score,
        predict_by(student),
        *judges(fake.diffusion_model, fake_score, in_step=ranks.in_step),
        at_once=savings.at_once,
        in_step=ranks.in_step,
    )
    networks = [copy.diffusion_model for copy in (student, fake, teacher, weaker) if copy]
    return Roles(networks[0], networks[1], networks[0], predict, ready, size_of(*networks))


def shard(copy: nn.Module, ranks: Ranks, dtype: torch.dtype | None) -> None:
    """A BaseModel's network in parts, see `sharding.shard`. dtype: that it computes in, where it is a half one that
    needs no scaling of the loss; all others are left as they are."""
    dtype = dtype if dtype == torch.bfloat16 else None
    sharding.shard(copy.diffusion_model, ranks, dtype)
    if dtype is not None:
        copy.diffusion_model.dtype = dtype  # what the host gives its inputs


def judges(network: nn.Module, predict: Predictor, in_step: bool = False) -> tuple[Callable, Callable]:
    """A network as the discriminator that it is by its features.

    → (x_t, t, cond) → logits, which ends the forward at the features; and (x_t, t, cond) → (prediction, logits).
    in_step: the network's parts are on several ranks, and a forward is always a whole one.
    """
    grouped = partial(by_length, singly=in_step)

    @grouped
    def alone(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        def enough(features: Tensor) -> None:
            raise EnoughError(features)

        with watched(network, enough):
            try:
                predict(x_t, t, cond)
            except EnoughError as end:
                return pooled(end.features)
        raise RuntimeError("a forward has not come by the network's features")

    @grouped
    def both(x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        with watched(network, seen.append):
            clean = predict(x_t, t, cond)
        return clean, pooled(seen[0])

    def alone_in_step(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        clean, logits = both(x_t, t, cond)
        return logits + 0 * clean.mean()  # a network's parts come together again where backward comes from its end

    return alone_in_step if in_step else alone, both


def size_of(*modules: nn.Module) -> int:
    """Bytes of their weights."""
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))


Steer = Callable[[Tensor, Tensor, Tensor, Cond, Cond], Tensor]


def _guided_teacher(guider: SiDGuider, strong: Predictor, steer: Steer, at_once: Callable[[], bool]) -> Callable:
    """teacher(x_t, t, cond, uncond) with all that the guider does."""

    def teacher(x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond) -> Tensor:
        clean = guided_together(strong, x_t, t, cond, uncond, guider.guidance.teacher, at_once())
        return steer(clean, x_t, t, cond, uncond)

    return teacher


def _steering(guider: SiDGuider, weak: Predictor | None, at_once: Callable[[], bool]) -> Steer:
    """What the guider's weaker model, if there is one, does to the teacher's prediction."""

    def steer(clean: Tensor, x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond) -> Tensor:
        if weak is None:
            return clean
        weaker = guided_together(weak, x_t, t, cond, uncond, guider.guidance.teacher, at_once())
        return steer_away(clean, weaker, guider.strength)

    return steer


def _unmarked(cond: Cond) -> Cond:
    return {name: values for name, values in cond.items() if name != OF_TEACHER}


def _both_scores(guider: SiDGuider, adapters: Adapters, plain: Predictor, judged: Callable, steer: Steer) -> Callable:
    """`Predictors.both`, as one batch on one network whose rows are of two roles.

    Some networks (PixArt) put the texts of a whole batch into one row: these are asked for one role after the other.
    """
    scale, by_rows = guider.guidance.teacher, True

    def by_row(predict: Callable) -> Callable:
        @by_length
        def predicted(x_t: Tensor, t: Tensor, cond: Cond) -> Any:
            of_teacher = int(cond[OF_TEACHER].sum())  # these come last
            roles = (FAKE, len(x_t) - of_teacher), (None, of_teacher)
            with adapters.roles(tuple(role for role in roles if role[1])):
                return predict(x_t, t, _unmarked(cond))

        return predicted

    def of_role(role: str | None, predict: Callable, *inputs: Any) -> list[Any]:
        with adapters.role(role):
            return together(predict, *inputs)

    of_rows, of_rows_judged = by_row(plain), by_row(judged)

    def both(
        x_t: Tensor, t: Tensor, conds: Sequence[Cond], cond: Cond, uncond: Cond, is_judged: bool
    ) -> tuple[list[Tensor], Tensor | None, Tensor]:
        of_teacher = halves(cond, uncond, scale)
        marks = [0] * len(conds) + [1] * len(of_teacher)
        marked = [
            each | {OF_TEACHER: torch.full((len(x_t),), mark)}
            for each, mark in zip([*conds, *of_teacher], marks, strict=True)
        ]
        nonlocal by_rows
        found, logits = None, None
        if by_rows:
            try:
                found = together(of_rows_judged if is_judged else of_rows, x_t, t, marked)
            except SharedRowsError:
                by_rows = False
        if found is None:
            predict = judged if is_judged else plain
            found = of_role(FAKE, predict, x_t, t, conds) + of_role(None, predict, x_t, t, of_teacher)
        if is_judged:
            logits = found[len(conds) - 1][1]
            found = [clean for clean, _ in found]
        teacher = combined(found[len(conds) :], scale)
        return found[: len(conds)], logits, steer(teacher, x_t, t, cond, uncond)

    return both
