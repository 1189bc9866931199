"""IMAGE and MASK as image prompts take them: put right where it is plain what they are, or refused."""

import torch
from torch import Tensor

ROUNDING = 1e-3  # by which resizing may leave 0…1


def pictures(images: Tensor, name: str) -> Tensor:
    """IMAGE as (R, H, W, 3) floats. name: of the input, for messages.

    One picture may lack its batch, grey is made colour and transparency is left out. Raises ValueError for all else.
    """
    images = _numbers(images, name)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"Connect an IMAGE to {name}: it is of shape {tuple(images.shape)}; expected (pictures, height, width, 3)."
        )
    _check_values(images, name)
    return images.expand(-1, -1, -1, 3) if images.shape[-1] == 1 else images[..., :3]


def masks(mask: Tensor, name: str) -> Tensor:
    """MASK as (M, H, W) floats of 0…1, from (H, W), (M, H, W) or (M, 1, H, W). Raises ValueError for all else."""
    mask = _numbers(mask, name)
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3:
        raise ValueError(
            f"Connect a MASK to {name}: it is of shape {tuple(mask.shape)}; expected (masks, height, width)."
        )
    _check_values(mask, name)
    if mask.min() < -ROUNDING or mask.max() > 1 + ROUNDING:
        raise ValueError(
            f"Scale {name} to 0 … 1: its values are from {mask.min():g} to {mask.max():g}, where 1 is to act in full."
        )
    return mask.clamp(0, 1)


def _numbers(tensor: Tensor, name: str) -> Tensor:
    """As floats in main memory; 8-bit numbers are of 0…255."""
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    if not plain or not (tensor.is_floating_point() or tensor.dtype in (torch.bool, torch.uint8)):
        kind = f"of {tensor.dtype} ({tensor.layout})" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
        raise ValueError(f"Connect another source to {name}: it is {kind}; expected floating point numbers of 0 … 1.")
    return tensor.cpu().float() / (255 if tensor.dtype == torch.uint8 else 1)


def _check_values(tensor: Tensor, name: str) -> None:
    if tensor.numel() == 0:
        raise ValueError(f"Look at what is connected to {name}: it is empty, of shape {tuple(tensor.shape)}.")
    if not tensor.isfinite().all():
        raise ValueError(
            f"Look at the nodes before {name}: it has NaN or infinite values, so every picture would be black. One of "
            "them may have failed, such as a VAE in half precision."
        )
