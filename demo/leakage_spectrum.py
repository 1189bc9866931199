"""Where a style picture's subject and style sit: singular component by singular component of an image prompt's tokens.

CleanStyle keeps the first singular values of a layer's keys and values and takes out the others, as content. Whether
that is so for an adapter shows on pictures of the same subjects in the same styles: of the variance of one component
over them, how much is between styles, and how much between subjects.
"""

from collections.abc import Iterator

import torch
from pictures import STYLES, Pictures
from torch import Tensor

GRID_STYLES = ("shaded", "retro", "flat", "modern", "inked", "glossy", "woodcut")  # that all subjects have
GRID_SUBJECTS = 40
COMPONENTS = ((0, 1), (1, 4), (4, 16))
KINDS = {"k": "keys", "v": "values"}
TITLES = ("layer", "singular values", "σ", "energy", "between styles", "between subjects", "style told", "subject told")


def grid_of(pictures: Pictures, styles: tuple[str, ...] = GRID_STYLES, subjects: int = GRID_SUBJECTS) -> Tensor:
    """Indices (S, T) of real pictures: so many subjects, the same every time, each in all of these styles."""
    chosen = pictures.grid()[[STYLES.index(style) for style in styles]]
    complete = (chosen >= 0).all(0).nonzero()[:, 0]
    order = torch.randperm(len(complete), generator=torch.Generator().manual_seed(0))
    return chosen[:, complete[order[:subjects]]]


def shares(x: Tensor) -> tuple[float, float]:
    """Of the variance of x (S, T, …), S styles of T subjects, that between styles and that between subjects.

    The two-way analysis of variance (Fisher 1925): squared deviations of the row and column means from the mean of all,
    as shares of all squared deviations. Of x that knows neither they are (S - 1) / (S T - 1) and (T - 1) / (S T - 1).
    """
    x = x.double().flatten(2)
    x = x - x.mean((0, 1))
    total = x.square().mean((0, 1)).sum()
    return tuple((x.mean(axis).square().mean(0).sum() / total).item() for axis in (1, 0))


def told(x: Tensor) -> tuple[float, float]:
    """How often the nearest picture of another subject is of the same style, once each subject's mean is taken off; and
    the nearest of another style of the same subject, once each style's is. x: (S, T, …). By chance 1 / S and 1 / T."""
    x = x.double().flatten(2)
    style, subject = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, x.shape[:2]), indexing="ij"))

    def share(x: Tensor, of: Tensor, other: Tensor) -> float:
        apart = torch.cdist(*[x.flatten(0, 1)] * 2).masked_fill(other[:, None] == other, torch.inf)
        return (of[apart.argmin(1)] == of).double().mean().item()

    return share(x - x.mean(0), style, subject), share(x - x.mean(1, keepdim=True), subject, style)


def spectrum_table(pictures: Pictures) -> Iterator[str]:
    """Markdown, a row for each group of components of each layer's keys and values. Needs ComfyUI."""
    from image_prompt import ADAPTER, image_tokens, prompted

    from sid_pack.nodes.cleanstyle.model import clean, spectra
    from sid_pack.nodes.cleanstyle.purify import OFF, Settings
    from sid_pack.nodes.demo.image_encoder import load_image_encoder
    from sid_pack.nodes.demo.model import load_demo
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    grid = grid_of(pictures)
    adapter = load_adapter(ADAPTER)
    tokens = image_tokens(adapter, load_image_encoder(), pictures.image(grid.flatten()))
    model = clean(prompted(load_demo()[0], adapter, tokens, 1.0), Settings(style_negative=OFF))
    styles, subjects = grid.shape
    yield f"{subjects} subjects, each in {styles} styles. By chance: " + ", ".join(
        f"{name} {value:.3f}"
        for name, value in zip(
            TITLES[4:],
            ((styles - 1) / (grid.numel() - 1), (subjects - 1) / (grid.numel() - 1), 1 / styles, 1 / subjects),
            strict=True,
        )
    )
    yield from ("", f"| {' | '.join(TITLES)} |", f"|:--|:--|{'--:|' * (len(TITLES) - 2)}")
    for found in spectra(model, grid.numel()):
        for first, end in COMPONENTS:
            yield f"| {found.layer.name}, {KINDS[found.which]} | {row_of(found.spectrum, first, end, grid.shape)} |"


def row_of(spectrum, first: int, end: int, shape: torch.Size) -> str:
    """Of singular values number `first` to before `end` of a `Spectrum` of S·T pictures. shape: (S, T)."""
    values = spectrum.singular_values
    gains = torch.zeros_like(values)
    gains[:, first:end] = 1
    part = spectrum.scaled(gains).unflatten(0, shape)
    numbers = (values[:, first:end].mean(), spectrum.kept(gains).mean(), *shares(part), *told(part))
    which = f"{first + 1}" if end == first + 1 else f"{first + 1} to {end}"
    return " | ".join((which, f"{numbers[0]:.2f}", *(f"{number:.3f}" for number in numbers[1:])))
