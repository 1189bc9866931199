"""Train the demo's image prompt on the grid of styles.py and write `assets/image_prompt.safetensors`.

    python demo/train_image_prompt.py [--iterations 6000]

As IP-Adapters are trained: the picture that is to be drawn is its own image prompt, and its caption is given too. So
the adapter learns to copy all of a picture, its subject with its style; leakage.py measures what that does. The UNet
is frozen. Half an hour on one CPU core.
"""

import argparse
import time
from pathlib import Path

import torch
from features import load_feature_network
from host import start_comfyui
from image_prompt import ADAPTER, attentions_to, file_weights, look, new_adapter
from safetensors.torch import load_file, save_file
from styles import GRID, StyleGrid, load_grid
from torch import Tensor, nn
from train_teacher import attention_in_float32, warm_up_and_decay

BATCH = 64
LEARNING_RATE = 1e-3
EMA_DECAY = 0.999
DROPPED = 0.05  # of the pictures lack their image, as many their caption, as many both
SHIFT = 3  # pixels in each direction, so that a subject is not known by where each of its edges is
LOOKED_AT = GRID.with_name("styles_seen.safetensors")


def seen_pictures(grid: StyleGrid, file: Path = LOOKED_AT) -> Tensor:
    """What the image prompt sees of the grid's pictures (S, N, 16, SEEN), in half precision; kept in a file."""
    if not file.exists():
        network = load_feature_network()
        rows = []
        for style, row in zip(grid.styles, grid.images, strict=True):
            rows.append(look(network, row.float() / 255).half())
            print(f"looked at {style}", flush=True)
        save_file({"seen": torch.stack(rows)}, file)
    return load_file(file)["seen"]


def shifted(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) moved by up to SHIFT pixels each, the edge pixels repeated."""
    height, width = pictures.shape[2:]
    wide = nn.functional.pad(pictures, (SHIFT,) * 4, mode="replicate")
    corners = torch.randint(2 * SHIFT + 1, (len(pictures), 2)).tolist()
    return torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(wide, corners, strict=True)])


def weights_of(adapter: nn.Module, mean: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """The adapter's weights for pictures as they are seen: training saw (seen - mean) / scale."""
    weights = file_weights(adapter)
    weight = weights["image_proj.proj_in.weight"] / scale
    weights["image_proj.proj_in.bias"] = weights["image_proj.proj_in.bias"] - weight @ mean
    weights["image_proj.proj_in.weight"] = weight
    return {key: value.half().contiguous() for key, value in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=ADAPTER)
    args = parser.parse_args()
    start_comfyui()
    from comfy.ldm.modules.attention import optimized_attention

    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.sid_core.files.tensors import write_tensors
    from sid_pack.sid_core.method.process import VP

    grid = load_grid()
    seen = seen_pictures(grid)
    model, clip, vae = demo_model.load_demo()
    unet, codec = model.model.diffusion_model.requires_grad_(False), vae.first_stage_model
    with torch.no_grad():
        contexts = torch.cat([clip.encode_from_tokens(clip.tokenize(caption)) for caption in [*grid.captions, ""]])
    contexts = contexts.clone()
    styles, subjects = (~grid.unseen).nonzero(as_tuple=True)
    learnt = seen[styles, subjects].float().flatten(0, 1)
    mean, scale = learnt.mean(0), learnt.std(0) + 1e-3
    del learnt

    torch.manual_seed(0)
    adapter, layers = new_adapter(model), cross_attention_layers(model)
    ema = torch.optim.swa_utils.AveragedModel(
        adapter, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    process = VP.stable_diffusion(prediction="v")
    print(f"{sum(p.numel() for p in adapter.parameters()) / 1e6:.2f} M parameters, {len(styles)} pictures", flush=True)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return attention_in_float32(optimized_attention, q, k, v, heads)

    def save() -> None:
        write_tensors(args.out, weights_of(ema.module, mean, scale), {"licence": "Apache-2.0"})

    began, mean_loss = time.perf_counter(), 0.0
    for iteration in range(args.iterations):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm_up_and_decay(iteration, args.iterations)
        pick = torch.randint(len(styles), (BATCH,))
        style, subject = styles[pick], subjects[pick]
        with torch.no_grad():
            x0 = codec.encode(shifted(grid.pictures(style, subject).movedim(-1, 1)) * 2 - 1)
        picture = seen[style, subject].float()
        lot = torch.rand(BATCH)
        picture[lot < 2 * DROPPED] = 0
        subject[(lot >= DROPPED) & (lot < 3 * DROPPED)] = len(grid.captions)
        t = torch.randint(1000, (BATCH,))
        noise = torch.randn_like(x0)
        alpha, sigma = (c.float().view(-1, 1, 1, 1) for c in process.coefficients(t))
        with torch.autocast("cpu", torch.bfloat16):
            tokens = adapter.projection((picture - mean) / scale)
            options = {"patches_replace": {"attn2": attentions_to(adapter, layers, tokens, attend)}}
            options["optimized_attention_override"] = attention_in_float32
            v = unet(alpha * x0 + sigma * noise, t.float(), context=contexts[subject], transformer_options=options)
            loss = (v.float() - (alpha * noise - sigma * x0)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(adapter)
        mean_loss += (loss.item() - mean_loss) / min(iteration + 1, 100)
        if (iteration + 1) % 100 == 0:
            seconds = (time.perf_counter() - began) / (iteration + 1)
            left = seconds * (args.iterations - iteration - 1) / 60
            print(
                f"{iteration + 1}: loss {mean_loss:.4f}, {seconds:.2f} s an iteration, {left:.0f} min left", flush=True
            )
        if (iteration + 1) % 500 == 0 or iteration + 1 == args.iterations:
            save()


if __name__ == "__main__":
    main()
