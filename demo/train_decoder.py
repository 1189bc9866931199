"""Train the decoder of the demo model's codec and write it into `assets/codec.safetensors`.

    python demo/train_decoder.py

It learns the training pictures from their latents as a diffusion model gives them back: noised to some time, and
denoised again by the teacher. A decoder that only ever saw the encoder's own latents shows the model's
errors as grain. Some minutes on a CPU; wants the codec of fit_codec.py and the teacher of train_teacher.py.
"""

import argparse

import torch
from emoji import at_sizes, load_emoji, placed
from host import start_comfyui
from torch import Tensor, nn

BATCH = 64
LEARNING_RATE = 1e-3
LATENT_NOISE = 0.2
TIMES = (200, 400, 600)
STEPS = 8
GUIDANCE = 2.0


@torch.inference_mode()
def as_the_teacher_sees(latents: Tensor, captions: list[str]) -> Tensor:
    """The latents (len(TIMES), N, C, H, W), noised to TIMES and denoised by the guided teacher in STEPS."""
    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.sid_core.method.guidance import guided
    from sid_pack.sid_core.method.sampling import few_step, step_times

    teacher, clip, _ = demo_model.load_demo()
    contexts = torch.cat([clip.encode_from_tokens(clip.tokenize(caption)) for caption in captions])
    empty = clip.encode_from_tokens(clip.tokenize(""))
    process = process_of(teacher)
    predict = predictor(teacher.model, process)
    generator = torch.manual_seed(0)

    def batch_denoised(x0: Tensor, rows: Tensor, time: int) -> Tensor:
        times = step_times(STEPS, process=process, t_init=time)
        noise = torch.randn(x0.shape, generator=generator)
        x_t = process.diffuse(x0, noise, times[0])
        cond, uncond = {"c_crossattn": contexts[rows]}, {"c_crossattn": empty.expand(len(rows), -1, -1)}

        def teacher_at(x_t: Tensor, t: Tensor) -> Tensor:
            return guided(predict, x_t, t, cond, uncond, GUIDANCE)

        return few_step(teacher_at, noise, times, process, mode="ddim", x_start=x_t)

    def denoised(x0: Tensor, time: int) -> Tensor:
        batches = torch.arange(len(x0)).split(4 * BATCH)
        return torch.cat([batch_denoised(x0[rows], rows, time) for rows in batches])

    return torch.stack([denoised(x0, time) for x0, time in zip(latents, TIMES, strict=True)])


def train(canvases: Tensor, pictures: Tensor, seen: Tensor, codec: nn.Module, iterations: int) -> None:
    """Half of each batch are `pictures` (M, 3, H, W) from the teacher's latents of them, `seen` (M, C, h, w); half
    are `canvases`, placed anew, from the encoder's latents with a little noise.
    """
    optimizer = torch.optim.Adam(codec.refine.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for iteration in range(iterations):
        pick = torch.randint(len(pictures), (BATCH // 2,))
        anew = placed(canvases, torch.randint(canvases.shape[1], (BATCH // 2,))) * 2 - 1
        latents = codec.encode(anew)
        noisy = latents + torch.randn_like(latents) * torch.rand(len(latents), 1, 1, 1) * LATENT_NOISE
        error = codec.decode(torch.cat([noisy, seen[pick]])) - torch.cat([anew, pictures[pick]])
        # Of neighbouring pixels' differences too: edges are few of the pixels and most of what a person sees.
        loss = error.abs().mean() + sum(error.diff(dim=axis).abs().mean() for axis in (-2, -1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (iteration + 1) % 250 == 0:
            print(f"{iteration + 1}/{iterations}: mean absolute error {error.abs().mean().item():.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=5000)
    args = parser.parse_args()
    start_comfyui()
    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.sid_core.files.tensors import write_tensors

    emoji = load_emoji()
    captions = [emoji.captions[index] for index in emoji.training]
    codec = demo_model.PatchCodec()
    codec.load_state_dict(demo_model.read_weights(demo_model.CODEC)[0])
    torch.manual_seed(0)
    canvases = at_sizes(emoji.images[emoji.training].permute(0, 3, 1, 2))
    everyone = torch.arange(len(captions))
    pictures = torch.stack([placed(canvases, everyone) * 2 - 1 for _ in TIMES])
    with torch.no_grad():
        latents = torch.stack([codec.encode(batch) for batch in pictures])
    seen = as_the_teacher_sees(latents, captions).clone()
    train(canvases, pictures.flatten(0, 1), seen.flatten(0, 1), codec, args.iterations)
    weights = {key: value.half() for key, value in codec.state_dict().items()}
    write_tensors(demo_model.CODEC, weights, {"licence": "Apache-2.0"})


if __name__ == "__main__":
    main()
