"""Fit the linear part of the demo model's codec to the pictures and write `assets/codec.safetensors`.

    python demo/fit_codec.py

Second of the scripts that make the demo's weights, before train_teacher.py, train_decoder.py and
distil_students.py.
"""

import argparse
from pathlib import Path

import torch
from host import start_comfyui
from pictures import ASSETS, TRAINING, load_pictures
from torch import Tensor, nn


def fit_linear(pictures: Tensor, codec: nn.Module) -> None:
    """The principal components of the pictures' patches, pictures: (N, 3, H, W). See PatchCodec about the scale."""
    channels, patch = codec.basis.shape[0], codec.basis.shape[-1]
    patches = nn.functional.unfold(pictures, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
    patches = patches.double()
    mean = patches.mean(0)
    variances, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    codec.mean.copy_(mean)
    codec.basis.copy_(axes[:, -channels:].flip(1).T.reshape(codec.basis.shape))
    deviations = variances[-channels:].flip(0).sqrt()
    codec.scale.copy_((deviations * deviations.mean()).sqrt()[:, None, None])
    print(f"{channels} components keep {float(variances[-channels:].sum() / variances.sum()):.1%} of the variance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "codec.safetensors")
    args = parser.parse_args()
    start_comfyui()
    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.sid_core.files.tensors import write_tensors

    torch.manual_seed(0)
    codec = demo_model.PatchCodec()
    nn.init.zeros_(codec.refine[-2].weight)
    nn.init.zeros_(codec.refine[-2].bias)
    pictures = load_pictures()
    fit_linear(pictures.image(pictures.where(TRAINING)).permute(0, 3, 1, 2) * 2 - 1, codec)
    weights = {key: value.half() for key, value in codec.state_dict().items()}
    write_tensors(args.out, weights, {"licence": "Apache-2.0"})


if __name__ == "__main__":
    main()
