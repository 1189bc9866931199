"""CONDITIONING as the tensors that a network takes."""

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.data.conditioning import Cond


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
