"""The leakage protocol: does a picture show the subject of its style image instead of the one it was asked for?

- A *pair* is a subject to draw (the prompt) and a picture of another subject in some style (the style image), one that
  the image prompt was not trained on. Both subjects are among those that the model draws recognizably without an image.
- The *judge* names subjects: a linear map from EfficientNet-lite0 features to sentence embeddings of captions, fitted
  to the grid's pictures in all styles, so that it knows a subject in any of them. *Leakage* is the share of pictures
  that it finds nearer to the style image's subject than to the prompt's; R@10 of both, among all the grid's subjects,
  says whether the picture shows either.
- A picture can lose the one subject without showing the other, and hint at a subject that no judge would name. So two
  more, each among pictures of one style, less what these have in common: *told* is the share of pictures whose own
  style image is, by the features, the likest of all that the style has here; *layout* is the cosine between the
  picture's 16x16 pixels and its style image's. By chance they are one in `each` pairs, and 0.
- *Style* is the cosine between style vectors of a network for painting (centred on all styles' mean) of the picture and
  of the style: its other pictures' mean, in which no subject is left; also of the style image itself.
- An adapter can always leak less by doing less. What counts is the leakage *at equal style*: against that of the plain
  adapter at the weight where it has the same style, interpolated between the weights measured.
"""

from dataclasses import dataclass, fields

import torch
from host import load_pack
from torch import Tensor
from torch.nn.functional import normalize

load_pack()
# The pack has this name only once it is loaded.
from sid_pack.sid_core.evaluation.linear import ridge_map  # noqa: E402
from sid_pack.sid_core.evaluation.neighbours import recall_at  # noqa: E402

RIDGE_PENALTY = 3e3
RECALL_AT = 10
LAYOUT_SIDE = 16
TOO_ALIKE = 0.5  # cosine between two captions' embeddings: "dog" and "dog face" are 0.8, "dog" and "sheep" 0.4
RESAMPLES = 1000


@dataclass(frozen=True)
class Pairs:
    """Indices (P,) into the grid: subject to draw, subject of the style image, and its style."""

    prompts: Tensor
    shown: Tensor
    styles: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


def choose_pairs(unseen: Tensor, pool: Tensor, styles: list[int], each: int, embeddings: Tensor) -> Pairs:
    """`each` pairs for every one of `styles`, the same ones every time.

    unseen: (S, N), pictures that may be style images. pool: (M,), subjects to choose from. embeddings: (N, E) of the
    captions. Raises ValueError where a style has too few such pictures.
    """
    generator = torch.Generator().manual_seed(0)
    alike = normalize(embeddings, dim=1) @ normalize(embeddings, dim=1).T > TOO_ALIKE
    prompts, shown = [], []
    for style in styles:
        candidates = pool[unseen[style, pool]]
        if len(candidates) < each:
            raise ValueError(
                f"style {style} has {len(candidates)} unseen pictures of these subjects, {each} are needed"
            )
        for subject in candidates[torch.randperm(len(candidates), generator=generator)[:each]].tolist():
            others = pool[~alike[subject, pool]]
            prompts.append(others[torch.randint(len(others), (), generator=generator)].item())
            shown.append(subject)
    return Pairs(torch.tensor(prompts), torch.tensor(shown), torch.tensor(styles).repeat_interleave(each))


class Judge:
    """Which of the grid's subjects a picture shows. features: (S, N, D), fit: (S, N) those to learn from."""

    def __init__(self, features: Tensor, fit: Tensor, embeddings: Tensor):
        _, subjects = fit.nonzero(as_tuple=True)
        self.map = ridge_map(features[fit], embeddings[subjects], RIDGE_PENALTY)
        self.candidates = embeddings.double() - self.map.y_mean

    def likeness(self, features: Tensor) -> Tensor:
        """Cosine similarity of pictures (B, D) to all subjects (B, N)."""
        return normalize(self.map(features) - self.map.y_mean, dim=1) @ normalize(self.candidates, dim=1).T

    def finds(self, features: Tensor, subjects: Tensor, k: int = RECALL_AT) -> Tensor:
        """Whether a picture's subject (B,) is among the k that it is most like: (B,) bool."""
        return recall_at(self.map(features) - self.map.y_mean, subjects, self.candidates, k)

    def nearer(self, features: Tensor, subjects: Tensor, others: Tensor) -> Tensor:
        """Whether a picture is more like `others` (B,) than like `subjects` (B,): (B,) bool."""
        likeness, rows = self.likeness(features), torch.arange(len(features))
        return likeness[rows, others] > likeness[rows, subjects]


class StyleSpace:
    """Styles by the mean vectors of their pictures. vectors: (S, M, V), M pictures of each style."""

    def __init__(self, vectors: Tensor):
        means = vectors.double().mean(1)
        self.centre = means.mean(0)
        self.styles = means - self.centre

    def likeness(self, vectors: Tensor) -> Tensor:
        """Cosine similarity, after centring, of pictures (B, V) to all styles (B, S)."""
        return normalize(vectors.double() - self.centre, dim=1) @ normalize(self.styles, dim=1).T

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine similarity, after centring, of pictures (B, V) to other pictures (B, V), one by one."""
        return (normalize(a.double() - self.centre, dim=1) * normalize(b.double() - self.centre, dim=1)).sum(1)


@dataclass(frozen=True)
class Scores:
    """Of each picture (P,), in double precision; a table has their means."""

    leaks: Tensor
    finds_prompt: Tensor
    finds_shown: Tensor
    told: Tensor
    layout: Tensor
    style: Tensor
    style_image: Tensor

    def mean(self, name: str) -> float:
        return getattr(self, name).mean().item()

    @staticmethod
    def joined(parts: "list[Scores]") -> "Scores":
        """Of several drawings of the same pairs: their means, pair by pair."""
        return Scores(*(torch.stack([getattr(part, f.name) for part in parts]).mean(0) for f in fields(Scores)))


@dataclass(frozen=True)
class Measured:
    """What is compared of pictures: features (P, D), style vectors (P, V), and pixels (P, 3, 16, 16)."""

    features: Tensor
    vectors: Tensor
    pixels: Tensor


def layout(images: Tensor) -> Tensor:
    """(P, H, W, 3) → (P, 3, 16, 16)."""
    return torch.nn.functional.interpolate(images.movedim(-1, 1), size=(LAYOUT_SIDE, LAYOUT_SIDE), mode="area")


def among_a_style(pictures: Tensor, others: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of each of `pictures` (P, …) with its own of `others` (P, …), and whether no other of its style is liker.

    From both is taken what they have in common within a style. → (P,), (P,) bool.
    """
    likeness, own_is_likest = torch.empty(len(styles)).double(), torch.empty(len(styles), dtype=torch.bool)
    for style in styles.unique():
        mine = styles == style
        a, b = (x[mine].double().flatten(1) for x in (pictures, others))
        cosine = normalize(a - a.mean(0), dim=1) @ normalize(b - b.mean(0), dim=1).T
        likeness[mine] = cosine.diagonal()
        own_is_likest[mine] = cosine.argmax(1) == torch.arange(len(cosine))
    return likeness, own_is_likest


def score(judge: Judge, space: StyleSpace, pairs: Pairs, drawn: Measured, shown: Measured) -> Scores:
    """Of the pictures drawn for the pairs, with these style images."""
    _, told = among_a_style(drawn.features, shown.features, pairs.styles)
    same_layout, _ = among_a_style(drawn.pixels, shown.pixels, pairs.styles)
    return Scores(
        leaks=judge.nearer(drawn.features, pairs.prompts, pairs.shown).double(),
        finds_prompt=judge.finds(drawn.features, pairs.prompts).double(),
        finds_shown=judge.finds(drawn.features, pairs.shown).double(),
        told=told.double(),
        layout=same_layout,
        style=space.likeness(drawn.vectors)[torch.arange(len(pairs)), pairs.styles],
        style_image=space.between(drawn.vectors, shown.vectors),
    )


@dataclass(frozen=True)
class AtEqualStyle:
    """How a setting differs from the plain adapter of the same style, and the standard error over pairs.

    NaN where no weight that was measured has this style.
    """

    difference: float
    error: float


def at_equal_style(scores: Scores, plain: list[Scores], name: str) -> AtEqualStyle:
    """`scores`' mean of the field `name`, less what the plain adapter has where it is of the same style.

    plain: the same pairs at several weights. The error is by drawing the pairs anew, all settings together.
    """
    pairs = len(scores.style)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(pairs, (RESAMPLES, pairs), generator=generator)
    everything = torch.cat([torch.arange(pairs)[None], drawn])
    styles = torch.stack([curve.style[everything].mean(1) for curve in plain], 1)
    values = torch.stack([getattr(curve, name)[everything].mean(1) for curve in plain], 1)
    own, style = getattr(scores, name)[everything].mean(1), scores.style[everything].mean(1)
    differences = own - interpolated(style, styles, values)
    spread = differences[1:][differences[1:].isfinite()]
    return AtEqualStyle(differences[0].item(), spread.std().item() if len(spread) > RESAMPLES // 2 else float("nan"))


def interpolated(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Row by row the straight line between the points (xs, ys), each (R, K) in any order, at x (R,); NaN outside."""
    xs, order = xs.sort(1)
    ys = ys.gather(1, order)
    right = torch.searchsorted(xs, x[:, None]).clamp(1, xs.shape[1] - 1)
    x0, x1, y0, y1 = (v.gather(1, at)[:, 0] for v, at in ((xs, right - 1), (xs, right), (ys, right - 1), (ys, right)))
    inside = (xs[:, 0] <= x) & (x <= xs[:, -1])
    share = torch.where(x1 > x0, (x - x0) / (x1 - x0).clamp(min=torch.finfo(x.dtype).tiny), 0.0)
    return torch.where(inside, y0 + share * (y1 - y0), torch.nan)
