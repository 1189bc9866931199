"""What nodes have put onto a MODEL besides weights, by names that a user may know; what a distillation uses of it."""

from collections.abc import Iterator
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..host.halves import KEY
from .attached import student_info

# They act on a run as a whole, and not on a single prediction.
OF_A_RUN = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREPARE_SAMPLING, WrappersMP.SAMPLER_SAMPLE)
OPTION_OF_A_RUN = "denoise_mask_function"  # Differential Diffusion


def on_the_run(model: ModelPatcher) -> list[str]:
    """The patches of a MODEL that act on the run as a whole."""
    names = {name for kind, name in _wrappers(model) if kind in OF_A_RUN}
    return sorted(names | ({OPTION_OF_A_RUN} & model.model_options.keys()))


def on_predictions(model: ModelPatcher) -> list[str]:
    """The patches of a MODEL that change its predictions, but for those of its weights and its sampling."""
    inner = model.model_options["transformer_options"]
    found = {name for kind, name in _wrappers(model) if kind not in OF_A_RUN and name != KEY}
    for patches in inner.get("patches", {}).values():
        found |= {_name(patch) for patch in patches}
    for patches in inner.get("patches_replace", {}).values():
        found |= {_name(patch) for patch in patches.values()}
    for name, option in model.model_options.items():
        if name != OPTION_OF_A_RUN:
            found |= {
                _name(function) for function in (option if isinstance(option, list) else [option]) if callable(function)
            }
    return sorted(found)


def _wrappers(model: ModelPatcher) -> Iterator[tuple[str, str]]:
    """The kind of each and what it is called, either by the node that put it there or by its own name."""
    for by_kind in (model.wrappers, model.model_options["transformer_options"].get("wrappers", {})):
        for kind, by_name in by_kind.items():
            yield from ((kind, name or _name(wrapper)) for name, found in by_name.items() for wrapper in found)


def _name(patch: Any) -> str:
    """Such as FreeU_V2 for a function that this node has made."""
    return getattr(patch, "__qualname__", type(patch).__qualname__).partition(".")[0]


def before_distilling(guider: comfy.samplers.CFGGuider) -> list[str]:
    """What a user should be told before a SiD guider's model is distilled, a sentence or two each."""
    told = []
    if info := student_info(guider.model_patcher):
        told.append(
            f"Connect the diffusion model itself to the guider's model, unless you mean to distil a student again: it "
            f"is a student of {info.steps} step{'s' * (info.steps != 1)}, which knows the noise levels of these alone."
        )
    for name, model in (("model", guider.model_patcher), ("weaker_model", guider.weaker)):
        if model is not None and (patches := [*on_the_run(model), *on_predictions(model)]):
            told.append(
                f"Take {', '.join(patches)} off the guider's {name}, or expect a student without: distillation calls "
                "the model alone, and only its weights (LoRAs too) and its sampling count."
            )
    return told
