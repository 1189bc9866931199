"""Train the text-to-emoji teacher and write `assets/teacher.safetensors`.

    python demo/train_teacher.py [--iterations 8500] [--start assets/teacher.safetensors]

It wants `assets/codec.safetensors` from fit_codec.py, and takes 25 minutes or more on two CPU cores. A run that is
stopped goes on from its last checkpoint, which lies beside the output file. `--start` trains a finished teacher
further: before its 8,500, the one that is shipped had some 15,000 iterations of earlier kinds (see dev/LOG.md).
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import torch
from emoji import at_sizes, load_emoji, placed
from host import start_comfyui
from torch import Tensor, nn

BATCH = 64
LEARNING_RATE = 6e-4
WORDS_LEARNING_RATE = 3 * LEARNING_RATE  # most words are in one caption or two, so that they are seldom updated
WARM_UP = 200
EMA_DECAY = 0.999
TIME_POWER = 1.3  # times are 1000 u^this of a uniform u: at low noise the features see the score's errors best
CAPTION_DROPOUT = 0.1
WORD_DROPOUT = 0.02  # now and then a word is an unknown one, so that prompts with new words still give a picture
SEED = 0


def words_of(caption: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", caption)


def initialize(network: nn.Module) -> None:
    """The host leaves new weights unset. Fan-in scaling; the last convolutions of each residual start at zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for name, module in network.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            nn.init.zeros_(module.weight)


def attention_in_float32(attention, q: Tensor, k: Tensor, v: Tensor, *args, **kwargs) -> Tensor:
    """On a CPU the backward of attention is several times slower in bfloat16, while all the rest is faster."""
    with torch.autocast(q.device.type, enabled=False):
        return attention(q.float(), k.float(), v.float(), *args, **kwargs)


def warm_up_and_decay(iteration: int, iterations: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to zero."""
    return min(1.0, (iteration + 1) / WARM_UP) * 0.5 * (1 + math.cos(iteration / iterations * math.pi))


def parts_to_ship(networks: nn.ModuleDict) -> dict[str, nn.Module]:
    """The networks by the prefix of their weights in the file."""
    return {"model.diffusion_model.": networks["unet"], "text_encoder.": networks["text"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=8500)
    parser.add_argument("--start", type=Path, help="a teacher to begin with instead of random weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "teacher.safetensors")
    args = parser.parse_args()
    start_comfyui()
    import comfy.model_management as host

    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.sid_core.files.tensors import write_tensors
    from sid_pack.sid_core.method.process import VP

    device = host.get_torch_device()
    emoji = load_emoji()
    codec = demo_model.PatchCodec()
    codec.load_state_dict(demo_model.read_weights(demo_model.CODEC)[0])
    pictures = at_sizes(emoji.images[emoji.training].permute(0, 3, 1, 2))
    captions = [emoji.captions[index] for index in emoji.training]
    vocabulary = ["", "?", *sorted({word for caption in captions for word in words_of(caption)})]
    tokenizer = demo_model.WordTokenizer(vocabulary)
    tokens = torch.tensor(
        [[token for token, _ in tokenizer.tokenize_with_weights(caption)["emoji"][0]] for caption in captions],
        device=device,
    )

    torch.manual_seed(SEED)
    unet = demo_model.build_model().model.diffusion_model.to(device)
    initialize(unet)
    text = demo_model.WordEncoder(len(vocabulary)).to(device)
    networks = nn.ModuleDict({"unet": unet, "text": text}).requires_grad_(True)
    nn.init.normal_(text.words.weight, std=0.5)
    if args.start:
        weights = demo_model.read_weights(args.start)[0]
        for prefix, module in parts_to_ship(networks).items():
            module.load_state_dict(demo_model.part(weights, prefix))
    ema = torch.optim.swa_utils.AveragedModel(
        networks, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    words = [text.words.weight]
    others = [parameter for parameter in networks.parameters() if parameter is not words[0]]
    groups = [{"params": others, "lr": LEARNING_RATE}, {"params": words, "lr": WORDS_LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)
    process = VP.stable_diffusion(prediction="v")
    options = {"optimized_attention_override": attention_in_float32}
    print(
        f"{sum(p.numel() for p in networks.parameters()) / 1e6:.2f} M parameters, {len(vocabulary)} words, on {device}"
    )

    checkpoint = args.out.with_suffix(".training.pt")
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        start = state["iteration"]
        ema.load_state_dict(state["ema"])
        networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on at iteration {start}")

    def save() -> None:
        metadata = {"base": demo_model.BASE_ID, "vocabulary": json.dumps(vocabulary), "licence": "Apache-2.0"}
        weights = {
            prefix + key: value.half()
            for prefix, module in parts_to_ship(ema.module).items()
            for key, value in module.state_dict().items()
        }
        write_tensors(args.out, weights, metadata)

    began, mean_loss = time.perf_counter(), 0.0
    for iteration in range(start, args.iterations):
        torch.manual_seed(SEED + 1 + iteration)
        for group, peak in zip(optimizer.param_groups, (LEARNING_RATE, WORDS_LEARNING_RATE), strict=True):
            group["lr"] = peak * warm_up_and_decay(iteration, args.iterations)
        pick = torch.randint(len(captions), (BATCH,), device=device)
        with torch.no_grad():
            x0 = codec.encode(placed(pictures, pick) * 2 - 1).to(device)
        prompt = tokens[pick].clone()
        prompt[(torch.rand(prompt.shape, device=device) < WORD_DROPOUT) & (prompt != demo_model.PADDING)] = (
            demo_model.UNKNOWN
        )
        prompt[torch.rand(BATCH, device=device) < CAPTION_DROPOUT] = demo_model.PADDING
        t = (1000 * torch.rand(BATCH, device=device) ** TIME_POWER).long()
        noise = torch.randn_like(x0)
        alpha, sigma = (c.float().view(-1, 1, 1, 1).to(device) for c in process.coefficients(t))
        with torch.autocast(device.type, torch.bfloat16):
            v = unet(alpha * x0 + sigma * noise, t.float(), context=text(prompt), transformer_options=dict(options))
            loss = (v.float() - (alpha * noise - sigma * x0)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(networks)
        mean_loss += (loss.item() - mean_loss) / min(iteration - start + 1, 100)
        if (iteration + 1) % 100 == 0:
            seconds = (time.perf_counter() - began) / (iteration + 1 - start)
            left = seconds * (args.iterations - iteration - 1) / 60
            print(
                f"{iteration + 1}: loss {mean_loss:.4f}, {seconds:.2f} s an iteration, {left:.0f} min left", flush=True
            )
        if (iteration + 1) % 500 == 0 or iteration + 1 == args.iterations:
            save()
            state = {"networks": networks.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"iteration": iteration + 1}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    checkpoint.unlink()


if __name__ == "__main__":
    main()
