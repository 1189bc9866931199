"""What the metric's own eye sees in each region of the training pictures, for the image encoder to learn to see too."""

from pathlib import Path

import torch
from features import FEATURES, MEAN, SIDE, STD, load_feature_network
from pictures import FILE, TRAINING, Pictures
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

REGIONS = FILE.with_name("regions.safetensors")
GRID = 4  # regions on a side
KEPT = 64  # principal components of what is seen in a region
BATCH = 16


def load_regions(pictures: Pictures, device: torch.device, file: Path = REGIONS) -> Tensor:
    """Of each training picture (T, 16, KEPT), in half precision; kept in a file, as it takes five minutes on one core.

    The last convolution's channels on their principal components, half-way whitened.
    """
    if not file.exists():
        save_file({"regions": compressed(look(pictures.images[pictures.where(TRAINING)], device))}, file)
    return load_file(file)["regions"]


@torch.inference_mode()
def look(images: Tensor, device: torch.device) -> Tensor:
    """Pictures (N, 64, 64, 3) in bytes → the last convolution's map (N, 16, FEATURES) in half precision, row by row."""
    network = load_feature_network(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    seen = torch.empty(len(images), GRID * GRID, FEATURES, dtype=torch.half)
    for number, (rows, batch) in enumerate(zip(seen.split(BATCH), images.split(BATCH), strict=True)):
        pictures = batch.to(device).movedim(-1, 1).float() / 255
        pictures = nn.functional.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        rows.copy_(network.extract_features((pictures.clamp(0, 1) - mean) / std).flatten(2).mT)
        if number % 100 == 0:
            print(f"looked at {number * BATCH} of {len(images)} pictures", flush=True)
    return seen


def compressed(seen: Tensor) -> Tensor:
    """(N, R, C) → (N, R, KEPT) in half precision, of mean 0 and variance 1 in all."""
    flat = seen.flatten(0, 1)
    mean, products = torch.zeros(flat.shape[-1]), torch.zeros(flat.shape[-1], flat.shape[-1])
    for part in flat.split(8192):
        mean += part.float().sum(0) / len(flat)
        products += part.float().mT @ part.float() / len(flat)
    variances, directions = torch.linalg.eigh(products - mean.outer(mean))
    basis = directions[:, -KEPT:].flip(1) / variances[-KEPT:].flip(0) ** 0.25
    kept = torch.cat([(part.float() - mean) @ basis for part in seen.split(512)])
    return (kept / kept.std()).half()
