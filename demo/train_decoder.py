"""Train the decoder of the demo model's codec and write it into `assets/codec.safetensors`.

    python demo/train_decoder.py --alone --minutes 15
    python demo/train_decoder.py --minutes 10

It learns the training pictures from their latents: the encoder's own with a little noise, and, without `--alone`, those
that a diffusion model gives back too, noised to some time and denoised by the teacher. A decoder that only ever saw the
encoder's latents shows the model's errors as grain. It goes on from the decoder that is in the file. Wants the codec of
fit_codec.py and, for the second line, the teacher of train_teacher.py.
"""

import argparse
from pathlib import Path

import torch
from host import start_comfyui
from pictures import ASSETS, TRAINING, Pictures, at_sizes, load_pictures, placed
from torch import Tensor, nn
from training import TimedTraining, lower_precision

BATCH = 64
LEARNING_RATE = 1.5e-3
LATENT_NOISE = 0.2
SEEN = 4096  # pictures that the teacher gives back, each once
TIMES = (200, 400, 600)
STEPS = 8
GUIDANCE = 2.0


@torch.inference_mode()
def as_the_teacher_sees(latents: Tensor, captions: list[str]) -> Tensor:
    """The latents (N, C, H, W), each noised to one of TIMES and denoised by the guided teacher in STEPS."""
    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.sid_core.method.guidance import guided
    from sid_pack.sid_core.method.sampling import few_step, step_times

    teacher, clip, _ = demo_model.load_demo()
    empty = clip.encode_from_tokens(clip.tokenize(""))
    process = process_of(teacher)
    predict = predictor(teacher.model, process)
    generator = torch.manual_seed(0)

    def batch_denoised(x0: Tensor, texts: list[str], time: int) -> Tensor:
        contexts = torch.cat([clip.encode_from_tokens(clip.tokenize(text)) for text in texts])
        times = step_times(STEPS, process=process, t_init=time)
        noise = torch.randn(x0.shape, generator=generator)
        cond, uncond = {"c_crossattn": contexts}, {"c_crossattn": empty.expand(len(x0), -1, -1)}

        def teacher_at(x_t: Tensor, t: Tensor) -> Tensor:
            return guided(predict, x_t, t, cond, uncond, GUIDANCE)

        x_t = process.diffuse(x0, noise, times[0])
        return few_step(teacher_at, noise, times, process, mode="ddim", x_start=x_t)

    batches = torch.arange(len(latents)).split(BATCH)
    return torch.cat(
        [
            batch_denoised(latents[rows], [captions[row] for row in rows], TIMES[number % len(TIMES)])
            for number, rows in enumerate(batches)
        ]
    )


def seen_again(pictures: Pictures, training: Tensor, canvases: Tensor, codec: nn.Module) -> tuple[Tensor, Tensor]:
    """SEEN pictures, placed once, and the latents that the teacher makes of theirs: (M, 3, H, W), (M, C, h, w)."""
    pick = torch.randperm(len(training))[:SEEN]
    shown = placed(canvases, pick) * 2 - 1
    with torch.no_grad():
        latents = torch.cat([codec.encode(batch) for batch in shown.split(BATCH)])
    captions = [pictures.caption(index) for index in training[pick].tolist()]
    return shown, as_the_teacher_sees(latents, captions).clone()


def train(
    canvases: Tensor, seen: tuple[Tensor, Tensor] | None, codec: nn.Module, minutes: float, checkpoint: Path
) -> nn.Module:
    """The codec with its decoder trained. With `seen`, of `seen_again`, half of each batch are those; the others are
    `canvases`, placed anew.
    """
    refine = codec.refine.requires_grad_(True)
    groups = [{"params": list(refine.parameters()), "lr": LEARNING_RATE}]
    timed = TimedTraining(codec, groups, minutes, checkpoint)
    own = BATCH // 2 if seen else BATCH

    def loss_of_batch() -> Tensor:
        shown = placed(canvases, torch.randint(canvases.shape[1], (own,))) * 2 - 1
        with torch.no_grad():
            latents = codec.encode(shown)
            latents = latents + torch.randn_like(latents) * torch.rand(own, 1, 1, 1) * LATENT_NOISE
        if seen:
            pick = torch.randint(len(seen[0]), (BATCH - own,))
            shown, latents = torch.cat([shown, seen[0][pick]]), torch.cat([latents, seen[1][pick]])
        with lower_precision(latents.device):
            error = codec.decode(latents).float() - shown
        # Of neighbouring pixels' differences too: edges are few of the pixels and most of what a person sees.
        return error.abs().mean() + sum(error.diff(dim=axis).abs().mean() for axis in (-2, -1))

    timed.run(loss_of_batch, lambda: None)
    return timed.average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--alone", action="store_true", help="without a teacher's latents")
    parser.add_argument("--codec", type=Path, default=ASSETS / "codec.safetensors")
    args = parser.parse_args()
    start_comfyui()
    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.sid_core.files.tensors import write_tensors

    pictures = load_pictures()
    training = pictures.where(TRAINING)
    codec = demo_model.PatchCodec()
    codec.load_state_dict(demo_model.read_weights(args.codec)[0])
    torch.manual_seed(0)
    canvases = at_sizes(pictures.images[training].permute(0, 3, 1, 2))
    seen = None if args.alone else seen_again(pictures, training, canvases, codec)
    codec = train(canvases, seen, codec, args.minutes, args.codec.with_suffix(".training.pt"))
    weights = {key: value.half() for key, value in codec.state_dict().items()}
    write_tensors(args.codec, weights, {"licence": "Apache-2.0"})


if __name__ == "__main__":
    main()
