"""How long a distillation says that it will take."""

import itertools

import pytest


@pytest.fixture
def told(comfyui, monkeypatch):
    """(seconds of each iteration, first) → what is told to the browser after the last, of 1,000 iterations."""
    from sid_pack.nodes.training import progress

    def tell(seconds: list[float], first: int = 0) -> dict:
        clock = itertools.accumulate([0.0, *seconds])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        found = progress.TrainingProgress(1000, 16, None, "run")
        monkeypatch.setattr(found, "_say", lambda text, last: None)
        found.begin(first)
        for i in range(len(seconds)):
            found.update(first + 1 + i, "")
        return found.numbers

    return tell


def test_the_first_iteration_counts_only_while_there_is_no_other(told):
    assert told([60.0])["left_s"] == pytest.approx(60 * 999)
    assert told([60.0, 2.0])["left_s"] == pytest.approx(2 * 998)
    assert told([60.0, 2.0, 4.0])["iteration_s"] == pytest.approx(3)
    assert told([60.0, 2.0, 4.0], first=400)["left_s"] == pytest.approx(3 * 597)


def test_the_rate_is_that_of_the_last_iterations(told):
    from sid_pack.nodes.training.progress import RECENT

    numbers = told([2.0] * 300 + [0.5] * RECENT)
    assert numbers["iteration_s"] == pytest.approx(0.5) and numbers["rate"] == pytest.approx(32)
    assert told([2.0] * 300 + [0.5] * (RECENT - 1) + [RECENT * 0.5])["iteration_s"] == pytest.approx(0.99)
