"""What the view of CleanStyle in the browser (web/cleanstyle.js) draws singular values from."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from .spectra import LayerSpectrum

DIGITS = 4
MOST = 64  # lists of singular values: a browser is not sent more, nor does a person look at more


def view(found: Iterable[LayerSpectrum], picture: int = 1, steps: Sequence[float] | None = None) -> dict[str, list]:
    """For a node's `ui`: the layers with their singular values, for the picture of that number (from 1).

    steps: the run's, as progress; None where they are not known.
    """
    found = list(found)
    found = found[:: -(-len(found) // MOST) | 1]  # odd, for keys and values take turns
    settings = list(dict.fromkeys(layer.settings for layer in found))
    layers = [
        {"name": layer.name, "values": _values(layer, picture), "settings": settings.index(layer.settings)}
        for layer in found
    ]
    return {"cleanstyle": [{"steps": steps, "layers": layers, "settings": [asdict(each) for each in settings]}]}


def _values(layer: LayerSpectrum, picture: int) -> list[float]:
    values = layer.spectrum.singular_values
    row = min(picture, len(values)) - 1  # the pictures of a batch may share the last one
    return [float(f"{value:.{DIGITS}g}") for value in values[row].tolist()]
