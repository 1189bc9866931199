"""Train the demo's text-to-image teacher and write `assets/teacher.safetensors`.

    python demo/train_teacher.py [--minutes 100] [--device cuda]

It wants the pictures of gather_pictures.py and `assets/codec.safetensors` from fit_codec.py. The learning rate falls to
zero over the time given. A run that is stopped goes on from its last checkpoint, which lies beside the output file, and
what it has trained already counts. dev/LOG.md says what other settings gave.
"""

import argparse
import json
from pathlib import Path

import torch
from host import start_comfyui
from pictures import ASSETS, STYLES, TRAINING, Pictures, at_sizes, load_pictures, placed, words_of
from torch import Tensor, nn
from training import TimedTraining, attention_in_float32, default_device, initialize, lower_precision

BATCH = 64  # twice that in the second half: first many steps teach most, later steps with less noise
LEARNING_RATE = 6e-4
MATRICES_LEARNING_RATE = 2e-3
WORDS_LEARNING_RATE = 3 * LEARNING_RATE  # most words are in one caption or two, so that they are seldom updated
TIME_POWER = 1.3  # times are 1000 u^this of a uniform u: at low noise the features see the score's errors best
WITHOUT_STYLE = 1 / 3  # of the captions
WITHOUT_CAPTION = 0.1
WORD_DROPOUT = 0.02  # now and then a word is an unknown one, so that prompts with new words still give a picture
SEED = 0


def residuals_from_zero(unet: nn.Module) -> None:
    """Each residual's last layer starts at zero, so that the network begins as the identity."""
    for name, module in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            nn.init.zeros_(module.weight)


def inner_matrices(networks: nn.ModuleDict) -> list[nn.Parameter]:
    """Weights of linear and convolutional layers, without the first and the last, which are no maps of features."""
    outer = ("unet.input_blocks.0.", "unet.out.", "text.words", "text.positions")
    return [
        parameter
        for name, parameter in networks.named_parameters()
        if parameter.ndim > 1 and not name.startswith(outer)
    ]


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
    parser.add_argument("--minutes", type=float, default=120, help="of training in all (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default=default_device())
    parser.add_argument("--codec", type=Path, default=ASSETS / "codec.safetensors")
    parser.add_argument("--out", type=Path, default=ASSETS / "teacher.safetensors")
    args = parser.parse_args()
    start_comfyui()

    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.sid_core.files.tensors import write_tensors
    from sid_pack.sid_core.method.process import VP

    device, pictures = args.device, load_pictures()
    training = pictures.where(TRAINING)
    codec = demo_model.PatchCodec()
    codec.load_state_dict(demo_model.read_weights(args.codec)[0])
    codec.to(device)
    canvases = at_sizes(pictures.images[training].permute(0, 3, 1, 2).to(device))
    vocabulary = vocabulary_of(pictures.captions)
    tokens = tokens_of(pictures, training, demo_model.WordTokenizer(vocabulary)).to(device)
    prompts = Prompts(tokens, demo_model.PADDING, demo_model.UNKNOWN)

    torch.manual_seed(SEED)
    unet = demo_model.build_model().model.diffusion_model
    initialize(unet)
    residuals_from_zero(unet)
    text = demo_model.WordEncoder(len(vocabulary))
    nn.init.normal_(text.words.weight, std=0.5)
    networks = nn.ModuleDict({"unet": unet, "text": text}).requires_grad_(True).to(device)
    words = text.words.weight
    matrices = inner_matrices(networks)
    apart = {words, *matrices}
    others = [parameter for parameter in networks.parameters() if parameter not in apart]
    groups = [{"params": others, "lr": LEARNING_RATE}, {"params": [words], "lr": WORDS_LEARNING_RATE}]
    checkpoint = args.out.with_suffix(".training.pt")
    timed = TimedTraining(networks, groups, args.minutes, checkpoint, matrices, MATRICES_LEARNING_RATE)
    process = VP.stable_diffusion(prediction="v")
    options = {"optimized_attention_override": attention_in_float32} if device.type == "cpu" else {}
    count = sum(parameter.numel() for parameter in networks.parameters()) / 1e6
    print(f"{count:.2f} M parameters, {len(vocabulary)} words, {len(training)} pictures, on {device}", flush=True)

    def loss_of_batch() -> Tensor:
        size = BATCH if 2 * timed.spent < timed.seconds else 2 * BATCH
        pick = torch.randint(len(training), (size,), device=device)
        with torch.no_grad():
            x0 = codec.encode(placed(canvases, pick) * 2 - 1)
        t = (1000 * torch.rand(size, device=device) ** TIME_POWER).long()
        noise = torch.randn_like(x0)
        alpha, sigma = (c.float().view(-1, 1, 1, 1).to(device) for c in process.coefficients(t))
        x_t = alpha * x0 + sigma * noise
        with lower_precision(device):
            v = unet(x_t, t.float(), context=text(prompts.of(pick)), transformer_options=dict(options))
            return (v.float() - (alpha * noise - sigma * x0)).square().mean()

    def save() -> None:
        metadata = {"base": demo_model.BASE_ID, "vocabulary": json.dumps(vocabulary), "licence": "Apache-2.0"}
        weights = {
            prefix + key: value.half()
            for prefix, module in parts_to_ship(timed.average).items()
            for key, value in module.state_dict().items()
        }
        write_tensors(args.out, weights, metadata)

    timed.run(loss_of_batch, save)


if __name__ == "__main__":
    main()
