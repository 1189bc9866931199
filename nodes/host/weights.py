"""A MODEL's weights, as training and saving need them: patched, copied, and open to gradients."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import comfy.lora
import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn


@contextmanager
def with_gradients() -> Iterator[None]:
    """Leave the inference mode that nodes run in. Tensors from outside must be cloned before they are trained on."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def patched_weights(model: ModelPatcher, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of the diffusion model's weights with all patches of this MODEL in them, as {name: weight}, on the CPU."""
    model = with_ordinary_weights(model)
    comfy.model_management.load_models_gpu([model], force_patch_weights=True, force_full_load=True)
    weights = model.model.diffusion_model.state_dict()
    return {key: weight.detach().to("cpu", dtype, copy=True) for key, weight in weights.items()}


def beyond_patches(network: nn.Module) -> set[str]:
    """The weights that a patch of them does not reach, as the host loads none into modules that have both weights and
    further modules of their own (modulation tables, tokens for padding), nor into buffers."""
    reached = set()
    for place, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own.keys() == dict(module.named_parameters()).keys():
            reached |= {f"{place}.{name}" if place else name for name in own}
    return network.state_dict().keys() - reached


class PatchedWeights(Mapping[str, Tensor]):
    """The same, one at a time and only when asked for: {name: weight in float32 on the compute device}.

    Whatever of the MODEL is loaded meanwhile, nothing is loaded or changed. Buffers that aren't real numbers are left
    out. patched: False leaves the patches out.
    """

    def __init__(self, model: ModelPatcher, patched: bool = True):
        prefix = "diffusion_model."
        self.device = model.load_device
        # Weights beyond patches are replaced as a whole, and a MODEL that is loaded has others' in their place.
        replaced = model.object_patches_backup | (model.object_patches if patched else {})
        self.parts = {
            key.removeprefix(prefix): [(replaced.get(key, weight), convert), *(patches if patched else [])]
            for key, ((weight, convert), *patches) in model.get_key_patches(prefix).items()
            if weight.is_floating_point()
        }

    def __getitem__(self, name: str) -> Tensor:
        (weight, convert), *patches = self.parts[name]
        own = comfy.model_management.cast_to_device(weight.detach(), self.device, torch.float32, copy=True)
        # As the host does it when it loads a MODEL, but without rounding to the precision that the weight is kept in.
        return comfy.lora.calculate_weight(patches, convert(own, inplace=True), f"diffusion_model.{name}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


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
            "Start ComfyUI with --disable-dynamic-vram, or load the model with one of ComfyUI's own loaders: this "
            f"MODEL can't be trained while ComfyUI manages its weights dynamically ({error})."
        ) from error


def own_copy(model: ModelPatcher, dtype: torch.dtype | None = None) -> nn.Module:
    """A BaseModel like the MODEL's with a diffusion model of its own, on the compute device, patches included.

    Call it inside `with_gradients()`. Everything but the network is shared with the MODEL. dtype: of weights and
    compute.
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

    Its weights are then other tensors on the same memory. Call it inside `with_gradients()`.
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


def is_plain(layer: nn.Module) -> bool:
    """Whether a linear layer multiplies by its weight as it is: neither quantized, nor cast, patched or lent to it."""
    return (
        type(layer).forward in (nn.Linear.forward, comfy.ops.disable_weight_init.Linear.forward)
        and type(layer.weight.data) is Tensor
        and not getattr(layer, "comfy_cast_weights", False)
        and not getattr(layer, "weight_function", ())
        and not getattr(layer, "bias_function", ())
    )
