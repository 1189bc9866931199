"""The host's networks as autograd needs them: their differentiable code, and tensors that they change in place."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

import comfy.ldm.flux.layers
import comfy.ldm.hydit.models
import comfy.ldm.lightricks.model
import comfy.model_management
import torch
from torch import nn

# Of Flux and all that is built of its blocks (Chroma, FLUX.2, HunyuanVideo), and of LTX-Video: they do `img += …` on
# what is saved.
CHANGE_IN_PLACE = (
    comfy.ldm.flux.layers.DoubleStreamBlock,
    comfy.ldm.flux.layers.SingleStreamBlock,
    comfy.ldm.lightricks.model.BasicTransformerBlock,
)
# It puts what it has learnt of filling into the very text that it is given.
CHANGE_TEXT = (comfy.ldm.hydit.models.HunYuanDiT,)


def changes_in_place(network: nn.Module) -> bool:
    """Whether its blocks change tensors that the backward pass, or a second forward of the block, needs as they were.

    Of other blocks the trial of a run finds it out, where autograd refuses.
    """
    return any(isinstance(module, CHANGE_IN_PLACE) for module in network.modules())


def changes_text(network: nn.Module) -> bool:
    """Whether it changes its conditioning, which is another network's or another forward's as well."""
    return isinstance(network, CHANGE_TEXT)


@contextmanager
def differentiable(in_place: bool) -> Iterator[None]:
    """Within it, what a network computes has right gradients, where they are wanted at all; backward belongs in it too.

    Newer hosts take fused kernels without a backward pass unless they are told that this is training. in_place: whether
    a network changes what autograd has saved (`img += …`), which then keeps a copy of what it was.
    """
    if not torch.is_grad_enabled():
        yield
        return
    management = comfy.model_management
    before = getattr(management, "in_training", False)  # older hosts have no such code, nor the flag
    management.in_training = True
    try:
        with mutable_saved_tensors() if in_place else nullcontext():
            yield
    finally:
        management.in_training = before


@contextmanager
def mutable_saved_tensors() -> Iterator[None]:
    """Within it, what autograd has saved may be changed in place: `allow_mutation_on_saved_tensors` of torch, mended.

    That knows a saved tensor by its object's id, its address and its version, and lets go of it when it has made the
    copy. Another tensor may then come to have all three, and backward gets the copy of the first in its place: wrong
    gradients without a word, or shapes that don't fit.
    """
    with torch.autograd.graph.allow_mutation_on_saved_tensors() as context:
        context.original = Originals()
        yield


class Originals(WeakKeyDictionary):
    """Saved tensors by their handles, each kept as long as its handle is, also after it has been copied."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: WeakKeyDictionary = WeakKeyDictionary()

    def __delitem__(self, handle: object) -> None:
        self.copied[handle] = self[handle]
        super().__delitem__(handle)
