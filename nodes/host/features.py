"""Where a network's features are found that serve as a discriminator's logits, and how a forward is asked for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .families import ADVERSARIAL, family_of, last_tokens


class EnoughError(Exception):
    """Ends a forward of which only the features are wanted, with these."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features


def require_features(model: ModelPatcher) -> None:
    """Raise ValueError for architectures whose features are not known where to find."""
    network, family = model.model.diffusion_model, family_of(model)
    reason = family.cannot.get(ADVERSARIAL)
    if reason is None and _place(network) is None:
        reason = (
            f"it is not known where the features of its {type(network).__name__} are that tell real images from the "
            "student's."
        )
    if reason:
        raise ValueError(
            "Take the images off SiD Distill, set adversarial_weight of SiD Training Options to 0, or choose a model "
            f"of another family (SD1.5, SDXL, SD3): there is no adversarial term for {family.name}, as {reason}"
        )


@contextmanager
def watched(network: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Within it, every forward of the network shows its features.

    Of a UNet, what comes out of its middle block, (B, C, H, W); of a DiT, its tokens (B, N, D) after the last norm with
    its modulation, where they are projected, along however many axes the network has them. `see` may raise, which ends
    the forward. The network must be one that `require_features` has let pass.
    """
    module, of_input = _place(network)
    if of_input:
        hook = module.register_forward_pre_hook(lambda module, inputs: see(inputs[0].flatten(1, -2)))
    else:
        hook = module.register_forward_hook(lambda module, inputs, output: see(output))
    try:
        yield
    finally:
        hook.remove()


def _place(network: nn.Module) -> tuple[nn.Module, bool] | None:
    """The module at whose input (True) or output the features are; None where that is not known."""
    if isinstance(network, UNetModel) and network.middle_block is not None:
        return network.middle_block[-1], False  # the host runs its layers one by one, and not the block itself
    layer = last_tokens(network)
    return None if layer is None else (layer, True)
