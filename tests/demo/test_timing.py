"""How long the demo says that something takes."""

import importlib.util
import time

from headless_runs import ROOT


def load():
    spec = importlib.util.spec_from_file_location("sid_demo_timing", ROOT / "demo" / "timing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_times_are_rounded_to_what_an_estimate_is_worth():
    in_words = load().in_words
    assert [in_words(s) for s in (0, 7, 41, 89)] == ["about 5 s", "about 5 s", "about 40 s", "about 90 s"]
    assert [in_words(s) for s in (91, 240, 3600)] == ["about 2 min", "about 4 min", "about 60 min"]


def test_a_silent_step_is_heard_of_until_it_ends(monkeypatch):
    timing, said = load(), []
    monkeypatch.setattr(timing, "NEWS_S", 0.05)
    with timing.Ticker(said.append, "drawing", 0.12):
        time.sleep(0.3)
    heard = len(said)
    assert heard >= 3
    assert said[0].endswith("0 s so far, about 5 s left") and said[-1].endswith("longer than expected")
    time.sleep(0.15)
    assert len(said) == heard
