"""The leakage protocol: does a picture show the subject of its style picture instead of the one it was asked for?

- A *pair* is a subject to draw, told without a style, and a real picture of another subject in one of the nine styles.
  The style picture is one that was held out of all training, and where a style has too few of these one of the rest.
- The *judge* names subjects: discriminants of EfficientNet-lite0 features, fitted to the real pictures in all styles
  but those set aside for style pictures. Subjects are such as the teacher draws so that the judge names them, and style
  pictures such whose own subject it names.
- *Leakage*, three times: the share of pictures in which the style picture's subject is the first that the judge names;
  is among its first ten; is named before the prompt's. R@10 is how often the prompt's is among its first ten.
- *Style* is the probability that the demo protocol's probe gives to the style picture's style; *style named* is how
  often that is the likeliest. *Layout* is the cosine between the 16x16 pixels of picture and style picture, each less
  what the pairs of that style have in common: 0 for pictures that have nothing to do with each other.
- An adapter can always leak less by doing less. What counts is the leakage *at equal style*: against that of the plain
  adapter at the weight where it has the same style, interpolated between the weights measured.
"""

from dataclasses import dataclass, fields

import torch
from host import load_pack
from pictures import HELD_OUT_PAIR, TRAINING
from torch import Tensor
from torch.nn.functional import interpolate, normalize

load_pack()
# The pack has this name only once it is loaded.
from sid_pack.sid_core.evaluation.discriminant import Discriminant, fit_discriminant  # noqa: E402
from sid_pack.sid_core.evaluation.linear import LinearProbe  # noqa: E402

SHRINKAGE = 0.03
AMONG = 10
NAMEABLE_AMONG = 3  # of the judge's answers, for what is to be a subject of a pair
SET_ASIDE = 120  # pictures of each style at least that the judge is not fitted to
LAYOUT_SIDE = 16
TOO_ALIKE = 0.4  # cosine between captions as the reference has them: "dog" and "cat" 0.55, "dog" and "horse" 0.40
RESAMPLES = 1000


def set_aside(styles: Tensor, held_out: Tensor, fewest: int = SET_ASIDE) -> Tensor:
    """Which pictures may be style pictures, (N,) bool, the same every time: those HELD_OUT_PAIR.

    In a style that has fewer, random pictures that were trained with as well. styles, held_out: as `Pictures` has them.
    """
    generator = torch.Generator().manual_seed(0)
    aside = held_out == HELD_OUT_PAIR
    for style in styles.unique():
        mine = styles == style
        trained = (mine & (held_out == TRAINING)).nonzero()[:, 0]
        order = torch.randperm(len(trained), generator=generator)
        aside[trained[order[: max(0, fewest - int((mine & aside).sum()))]]] = True
    return aside


@dataclass(frozen=True)
class Pairs:
    """(P,) each: the subject to draw; the style picture among the real ones, its subject and its style."""

    prompts: Tensor
    pictures: Tensor
    shown: Tensor
    styles: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


def choose_pairs(
    candidates: Tensor, subjects: Tensor, styles: Tensor, pool: Tensor, embeddings: Tensor, each: int
) -> Pairs:
    """`each` pairs of every style, the same ones every time.

    candidates: indices (M,) of pictures to be style pictures, the earlier preferred to the later. subjects, styles: of
    all pictures, (N,). pool: (K,), subjects to choose from. embeddings: (S, E) of the captions. A prompt is one of
    which there is a real picture in that style too. Raises ValueError where a style has too few candidates.
    """
    generator = torch.Generator().manual_seed(0)
    directions = normalize(embeddings, dim=1)
    prompts, pictures = [], []
    candidates = candidates[torch.isin(subjects[candidates], pool)]
    for style in styles.unique().tolist():
        of_style = candidates[styles[candidates] == style][:each]
        if len(of_style) < each:
            raise ValueError(f"style {style} has {len(of_style)} pictures of these subjects, {each} are needed")
        in_style = pool[torch.isin(pool, subjects[styles == style])]
        for picture in of_style.tolist():
            alike = directions[in_style] @ directions[subjects[picture]] > TOO_ALIKE
            others = in_style[~alike & (in_style != subjects[picture])]
            prompts.append(others[torch.randint(len(others), (), generator=generator)].item())
            pictures.append(picture)
    pictures = torch.tensor(pictures)
    return Pairs(torch.tensor(prompts), pictures, subjects[pictures], styles[pictures])


@dataclass(frozen=True)
class Measured:
    """What is compared of P pictures: features of subjects (P, D) and of strokes (P, V), and pixels (P, 3, 16, 16)."""

    subject: Tensor
    strokes: Tensor
    pixels: Tensor


def layout(images: Tensor) -> Tensor:
    """(P, H, W, 3) → (P, 3, 16, 16)."""
    return interpolate(images.movedim(-1, 1), size=(LAYOUT_SIDE, LAYOUT_SIDE), mode="area")


def likeness_within(pictures: Tensor, others: Tensor, styles: Tensor) -> Tensor:
    """Cosine of each of `pictures` (P, …) with its own of `others` (P, …), → (P,).

    From both is taken what they have in common within a style.
    """
    likeness = torch.empty(len(styles)).double()
    for style in styles.unique():
        mine = styles == style
        a, b = (x[mine].double().flatten(1) for x in (pictures, others))
        likeness[mine] = (normalize(a - a.mean(0), dim=1) * normalize(b - b.mean(0), dim=1)).sum(1)
    return likeness


@dataclass(frozen=True)
class Scores:
    """Of each picture (P,), in double precision; a table has their means."""

    first: Tensor
    named: Tensor
    nearer: Tensor
    prompt: Tensor
    style: Tensor
    style_named: Tensor
    layout: Tensor

    def mean(self, name: str) -> float:
        return getattr(self, name).mean().item()

    def error(self, name: str) -> float:
        """Standard error of the mean over pairs."""
        values = getattr(self, name)
        return (values.std() / len(values) ** 0.5).item()

    @staticmethod
    def joined(parts: "list[Scores]") -> "Scores":
        """Of several drawings of the same pairs: their means, pair by pair."""
        return Scores(*(torch.stack([getattr(part, f.name) for part in parts]).mean(0) for f in fields(Scores)))


class Judges:
    """Who names a picture's subject, and who its style."""

    def __init__(self, features: Tensor, subjects: Tensor, probe: LinearProbe):
        """features (N, D): of real pictures of subjects (N,). probe: names styles by strokes."""
        self.subjects: Discriminant = fit_discriminant(features, subjects, SHRINKAGE)
        self.probe = probe

    def score(self, pairs: Pairs, drawn: Measured, shown: Measured) -> Scores:
        """Of the pictures drawn for the pairs, whose style pictures are `shown`."""
        of_shown, of_prompt = (self.subjects.ranks(drawn.subject, which) for which in (pairs.shown, pairs.prompts))
        return Scores(
            first=(of_shown == 1).double(),
            named=(of_shown <= AMONG).double(),
            nearer=(of_shown < of_prompt).double(),
            prompt=(of_prompt <= AMONG).double(),
            style=self.probe(drawn.strokes).softmax(1).gather(1, pairs.styles[:, None])[:, 0],
            style_named=(self.probe.answers(drawn.strokes) == pairs.styles).double(),
            layout=likeness_within(drawn.pixels, shown.pixels, pairs.styles),
        )


@dataclass(frozen=True)
class AtEqualStyle:
    """What the plain adapter of the same style has, how a setting differs from it, and that difference's standard
    error over pairs.

    NaN where no weight that was measured has this style; the error too where that is so for most drawings of the pairs.
    """

    plain: float
    difference: float
    error: float


def at_equal_style(scores: Scores, plain: list[Scores], name: str) -> AtEqualStyle:
    """`scores`' mean of the field `name`, against what the plain adapter has where it is of the same style.

    plain: the same pairs at several weights. The error is by drawing the pairs anew, all settings together.
    """
    pairs = len(scores.style)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(pairs, (RESAMPLES, pairs), generator=generator)
    everything = torch.cat([torch.arange(pairs)[None], drawn])
    styles = torch.stack([curve.style[everything].mean(1) for curve in plain], 1)
    values = torch.stack([getattr(curve, name)[everything].mean(1) for curve in plain], 1)
    own, style = getattr(scores, name)[everything].mean(1), scores.style[everything].mean(1)
    expected = interpolated(style, styles, values)
    differences = own - expected
    spread = differences[1:][differences[1:].isfinite()]
    error = spread.std().item() if len(spread) > RESAMPLES // 2 else float("nan")
    return AtEqualStyle(expected[0].item(), differences[0].item(), error)


def interpolated(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Row by row the straight line between the points (xs, ys), each (R, K) in any order, at x (R,); NaN outside."""
    xs, order = xs.sort(1)
    ys = ys.gather(1, order)
    right = torch.searchsorted(xs, x[:, None]).clamp(1, xs.shape[1] - 1)
    x0, x1, y0, y1 = (v.gather(1, at)[:, 0] for v, at in ((xs, right - 1), (xs, right), (ys, right - 1), (ys, right)))
    inside = (xs[:, 0] <= x) & (x <= xs[:, -1])
    share = torch.where(x1 > x0, (x - x0) / (x1 - x0).clamp(min=torch.finfo(x.dtype).tiny), 0.0)
    return torch.where(inside, y0 + share * (y1 - y0), torch.nan)
