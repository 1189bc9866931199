"""Train the demo's image encoder on pictures with their captions, and write `.sid/image_encoder.safetensors`.

    python demo/train_image_encoder.py [--minutes 12] [--device cpu] [--start .sid/image_encoder.safetensors]

As CLIP is trained: of many captions, a picture's embedding is to be nearest to its own. A caption is its words and
its style here, and a third lack the style. Beside that, the tokens of the layer that image prompts take learn to tell
what another network sees in each region of the picture, and the pixels there: so they carry what is where, and how it
is drawn. The embedding learns to tell the regions' mean. A run that is stopped goes on from its last checkpoint, beside
the output file; `--start` trains a finished encoder further.
"""

import argparse
from pathlib import Path

import torch
from host import ROOT, start_comfyui
from image_prompt import preprocessing
from pictures import FILE, STYLES, TRAINING, Pictures, at_sizes, load_pictures, placed, words_of
from regions import GRID, KEPT, load_regions
from torch import Tensor, nn
from training import TimedTraining, attention_in_float32, default_device, initialize, lower_precision

OUT = ROOT / ".sid" / "image_encoder.safetensors"
BATCH = 128
OTHER_CAPTIONS = 1024  # wrong answers beside the batch's own: captions cost next to nothing
LEARNING_RATE = 1.5e-3
STYLE_DROPPED = 1 / 3  # of the captions
PIXELS = 4  # on a side of each patch, that its token is to know
REGIONS_COUNT, PIXELS_COUNT = 1.0, 0.5  # beside the loss of the captions
FIRST_SCALE, LARGEST_SCALE = 14.3, 100.0  # of similarities, as CLIP's
UNTOLD = len(STYLES)  # the style of a caption that has none


class Captions(nn.Module):
    """Embeddings of captions (B, E): the mean of their words' and, where it is told, their style's."""

    def __init__(self, captions: list[str], width: int):
        super().__init__()
        vocabulary = sorted({word for caption in captions for word in words_of(caption)})
        index = {word: number for number, word in enumerate(vocabulary)}
        self.known = [torch.tensor([index[word] for word in words_of(caption)]) for caption in captions]
        self.words = nn.EmbeddingBag(len(vocabulary), width, mode="mean")
        self.styles = nn.Embedding(len(STYLES) + 1, width)  # the last: UNTOLD
        self.project = nn.Linear(width, width)

    def forward(self, subjects: Tensor, styles: Tensor) -> Tensor:
        bags = [self.known[subject] for subject in subjects.tolist()]
        starts = torch.tensor([0, *(len(bag) for bag in bags)]).cumsum(0)[:-1]
        words = self.words(torch.cat(bags).to(subjects.device), starts.to(subjects.device))
        return self.project(words + self.styles(styles))


class Learner(nn.Module):
    """The image encoder with what only its training needs."""

    def __init__(self, encoder: nn.Module, captions: list[str]):
        super().__init__()
        self.encoder = encoder
        embeddings = encoder.vision_model.embeddings
        width, embedded = embeddings.class_embedding.shape[0], encoder.visual_projection.out_features
        self.captions = Captions(captions, embedded)
        self.regions = nn.Linear(width, KEPT)
        self.whole = nn.Linear(embedded, KEPT)
        self.pixels = nn.Linear(width, 3 * PIXELS * PIXELS)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())
        initialize(self)
        nn.init.normal_(self.captions.words.weight, std=0.5)
        nn.init.normal_(self.captions.styles.weight, std=0.5)
        nn.init.normal_(embeddings.class_embedding, std=0.02)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.02)
        self.float().requires_grad_(True)


def seen(encoder: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(last but one layer's tokens (B, 1 + P, C), embeddings (B, E)) of preprocessed pixels, as ComfyUI has them.

    Its own forward adds in place, which leaves the backward without what it needs.
    """
    vision = encoder.vision_model
    tokens, hidden = vision.pre_layrnorm(vision.embeddings(pixels)), []
    for layer in vision.encoder.layers:
        tokens = tokens + layer.self_attn(layer.layer_norm1(tokens), None, attention)
        tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        hidden.append(tokens)
    return hidden[-2], encoder.visual_projection(vision.post_layernorm(tokens[:, 0]))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: None) -> Tensor:
    def apply(*tokens: Tensor) -> Tensor:
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in tokens)
        return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    return attention_in_float32(apply, q, k, v)


def caption_loss(similar: Tensor, subjects: Tensor, styles: Tensor, told: Tensor) -> Tensor:
    """InfoNCE both ways. A caption that is true of another picture as well is no wrong answer there.

    similar: (B, T), of pictures to captions, whose first B are the pictures' own. subjects, styles: of the captions'
    pictures, (T,). told: the styles as the captions have them, UNTOLD or true.
    """
    batch = len(similar)
    true = (subjects[:batch, None] == subjects) & ((styles[:batch, None] == told) | (told == UNTOLD))
    own = torch.arange(batch, device=similar.device)
    true[own, own] = False
    similar = similar.masked_fill(true, float("-inf"))
    to_pictures = nn.functional.cross_entropy(similar[:, :batch].mT, own)
    return (nn.functional.cross_entropy(similar, own) + to_pictures) / 2


def similarities(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines of embeddings (B, E) with embeddings (T, E): (B, T)."""
    return nn.functional.normalize(images.float()) @ nn.functional.normalize(texts.float()).mT


class Lessons:
    """Batches of training pictures and what is to be learnt from them."""

    def __init__(self, pictures: Pictures, learner: Learner, preprocess, device: torch.device):
        training = pictures.where(TRAINING)
        self.learner, self.preprocess, self.device = learner, preprocess, device
        self.canvases = at_sizes(pictures.images[training].movedim(-1, 1)).to(device)
        self.subjects, self.styles = (of[training].long().to(device) for of in (pictures.subjects, pictures.styles))
        self.regions = load_regions(pictures, device).to(device)
        self.whole = self.regions.float().mean(1)
        self.whole /= self.whole.std()

    def loss(self) -> Tensor:
        """One batch's. Half of the pictures are as they are, as regions of the others are elsewhere."""
        pick = torch.randint(len(self.subjects), (BATCH + OTHER_CAPTIONS,), device=self.device)
        plain, moved = pick[:BATCH].chunk(2)
        pictures = torch.cat([self.canvases[-1, plain].float() / 255, placed(self.canvases, moved)])
        subjects, styles = self.subjects[pick], self.styles[pick]
        told = styles.where(torch.rand(len(pick), device=self.device) >= STYLE_DROPPED, UNTOLD)
        learner = self.learner
        with lower_precision(self.device):
            hidden, embeds = seen(learner.encoder, self.preprocess(pictures))
            texts = learner.captions(subjects, told)
            patches = hidden[:, 1:]
            in_regions = learner.regions(pooled(patches[: len(plain)]))
            pixels = learner.pixels(patches)
            in_all = learner.whole(embeds)
        of_regions = (in_regions.float() - self.regions[plain].float()).square().mean()
        of_whole = (in_all.float() - self.whole[pick[:BATCH]]).square().mean()
        of_pixels = (pixels.float() - shrunk(pictures)).square().mean()
        scale = learner.log_scale.exp().clamp(max=LARGEST_SCALE)
        of_captions = caption_loss(scale * similarities(embeds, texts), subjects, styles, told)
        return of_captions + REGIONS_COUNT * (of_regions + of_whole) + PIXELS_COUNT * of_pixels


def pooled(patches: Tensor) -> Tensor:
    """Patches' tokens (B, 64, C), row by row → their means in GRID x GRID regions (B, 16, C)."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.mT.unflatten(-1, (side, side))
    return nn.functional.avg_pool2d(grid, side // GRID).flatten(2).mT


def shrunk(pictures: Tensor) -> Tensor:
    """What pixels a patch has: (B, 3, 64, 64) in [0, 1] → (B, 64, 3·PIXELS²), of about mean 0 and variance 1."""
    patch = 8
    small = nn.functional.avg_pool2d(pictures, patch // PIXELS)
    return nn.functional.unfold(small, PIXELS, stride=PIXELS).mT * 4 - 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--device", type=torch.device, default=default_device())
    parser.add_argument("--pictures", type=Path, default=FILE)
    parser.add_argument("--start", type=Path, help="an encoder to begin with instead of random weights")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    start_comfyui()
    from sid_pack.nodes.demo.image_encoder import build_image_encoder
    from sid_pack.sid_core.files.tensors import read_tensors, write_tensors

    pictures = load_pictures(args.pictures)
    torch.manual_seed(0)
    encoder = build_image_encoder()
    learner = Learner(encoder.model, pictures.captions).to(args.device)
    if args.start:
        learner.encoder.load_state_dict(read_tensors(args.start)[0])
    lessons = Lessons(pictures, learner, preprocessing(encoder), args.device)
    groups = [{"params": list(learner.parameters()), "lr": LEARNING_RATE}]
    training = TimedTraining(learner, groups, args.minutes, args.out.with_suffix(".training.pt"))

    def save() -> None:
        weights = {name: weight.half() for name, weight in training.average.encoder.state_dict().items()}
        write_tensors(args.out, weights, {"licence": "Apache-2.0"})

    training.run(lessons.loss, save)


if __name__ == "__main__":
    main()
