"""Times to sample at that are not SiD's own: other few-step methods', those written by hand, and those for a picture.

Each is a 1-D tensor of falling times of a process, noisiest first, as `step_times` gives SiD's.
"""

import itertools
import re

import torch
from torch import Tensor

from .process import VP, Process

SID, TRAILING, LCM = "SiD", "DMD2, Lightning, Hyper-SD", "LCM"
METHODS = (SID, TRAILING, LCM)
NEAR = 0.00501  # of the first time, which is half of what a node's denoise goes by: 0.33 means a third
LCM_TIMES = 50  # that LCM's solver was distilled on


def method_times(method: str, steps: int, process: Process) -> Tensor:
    """The times of TRAILING or LCM. Raises ValueError where they have none for this process or number of steps."""
    if not isinstance(process, VP):
        raise ValueError(
            f"Set times to {SID}, or write them in own_times: those of {method} are for models of the SD kind, and "
            "this is a flow model."
        )
    count = len(process.alphas_cumprod)
    most = LCM_TIMES if method == LCM else count
    if not 1 <= steps <= most:
        raise ValueError(f"Set steps to a number from 1 to {most} for the times of {method}; it is {steps}.")
    return lcm_times(steps, count) if method == LCM else trailing_times(steps, count)


def trailing_times(steps: int, count: int = 1000) -> Tensor:
    """T (1 - i/N) - 1 rounded, for i = 0 … N-1 and T = `count`: 999, 749, 499, 249 ("trailing", arXiv 2305.08891).

    What DMD2 (2405.14867), SDXL-Lightning (2402.13929) and Hyper-SD (2404.13686) say to use.
    """
    return (count * (steps - torch.arange(steps, dtype=torch.float64)) / steps).round().long() - 1


def lcm_times(steps: int, count: int = 1000) -> Tensor:
    """Every 50/N-th of LCM's own 50 times, from the last one on: 999, 759, 499, 259 (arXiv 2310.04378)."""
    own = torch.arange(LCM_TIMES, 0, -1) * (count // LCM_TIMES) - 1
    return own[torch.arange(steps) * LCM_TIMES // steps]


def own_times_of(text: str, process: Process) -> Tensor:
    """Times written by hand, such as "999, 749, 499, 249". Raises ValueError unless they fall and are the process's."""
    written = [part for part in re.split(r"[\s,;]+", text) if part]
    low, high = process.first_times(1)
    try:
        times = [float(part) for part in written]
    except ValueError:
        times = []
    falling = all(before > after for before, after in itertools.pairwise(times))
    whole = not isinstance(process, VP) or all(time.is_integer() for time in times)
    if not times or not (falling and whole and all(max(low, 0) <= time <= high and time > 0 for time in times)):
        kind = f"whole times from {high:g} down to {low:g}" if low else f"times from {high:g} down to above 0"
        raise ValueError(f"Write own_times as falling {kind}, with commas between them; it is {text!r:.60}.")
    return process.snap(torch.tensor(times, dtype=torch.float64))


def times_to_change(times: Tensor, denoise: float) -> Tensor:
    """What to run to change a picture: from `denoise` · times[0] on, and then those of `times` that are below.

    A student knows its own times, so these are kept; all of them scaled by `denoise`, as the host's schedulers do it,
    take more steps and leave the picture farther behind for the same small change (dev/LOG.md). denoise 0: none.
    """
    first = denoise * float(times[0])
    near = (times - first).abs() <= NEAR * float(times[0])
    if near.any():
        return times[int(near.nonzero()[0]) :]
    begun = torch.tensor([first] * (denoise > 0), dtype=torch.float64).to(times.dtype)
    return torch.cat([begun, times[times < first]])
