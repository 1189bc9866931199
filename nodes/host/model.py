"""A MODEL as the method sees one: its process, its times as the host's sigmas, its predictions, its architecture."""

import math
from collections.abc import Callable
from functools import lru_cache

import comfy.model_sampling
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.data.conditioning import Cond, by_length
from ...sid_core.files.student import base_signature
from ...sid_core.method.process import VE, VP, Flow
from ...sid_core.method.sampling import step_times
from .conditioning import counter
from .differentiable import changes_text
from .families import SAMPLE, family_of, require_use


def process_of(model: ModelPatcher) -> VP | Flow:
    """The forward diffusion a MODEL was trained on. Raises ValueError for kinds that SiD has no formula for."""
    require_use(model, SAMPLE)
    family = family_of(model)
    usual = family.defaults
    kinds = comfy.model_sampling
    sampling = model.get_model_object("model_sampling")
    if _computes_as(sampling, kinds.CONST):
        return Flow(usual.shift, usual.t_init) if usual and usual.flow else Flow()
    velocity = _computes_as(sampling, kinds.V_PREDICTION)
    # Distilled and cascaded models are subclasses with times of their own.
    if (velocity or _computes_as(sampling, kinds.EPS)) and _has_methods_of(
        sampling, kinds.ModelSamplingDiscrete, "sigma", "timestep"
    ):
        # The host keeps sigma = σ_t/α_t alone, so ᾱ = 1/(1+sigma²).
        alphas_cumprod = 1 / (1 + sampling.sigmas.detach().clone().double().cpu() ** 2)
        prediction = "v" if velocity else "eps"
        return (
            VP(alphas_cumprod, prediction, usual.t_init) if usual and not usual.flow else VP(alphas_cumprod, prediction)
        )
    found = ", ".join(kind.__name__ for kind in type(sampling).__bases__)
    raise ValueError(
        "Connect an eps- or v-prediction model (SD1.5, SD2, SDXL) or a flow model (SD3), without a ModelSampling… node "
        f"that makes it another kind: this MODEL ({family.name}) samples as {found}."
    )


def _computes_as(sampling: object, prediction: type) -> bool:
    """Whether this is that kind of prediction, and not one derived from it with other formulas (EDM, x0, LCM)."""
    return _has_methods_of(sampling, prediction, "calculate_input", "calculate_denoised", "noise_scaling")


def _has_methods_of(sampling: object, kind: type, *methods: str) -> bool:
    return isinstance(sampling, kind) and all(getattr(type(sampling), m) is getattr(kind, m) for m in methods)


def sampler_process(model_sampling: object) -> VE | Flow:
    """The same diffusion as the host's samplers run it, with sigma as time."""
    return Flow() if isinstance(model_sampling, comfy.model_sampling.CONST) else VE()


def sigmas_for(model: ModelPatcher, steps: int, t_init: float | None) -> Tensor:
    """SIGMAS of an N-step student: (N+1,), descending, the last one 0.

    Raises ValueError for a t_init of another kind of model.
    """
    process = process_of(model)
    return sigmas_at(step_times(steps, process=process, t_init=t_init, kind=family_of(model).name), process)


def sigmas_at(times: Tensor, process: VP | Flow) -> Tensor:
    """SIGMAS (N+1,) of N falling times of the process, and 0."""
    alpha, sigma = process.coefficients(times)
    ratio = sigma if isinstance(process, Flow) else sigma / alpha
    return torch.cat([ratio, ratio.new_zeros(1)]).float()


def progress_by_sigma(model: ModelPatcher) -> Callable[[float], float]:
    """A function from sigma to progress p: 0 at pure noise, 1 at the image. It undoes the host's percent_to_sigma.

    So p means what start and end percents mean elsewhere, whatever the schedule, the sampler or the number of steps.
    """
    sampling = model.get_model_object("model_sampling")
    cells = 1000  # SD models have as many noise levels
    # From the image to pure noise, but for the very ends: of these the host says 0 and a billion.
    asked = [1 - 1e-6, *(index / cells for index in range(cells - 1, 0, -1)), 1e-6]
    sigmas = [float(sampling.percent_to_sigma(p)) for p in asked]
    log_sigmas, progress = [], []
    for p, sigma in zip([1.0, *asked[1:-1], 0.0], sigmas, strict=True):
        # Where several have the same sigma, as at the ends of distilled models, the smallest is what a run ends with,
        if 0 < sigma < math.inf and not (log_sigmas and math.log(sigma) <= log_sigmas[-1]):
            log_sigmas.append(math.log(sigma))
            progress.append(p)
    progress[-1] = 0.0  # and the largest is what it begins with

    @lru_cache(maxsize=64)  # each layer of a step asks for the same
    def progress_at(sigma: float) -> float:
        if not sigma > 0:  # NaN too: there is no picture to come
            return 1.0
        return 0.0 if sigma == math.inf else float(np.interp(math.log(sigma), log_sigmas, progress))

    return progress_at


def predictor(
    base_model: nn.Module, process: VP | Flow, singly: bool = False
) -> Callable[[Tensor, Tensor, Cond], Tensor]:
    """predict(x_t, t, cond) → clean prediction in float32, in the method's own scale and times.

    Prompts may be of several lengths, see `by_length`, for singly too.
    """

    counts, own_text = counter(base_model.diffusion_model), changes_text(base_model.diffusion_model)

    def predict(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = (c.to(x_t.device, torch.float32) for c in process.coefficients(t))
        if isinstance(process, VP):
            x_t, sigma = x_t / alpha.view(-1, *[1] * (x_t.ndim - 1)), sigma / alpha
        given = {name: values.clone() for name, values in cond.items()} if own_text else cond
        return base_model.apply_model(x_t, sigma, transformer_options={}, **given, **counts(cond))

    return by_length(predict, singly)


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """What the MODEL computes in, whatever its weights are kept in."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def signature_of(model: ModelPatcher) -> str:
    """The architecture of a MODEL, see `base_signature`."""
    network = model.model.diffusion_model
    return base_signature(type(model.model.model_config).__name__, network.state_dict())
