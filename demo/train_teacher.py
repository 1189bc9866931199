"""Train the demo's text-to-image teacher and write `assets/teacher.safetensors`.

    python demo/train_teacher.py [--minutes 100] [--device cuda]

It wants the pictures of gather_pictures.py and `assets/codec.safetensors` from fit_codec.py. The learning rate falls to
zero over the time given. A run that is stopped goes on from its last checkpoint, which lies beside the output file, and
what it has trained already counts. dev/LOG.md says what other settings gave.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from host import start_comfyui
from pictures import ASSETS, STYLES, TRAINING, Pictures, at_sizes, load_pictures, placed, words_of
from torch import Tensor, nn

BATCH = 64
LEARNING_RATE = 6e-4
WORDS_LEARNING_RATE = 3 * LEARNING_RATE  # most words are in one caption or two, so that they are seldom updated
WARM_UP = 300
EMA_DECAY = 0.999
TIME_POWER = 1.3  # times are 1000 u^this of a uniform u: at low noise the features see the score's errors best
WITHOUT_STYLE = 1 / 3  # of the captions
WITHOUT_CAPTION = 0.1
WORD_DROPOUT = 0.02  # now and then a word is an unknown one, so that prompts with new words still give a picture
SEED = 0
SAVE_EVERY = 500


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


def warm_up_and_decay(iteration: int, done: float) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to zero. done: 0 … 1 of the training."""
    return min(1.0, (iteration + 1) / WARM_UP) * 0.5 * (1 + math.cos(min(done, 1.0) * math.pi))


def parts_to_ship(networks: nn.ModuleDict) -> dict[str, nn.Module]:
    """The networks by the prefix of their weights in the file."""
    return {"model.diffusion_model.": networks["unet"], "text_encoder.": networks["text"]}


def vocabulary_of(captions: list[str]) -> list[str]:
    """Padding, the unknown word, the styles, and all words of the captions."""
    return ["", "?", *STYLES, *sorted({word for caption in captions for word in words_of(caption)} - set(STYLES))]


def tokens_of(pictures: Pictures, training: Tensor, tokenizer) -> Tensor:
    """Of each training picture's caption, without and with its style: (2, N, words)."""
    return torch.tensor(
        [
            [
                [token for token, _ in tokenizer.tokenize_with_weights(pictures.caption(index, styled))["words"][0]]
                for index in training.tolist()
            ]
            for styled in (False, True)
        ]
    )


class Prompts:
    """What the pictures of a batch are called: in full, without the style, with a word unknown, or not at all."""

    def __init__(self, tokens: Tensor, padding: int, unknown: int):
        self.tokens, self.padding, self.unknown = tokens, padding, unknown

    def of(self, pick: Tensor) -> Tensor:
        """(B,) → (B, words)."""
        device = self.tokens.device
        styled = (torch.rand(pick.shape, device=device) >= WITHOUT_STYLE).long()
        prompt = self.tokens[styled, pick].clone()
        dropped = torch.rand(prompt.shape, device=device) < WORD_DROPOUT
        prompt[dropped & (prompt != self.padding)] = self.unknown
        prompt[torch.rand(pick.shape, device=device) < WITHOUT_CAPTION] = self.padding
        return prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=100, help="of training in all (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--codec", type=Path, default=ASSETS / "codec.safetensors")
    parser.add_argument("--out", type=Path, default=ASSETS / "teacher.safetensors")
    args = parser.parse_args()
    start_comfyui()

    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.sid_core.files.tensors import write_tensors
    from sid_pack.sid_core.method.process import VP

    device = torch.device(args.device)
    pictures = load_pictures()
    training = pictures.where(TRAINING)
    codec = demo_model.PatchCodec()
    codec.load_state_dict(demo_model.read_weights(args.codec)[0])
    codec.to(device)
    canvases = at_sizes(pictures.images[training].permute(0, 3, 1, 2).to(device))
    vocabulary = vocabulary_of(pictures.captions)
    tokenizer = demo_model.WordTokenizer(vocabulary)
    prompts = Prompts(tokens_of(pictures, training, tokenizer).to(device), demo_model.PADDING, demo_model.UNKNOWN)

    torch.manual_seed(SEED)
    unet = demo_model.build_model().model.diffusion_model
    initialize(unet)
    text = demo_model.WordEncoder(len(vocabulary))
    nn.init.normal_(text.words.weight, std=0.5)
    networks = nn.ModuleDict({"unet": unet, "text": text}).requires_grad_(True)
    networks.to(device)
    ema = torch.optim.swa_utils.AveragedModel(
        networks, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    words = [text.words.weight]
    others = [parameter for parameter in networks.parameters() if parameter is not words[0]]
    groups = [{"params": others, "lr": LEARNING_RATE}, {"params": words, "lr": WORDS_LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    process = VP.stable_diffusion(prediction="v")
    options = {"optimized_attention_override": attention_in_float32} if device.type == "cpu" else {}
    count = sum(parameter.numel() for parameter in networks.parameters()) / 1e6
    print(f"{count:.2f} M parameters, {len(vocabulary)} words, {len(training)} pictures, on {device}", flush=True)

    checkpoint = args.out.with_suffix(".training.pt")
    start, earlier_s = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        start, earlier_s = state["iteration"], state["seconds"]
        ema.load_state_dict(state["ema"])
        networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        print(f"going on at iteration {start}, after {earlier_s / 60:.0f} min")

    def save(iteration: int, seconds: float) -> None:
        metadata = {"base": demo_model.BASE_ID, "vocabulary": json.dumps(vocabulary), "licence": "Apache-2.0"}
        weights = {
            prefix + key: value.half()
            for prefix, module in parts_to_ship(ema.module).items()
            for key, value in module.state_dict().items()
        }
        write_tensors(args.out, weights, metadata)
        state = {"networks": networks.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"iteration": iteration, "seconds": seconds}, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    began, iteration, losses = time.perf_counter(), start, []
    while (seconds := earlier_s + time.perf_counter() - began) < 60 * args.minutes:
        torch.manual_seed(SEED + 1 + iteration)
        share = warm_up_and_decay(iteration, seconds / (60 * args.minutes))
        for group, peak in zip(optimizer.param_groups, (LEARNING_RATE, WORDS_LEARNING_RATE), strict=True):
            group["lr"] = peak * share
        pick = torch.randint(len(training), (BATCH,), device=device)
        with torch.no_grad():
            x0 = codec.encode(placed(canvases, pick) * 2 - 1)
        t = (1000 * torch.rand(BATCH, device=device) ** TIME_POWER).long()
        noise = torch.randn_like(x0)
        alpha, sigma = (c.float().view(-1, 1, 1, 1).to(device) for c in process.coefficients(t))
        x_t = alpha * x0 + sigma * noise
        with torch.autocast(device.type, torch.bfloat16):
            v = unet(x_t, t.float(), context=text(prompts.of(pick)), transformer_options=dict(options))
            loss = (v.float() - (alpha * noise - sigma * x0)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(networks)
        losses.append(loss.detach())
        iteration += 1
        if iteration % 100 == 0:
            mean = torch.stack(losses).mean().item()
            print(
                f"{iteration}: loss {mean:.4f}, {(seconds - earlier_s) / (iteration - start):.3f} s an iteration, "
                f"{args.minutes - seconds / 60:.0f} min left",
                flush=True,
            )
            losses.clear()
        if iteration % SAVE_EVERY == 0:
            save(iteration, seconds)
    save(iteration, seconds)


if __name__ == "__main__":
    main()
