"""Train the demo's image prompt on the training pictures and write `.sid/image_prompt.safetensors`.

    python demo/train_image_prompt.py [--minutes 20] [--device cpu]

As IP-Adapters are trained, the picture that is to be drawn is its own image prompt, at another size and place. Two
things differ. Those adapters take along all of a picture, since the captions of the web leave much of it untold; the
captions here tell everything, so with an image they are left out: else the adapter learns next to nothing of the
subject. And what it learns to predict is half the picture itself, half what the frozen UNet makes of the same noise
with the whole caption: that varies far less from draw to draw. leakage.py measures what comes of it. UNet and image
encoder are frozen: they are those in `assets`, unless --encoder says otherwise.
A run that is stopped goes on from its last checkpoint, beside the output file.
"""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from host import ROOT, start_comfyui
from image_prompt import attentions_to, file_weights, new_adapter, preprocessing
from pictures import FILE, TRAINING, Pictures, at_sizes, load_pictures, placed
from torch import Tensor
from training import TimedTraining, attention_in_float32, default_device, lower_precision

OUT = ROOT / ".sid" / "image_prompt.safetensors"
BATCH = 64
LEARNING_RATE = 1e-3
MATRICES_LEARNING_RATE = 2e-3
IMAGE_DROPPED = 0.1  # of the pictures lack their image, half of these their caption too
CAPTION_DROPPED = 0.95
STYLE_DROPPED = 2 / 3  # of the captions
PICTURE_SHARE = 0.5  # of what is learnt; the rest is the UNet's own prediction


class Lessons:
    """Batches of training pictures, noised, with what the frozen networks make of them."""

    def __init__(self, pictures: Pictures, model, clip, vae, clip_vision, device: torch.device):
        self.model, self.clip, self.vae, self.device = model, clip, vae, device
        self.unet = model.model.diffusion_model.requires_grad_(False).to(device)
        self.eye = clip_vision.model.float().requires_grad_(False).to(device)
        self.preprocess = preprocessing(clip_vision)
        self.pictures = pictures
        self.training = pictures.where(TRAINING)
        self.canvases = at_sizes(pictures.images[self.training].movedim(-1, 1)).to(device)
        self.context = cache(self._context)

    @torch.no_grad()
    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clean latents (B, C, h, w), texts and whole captions (B, L, D), what the image encoder sees (B, T, E)."""
        pick = torch.randint(len(self.training), (BATCH,))
        latents = self.model.model.process_latent_in(self.vae.encode(placed(self.canvases, pick).movedim(1, -1)))
        pixels = self.preprocess(placed(self.canvases, pick))
        image_dropped, caption_dropped = dropped(torch.rand(BATCH))
        pixels[image_dropped.to(self.device)] = 0  # as the pack has it where there is no image
        told = (torch.rand(BATCH) >= STYLE_DROPPED).tolist()
        indices = self.training[pick].tolist()
        contexts = [
            self.context("" if no_caption else self.pictures.caption(index, styled))
            for index, styled, no_caption in zip(indices, told, caption_dropped, strict=True)
        ]
        # Without an image, what the text says is all that can be known.
        whole = [
            context if no_image else self.context(self.pictures.caption(index))
            for index, context, no_image in zip(indices, contexts, image_dropped, strict=True)
        ]
        with lower_precision(self.device):
            tokens = self.eye(pixel_values=pixels, intermediate_output=-2)[1]
        return latents.to(self.device), torch.cat(contexts), torch.cat(whole), tokens.float()

    def _context(self, caption: str) -> Tensor:
        return self.clip.encode_from_tokens(self.clip.tokenize(caption)).clone().to(self.device)


def dropped(lot: Tensor) -> tuple[Tensor, Tensor]:
    """Whose image and whose caption is left out, (B,) each, by numbers drawn from 0…1: one, both or the other."""
    alone = IMAGE_DROPPED / 2
    return lot < IMAGE_DROPPED, (lot >= alone) & (lot < alone + CAPTION_DROPPED)


def prediction_loss(adapter, lessons: Lessons, layers: list, process, attend: Callable) -> Tensor:
    """The loss of one batch, v-prediction, with the image prompt in all layers."""
    x0, contexts, whole, seen = lessons.batch()
    t = (1000 * torch.rand(BATCH, device=x0.device).sqrt()).long()  # more of the noise in which a subject is decided
    noise = torch.randn_like(x0)
    alpha, sigma = (c.float().view(-1, 1, 1, 1).to(x0.device) for c in process.coefficients(t))
    noisy, picture = alpha * x0 + sigma * noise, alpha * noise - sigma * x0
    with lower_precision(x0.device):
        override = {"optimized_attention_override": attention_in_float32}
        with torch.no_grad():
            known = lessons.unet(noisy, t.float(), context=whole, transformer_options=override)
        patches = {"patches_replace": {"attn2": attentions_to(adapter, layers, adapter.projection(seen), attend)}}
        v = lessons.unet(noisy, t.float(), context=contexts, transformer_options=override | patches)
    return (v.float() - torch.lerp(known.float(), picture, PICTURE_SHARE)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--device", type=torch.device, default=default_device())
    parser.add_argument("--pictures", type=Path, default=FILE)
    parser.add_argument("--encoder", type=Path, help="the image encoder's weights")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    start_comfyui()
    from comfy.ldm.modules.attention import optimized_attention

    from sid_pack.nodes.demo.image_encoder import WEIGHTS, load_image_encoder
    from sid_pack.nodes.demo.model import load_demo
    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.sid_core.files.tensors import write_tensors
    from sid_pack.sid_core.method.process import VP

    model, clip, vae = load_demo()
    clip_vision = load_image_encoder(args.encoder or WEIGHTS)
    lessons = Lessons(load_pictures(args.pictures), model, clip, vae, clip_vision, args.device)
    torch.manual_seed(0)
    features = clip_vision.model.visual_projection.in_features
    adapter = new_adapter(model, features).to(args.device)
    layers, process = cross_attention_layers(model), VP.stable_diffusion(prediction="v")
    matrices = [weight for name, weight in adapter.named_parameters() if weight.ndim == 2]
    others = [weight for weight in adapter.parameters() if weight.ndim != 2]
    groups = [{"params": others, "lr": LEARNING_RATE}]
    checkpoint = args.out.with_suffix(".training.pt")
    training = TimedTraining(adapter, groups, args.minutes, checkpoint, matrices, MATRICES_LEARNING_RATE)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return attention_in_float32(optimized_attention, q, k, v, heads)

    def save() -> None:
        weights = {name: weight.half().contiguous() for name, weight in file_weights(training.average).items()}
        write_tensors(args.out, weights, {"licence": "Apache-2.0"})

    training.run(lambda: prediction_loss(adapter, lessons, layers, process, attend), save)


if __name__ == "__main__":
    main()
