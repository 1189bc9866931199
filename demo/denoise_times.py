"""Which times a student should begin a picture's change at: three ways, measured by how near to it the result stays.

    python demo/denoise_times.py

The shipped 4-step student changes real pictures (`sheet.py`) by a prompt that names another subject in the same style,
at several values of `denoise`. Whatever the way, more denoise gives more of the prompt and less of the picture, so the
ways are compared at the same share of pictures in which the prompt's subject is found: the nearer one is better.

- *last*: the last of the student's own times, as many as `denoise` asks for, rounded;
- *scaled*: all of them, times `denoise`: as many steps as for a new picture, as ComfyUI's own schedulers have it;
- *entered*: begin at `denoise` times the first, and go on with those of the student's own that lie below, which is
  what *SiD Scheduler* does.

COMFYUI_PATH names the ComfyUI to use.
"""

import argparse

import torch
from demo_protocol import Prompts, Protocol
from drawing import LATENT_SIDE, Artist
from host import start_comfyui
from reference import load_reference
from sheet import load_sheet
from torch import Tensor

STUDENT, OWN = "student_4_steps.safetensors", (625, 468, 312, 156)
LEVELS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
OTHER_SUBJECT = 7  # subjects further on in the sheet, whose neighbours are of the same sort nowhere


def last(denoise: float) -> list[int]:
    return list(OWN[-max(1, round(denoise * len(OWN))) :])


def scaled(denoise: float) -> list[int]:
    return [int(denoise * t) for t in OWN]


def entered(denoise: float) -> list[int]:
    first = int(denoise * OWN[0])
    return [first, *(t for t in OWN if t < first)]


WAYS = {way.__name__: way for way in (last, scaled, entered)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=128, help="how many of the sheet's 270")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    start_comfyui()
    import comfy.model_management

    reference = load_reference()
    protocol = Protocol(reference, comfy.model_management.get_torch_device())
    artist = Artist(reference.captions, args.pictures)
    sheet = load_sheet()
    rows = torch.randperm(len(sheet.subjects), generator=torch.Generator().manual_seed(0))[: args.pictures]
    source, styles = sheet.image(rows), sheet.styles[rows]
    wanted = [sheet.captions[each] for each in (sheet.subjects[rows] + OTHER_SUBJECT) % len(sheet.captions)]
    prompts = Prompts(torch.tensor([reference.captions.index(each) for each in wanted]), styles, torch.arange(0))
    captions = [reference.caption(*each) for each in zip(prompts.subjects.tolist(), styles.tolist(), strict=True)]

    def row(name: str, denoise: float, times: list[int], begun_with: Tensor | None) -> None:
        found = style = apart = 0.0
        for seed in range(args.seeds):
            images = changed(artist, begun_with, captions, times, seed)
            seen = protocol.measure(images, prompts)
            found += seen.found.double().mean().item() / args.seeds
            style += (seen.answers == styles).double().mean().item() / args.seeds
            apart += (images - source).square().mean((1, 2, 3)).sqrt().mean().item() / args.seeds
        shown = ", ".join(map(str, times))
        print(f"| {name} | {denoise:g} | {shown} | {found:.3f} | {style:.3f} | {apart:.4f} |", flush=True)

    print("| times from | denoise | times | subject | style | from the picture |\n|:--|--:|:--|--:|--:|--:|")
    row("nothing", 1, list(OWN), None)
    for name in args.ways:
        for denoise in LEVELS:
            row(name, denoise, WAYS[name](denoise), source)


@torch.inference_mode()
def changed(artist: Artist, source: Tensor | None, captions: list[str], times: list[int], seed: int) -> Tensor:
    """Pictures (N, 64, 64, 3) of the student that begins with `source`, or with nothing, noised to the first time."""
    import comfy.samplers

    from sid_pack.nodes.demo.model import load_demo
    from sid_pack.nodes.sampling.few_step import FewStepSampler

    model = load_demo(STUDENT)[0]
    levels = model.get_model_object("model_sampling").sigmas
    guider = comfy.samplers.CFGGuider(model)
    contexts = torch.cat([artist.encoded(caption) for caption in captions])
    guider.set_conds([[contexts, {}]], [[contexts, {}]])
    guider.set_cfg(1.0)
    side = LATENT_SIDE
    latents = torch.zeros(len(captions), 32, side, side) if source is None else artist.vae.encode(source)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    sigmas = torch.cat([levels[times], torch.zeros(1)])
    drawn = guider.sample(noise, latents, FewStepSampler("fresh"), sigmas, disable_pbar=True, seed=seed + 10_000)
    return artist.vae.decode(drawn).cpu()


if __name__ == "__main__":
    main()
