"""The seam between ComfyUI and the method: a MODEL as process and predictor, CONDITIONING as tensors, weights."""

import bisect
import copy
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...sid_core.data.conditioning import Cond
from ...sid_core.files.student import StudentInfo, base_signature
from ...sid_core.method.process import VE, VP, Flow
from ...sid_core.method.sampling import step_times

STUDENT_INFO = "sid_student"
NETWORK = "diffusion_model."


def process_of(model: ModelPatcher) -> VP | Flow:
    """The forward diffusion a MODEL was trained on. Raises ValueError for kinds that SiD has no formula for."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        return Flow()
    if isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete) and isinstance(
        sampling, comfy.model_sampling.EPS | comfy.model_sampling.V_PREDICTION
    ):
        # The host keeps sigma = σ_t/α_t alone, so ᾱ = 1/(1+sigma²).
        alphas_cumprod = 1 / (1 + sampling.sigmas.detach().clone().double().cpu() ** 2)
        velocity = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
        return VP(alphas_cumprod, "v" if velocity else "eps")
    kinds = ", ".join(kind.__name__ for kind in type(sampling).__mro__[1:-2])
    raise ValueError(
        f"this MODEL samples as {kinds}; expected an eps- or v-prediction model (SD1.5, SD2, SDXL) or a flow model "
        "(SD3, Flux). Remove ModelSampling… nodes before this one, or use another model."
    )


def sampler_process(model_sampling: object) -> VE | Flow:
    """The same diffusion as the host's samplers run it, with sigma as time."""
    return Flow() if isinstance(model_sampling, comfy.model_sampling.CONST) else VE()


def sigmas_for(model: ModelPatcher, steps: int, t_init: float | None) -> Tensor:
    """SIGMAS of an N-step student: (N+1,), descending, the last one 0."""
    process = process_of(model)
    times = step_times(steps, process=process, t_init=t_init)
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
    progress = [1 - 1e-6, *(index / cells for index in range(cells - 1, 0, -1)), 1e-6]
    log_sigmas = [math.log(float(sampling.percent_to_sigma(p))) for p in progress]

    @lru_cache(maxsize=64)  # each layer of a step asks for the same
    def progress_at(sigma: float) -> float:
        if sigma <= 0:
            return 1.0
        wanted = math.log(sigma)
        right = min(max(bisect.bisect_left(log_sigmas, wanted), 1), len(log_sigmas) - 1)
        left = right - 1
        share = (wanted - log_sigmas[left]) / (log_sigmas[right] - log_sigmas[left])
        return min(max(progress[left] + share * (progress[right] - progress[left]), 0.0), 1.0)

    return progress_at


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """What the MODEL computes in, whatever its weights are kept in."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def student_info(model: ModelPatcher) -> StudentInfo | None:
    """How the student on this wire says it is to be run, or None for any other MODEL."""
    return model.get_attachment(STUDENT_INFO)


def signature_of(model: ModelPatcher) -> str:
    """The architecture of a MODEL, see `base_signature`."""
    network = model.model.diffusion_model
    return base_signature(type(model.model.model_config).__name__, network.state_dict())


def as_student(model: ModelPatcher, weights: dict[str, Tensor], info: StudentInfo) -> ModelPatcher:
    """A clone of the base MODEL that has `weights` (of its diffusion model) while it is loaded, and says `info`."""
    student = model.clone()
    student.add_patches({NETWORK + key: ("set", (weight,)) for key, weight in weights.items()})
    student.set_attachments(STUDENT_INFO, info)
    return student


def patched_weights(model: ModelPatcher, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of the diffusion model's weights with all patches of this MODEL in them, as {name: weight}, on the CPU."""
    model = with_ordinary_weights(model)
    comfy.model_management.load_models_gpu([model], force_patch_weights=True, force_full_load=True)
    weights = model.model.diffusion_model.state_dict()
    return {key: weight.detach().to("cpu", dtype, copy=True) for key, weight in weights.items()}


def with_ordinary_weights(model: ModelPatcher) -> ModelPatcher:
    """The MODEL itself, or where its weights are only lent to each layer as it runs, a clone that has them in memory.

    Such a loan ends with the layer, before backward needs the weight again. Newer hosts lend on NVIDIA GPUs; the clone
    reads the file anew and takes the patches along. Raises ValueError for a MODEL that did not come from a file.
    """
    if not getattr(model, "is_dynamic", bool)():
        return model
    try:
        return model.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise ValueError(
            f"this MODEL can't be trained while ComfyUI manages its weights dynamically ({error}). Start ComfyUI with "
            "--disable-dynamic-vram, or load the model with one of ComfyUI's own loaders."
        ) from error


@contextmanager
def training() -> Iterator[None]:
    """Leave the inference mode that nodes run in. Tensors from outside must be cloned before they are trained on."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def own_copy(model: ModelPatcher, dtype: torch.dtype | None = None) -> nn.Module:
    """A BaseModel like the MODEL's with a diffusion model of its own, on the compute device, patches included.

    Call it inside `training()`. Everything but the network is shared with the MODEL. dtype: of weights and compute.
    """
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    base = model.model
    network = copy.deepcopy(base.diffusion_model).to(model.load_device)
    mine = copy.copy(base)
    # The host's loading state belongs to the MODEL this was copied from.
    mine.__dict__ = {key: value for key, value in mine.__dict__.items() if not key.startswith("dynamic_")}
    mine.__dict__ |= {"current_patcher": None, "model_loaded_weight_memory": 0, "_modules": dict(base._modules)}
    mine.model_sampling = copy.deepcopy(model.get_model_object("model_sampling")).to(model.load_device)
    for tensors in (network, mine.model_sampling):
        for module in tensors.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.clone()
    if dtype is not None:
        network.to(dtype)
        network.dtype, mine.manual_cast_dtype = dtype, None
    mine.diffusion_model = network
    return mine


@contextmanager
def open_to_gradients(network: nn.Module) -> Iterator[None]:
    """Within it, gradients can pass through a network whose weights were loaded in inference mode, but not reach them.

    Its weights are then other tensors on the same memory. Call it inside `training()`.
    """
    kept = [
        (tensors, dict(tensors)) for module in network.modules() for tensors in (module._parameters, module._buffers)
    ]
    try:
        for tensors, originals in kept:
            for name, tensor in originals.items():
                # Quantized weights are of other classes; the host makes plain ones of them in each forward.
                if tensor is not None and type(tensor.data) is torch.Tensor:
                    same = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
                        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
                    )
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(same, requires_grad=False) if is_parameter else same
        yield
    finally:
        for tensors, originals in kept:
            tensors.update(originals)


def predictor(base_model: nn.Module, process: VP | Flow) -> Callable[[Tensor, Tensor, Cond], Tensor]:
    """predict(x_t, t, cond) → clean prediction in float32, in the method's own scale and times."""

    def predict(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = (c.to(x_t.device, torch.float32) for c in process.coefficients(t))
        if isinstance(process, VP):
            x_t, sigma = x_t / alpha.view(-1, *[1] * (x_t.ndim - 1)), sigma / alpha
        return base_model.apply_model(x_t, sigma, transformer_options={}, **cond)

    return predict


def conditioning_tensors(model: ModelPatcher, conditioning: list, latent: Tensor) -> Cond:
    """A CONDITIONING as the keyword tensors (1, …) of its network. latent: (B, C, …), for models that look at its size.

    Raises ValueError for what training can't honour: several entries, areas, masks, control, hooks, timestep ranges.
    """
    unusable = {"area", "mask", "control", "hooks", "gligen", "start_percent", "end_percent", "concat_latent_image"}
    if len(conditioning) != 1 or (found := unusable & conditioning[0][1].keys()):
        what = f"{len(conditioning)} entries" if len(conditioning) != 1 else ", ".join(sorted(found))
        raise ValueError(
            f"the conditioning has {what}; distillation needs one plain prompt. Connect a CLIPTextEncode directly."
        )
    context, extra = conditioning[0]
    # SDXL's size conditioning: like the host's sampling, where eight pixels to a latent are taken for granted.
    size = {"width": latent.shape[-1] * 8, "height": latent.shape[-2] * 8}
    given = {key: value for key, value in extra.items() if value is not None}
    conds = model.model.extra_conds(
        **(size | given), cross_attn=context, noise=latent[:1], device=model.load_device, prompt_type="positive"
    )
    return {name: cond.cond.clone() for name, cond in conds.items() if isinstance(cond.cond, Tensor)}


def latent_shapes(model: ModelPatcher, sizes: str) -> list[tuple[int, ...]]:
    """(C, H, W) of the MODEL's latents for sizes in pixels such as '832x1216, 1216x832', width first.

    Raises ValueError for another form, and where a side is not a multiple of a latent's pixels.
    """
    latent_format = model.get_model_object("latent_format")
    pixels = getattr(latent_format, "spacial_downscale_ratio", 8)
    shapes = []
    for size in filter(None, (part.strip() for part in sizes.split(","))):
        match = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", size)
        width, height = map(int, match.groups()) if match else (0, 0)
        if not width or not height or width % pixels or height % pixels:
            raise ValueError(
                f"more_sizes has {size!r}; expected width x height in pixels, such as 832x1216, with commas between, "
                f"both multiples of {pixels}."
            )
        shapes.append((latent_format.latent_channels, height // pixels, width // pixels))
    return shapes


def model_latent(model: ModelPatcher, latent: Tensor) -> Tensor:
    """The latent with the channels that the model wants, if it is empty. Raises ValueError if it is not."""
    wanted = model.get_model_object("latent_format").latent_channels
    fixed = comfy.sample.fix_empty_latent_channels(model, latent)
    if fixed.shape[1] != wanted:
        raise ValueError(
            f"the latent has {fixed.shape[1]} channels; this MODEL's have {wanted}. Encode with the VAE that belongs "
            "to the model, or use an empty latent."
        )
    return fixed
