"""The three roles of a distillation, made from a guider's MODEL: as adapters on one network, or as three networks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor, nn

from ...sid_core.data.conditioning import Cond
from ...sid_core.method.guidance import guided, steer_away
from ...sid_core.method.process import VP, Flow
from ...sid_core.training.adapters import DEFAULT_TARGETS, Adapters, LoRASet, find_targets
from ...sid_core.training.distill import Predictor, Predictors
from ...sid_core.training.recompute import checkpointed
from ..host.model import predictor
from ..host.weights import open_to_gradients, own_copy
from ..sampling.guiders import SiDGuider
from .memory import Savings

STUDENT, FAKE = "student", "fake"


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


def lora_roles(guider: SiDGuider, process: VP | Flow, options: LoRAOptions, savings: Savings) -> Roles:
    """All three on the MODEL's own network, which is neither copied nor changed. Call it inside `with_gradients()`.

    The network is the user's, in cache for other nodes, so that everything that is done to it for training is undone
    when `ready()` is left.
    """
    models = [guider.model_patcher, *([guider.weaker] if guider.weaker else [])]
    comfy.model_management.load_models_gpu(models)
    model, device = models[0].model, models[0].load_device
    network = model.diffusion_model
    layers = find_targets(network, options.targets)
    sets = {
        STUDENT: LoRASet(layers, options.student_rank, seed=0).to(device),
        FAKE: LoRASet(layers, options.fake_rank, seed=1).to(device),
    }
    adapters = Adapters(network, sets)
    plain = predictor(model, process)

    def as_role(role: str | None) -> Predictor:
        def predict(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            with adapters.role(role):
                return plain(x_t, t, cond)

        return predict

    def same_role() -> Callable[[], AbstractContextManager]:
        role = adapters.active
        return lambda: adapters.role(role)

    @contextmanager
    def ready() -> Iterator[None]:
        # A preview's VAE may have taken its place; or there is to be less of it on the device than before.
        comfy.model_management.load_models_gpu(models, memory_required=savings.offloaded)
        with ExitStack() as stack:
            for patcher in models:
                stack.enter_context(open_to_gradients(patcher.model))
                if savings.recompute:
                    stack.enter_context(checkpointed(patcher.model.diffusion_model, same_role))
            stack.enter_context(adapters.attached())
            yield

    weak = predictor(guider.weaker.model, process) if guider.weaker else None
    predict = Predictors(_guided_teacher(guider, as_role(None), weak), as_role(FAKE), as_role(STUDENT))
    return Roles(
        sets[STUDENT], sets[FAKE], network, predict, ready, size_of(*(m.model for m in models), *sets.values())
    )


def full_roles(guider: SiDGuider, process: VP | Flow, savings: Savings) -> Roles:
    """Three networks, two of them trained in float32. Call it inside `with_gradients()`."""
    model = guider.model_patcher
    student, fake = (own_copy(model, torch.float32) for _ in range(2))
    teacher = own_copy(model)
    weaker = own_copy(guider.weaker) if guider.weaker else None
    for network in (student, fake):
        network.diffusion_model.requires_grad_(True)

    @contextmanager
    def ready() -> Iterator[None]:
        with ExitStack() as stack:
            for network in filter(None, (student, fake, teacher, weaker)) if savings.recompute else ():
                stack.enter_context(checkpointed(network.diffusion_model))
            yield

    weak = predictor(weaker, process) if weaker else None
    predict = Predictors(
        _guided_teacher(guider, predictor(teacher, process), weak),
        predictor(fake, process),
        predictor(student, process),
    )
    networks = [copy.diffusion_model for copy in (student, fake, teacher, weaker) if copy]
    return Roles(networks[0], networks[1], networks[0], predict, ready, size_of(*networks))


def size_of(*modules: nn.Module) -> int:
    """Bytes of their weights."""
    return sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))


def _guided_teacher(guider: SiDGuider, strong: Predictor, weak: Predictor | None) -> Callable:
    """teacher(x_t, t, cond, uncond) with all that the guider does."""
    scale = guider.guidance.teacher

    def teacher(x_t: Tensor, t: Tensor, cond: Cond, uncond: Cond) -> Tensor:
        clean = guided(strong, x_t, t, cond, uncond, scale)
        return steer_away(clean, guided(weak, x_t, t, cond, uncond, scale), guider.strength) if weak else clean

    return teacher
