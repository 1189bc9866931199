"""Where in a picture a colour is."""

import numpy as np


def places(panel, colour: str) -> np.ndarray:
    """(N, 2) of x, y of a colour's pixels."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(panel) == wanted).all(2))[:, ::-1]
