"""Fit the codec of the demo model to the emoji and write `assets/codec.safetensors`.

    python demo/train_codec.py

The encoder is linear and has a closed form; the decoder's convolutions are trained for some minutes on a CPU. It is
the first of the three scripts that make the demo's weights; the others are train_teacher.py and distil_students.py.
"""

import argparse

import torch
from emoji import load_emoji
from host import start_comfyui
from torch import Tensor, nn

BATCH = 64
LEARNING_RATE = 1e-3
LATENT_NOISE = 0.2  # most that is added to a latent: a diffusion model's latents are not as clean as the encoder's


def fit_linear(pictures: Tensor, codec: nn.Module) -> None:
    """The principal components of the pictures' patches, scaled to unit variance. pictures: (N, 3, H, W)."""
    channels, patch = codec.basis.shape[0], codec.basis.shape[-1]
    patches = nn.functional.unfold(pictures, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch)
    patches = patches.double()
    mean = patches.mean(0)
    variances, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    codec.mean.copy_(mean)
    codec.basis.copy_(axes[:, -channels:].flip(1).T.reshape(codec.basis.shape))
    codec.scale.copy_(variances[-channels:].mean().sqrt())
    print(f"{channels} components keep {float(variances[-channels:].sum() / variances.sum()):.1%} of the variance")


def fit_decoder(pictures: Tensor, codec: nn.Module, iterations: int) -> None:
    """Train `codec.refine` to give the pictures back from latents with a little noise."""
    torch.manual_seed(0)
    nn.init.zeros_(codec.refine[-2].weight)
    nn.init.zeros_(codec.refine[-2].bias)
    latents = codec.encode(pictures)
    optimizer = torch.optim.Adam(codec.refine.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for iteration in range(iterations):
        pick = torch.randint(len(pictures), (BATCH,))
        noise = torch.randn_like(latents[pick]) * torch.rand(BATCH, 1, 1, 1) * LATENT_NOISE
        loss = (codec.decode(latents[pick] + noise) - pictures[pick]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (iteration + 1) % 500 == 0:
            print(f"{iteration + 1}/{iterations}: mean absolute error {loss.item():.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2500)
    args = parser.parse_args()
    start_comfyui()
    from sid_pack.nodes import demo_model
    from sid_pack.sid_core.checkpoint import write_tensors

    emoji = load_emoji()
    pictures = emoji.images.permute(0, 3, 1, 2) * 2 - 1
    codec = demo_model.PatchCodec()
    fit_linear(pictures, codec)
    fit_decoder(pictures[emoji.training], codec, args.iterations)
    weights = {key: value.half() for key, value in codec.state_dict().items()}
    write_tensors(demo_model.CODEC, weights, {"licence": "Apache-2.0"})


if __name__ == "__main__":
    main()
