"""Leakage's settings are such as the nodes take, and its file of results grows, is gone on with, and makes tables."""

import json
import re
from dataclasses import fields, replace

import pytest
import torch

OF = {"teacher.safetensors": "a1", "seeds": [0, 3]}


def scores(style: float, first: float, pairs: int = 6):
    from leakage_protocol import Scores

    values = {field.name: torch.full((pairs,), 0.5).double() for field in fields(Scores)}
    return Scores(
        **values | {"style": torch.full((pairs,), style).double(), "first": torch.full((pairs,), first).double()}
    )


def test_every_trial_is_one_that_the_node_takes(comfyui):
    """by the schema of its widgets; centre and blocks too"""
    from leakage_trials import PARTS, all_trials

    from sid_pack.nodes.cleanstyle.model import CleanStyle
    from sid_pack.nodes.cleanstyle.purify import Settings

    widgets = {widget.id: widget for widget in CleanStyle.define_schema().inputs}
    called = {"relative": "normalize"}
    for trial in all_trials():
        assert trial.put_in in ("", *PARTS) and trial.cleaned_in in ("", *PARTS)
        for name, value in (trial.clean or {}).items():
            assert hasattr(Settings(), name)
            widget = widgets[called.get(name, name)]
            if name == "style_negative":
                assert value in widget.options
            elif name != "relative":
                assert widget.min <= value <= widget.max


def test_no_two_trials_are_the_same_or_called_the_same():
    from leakage_trials import all_trials

    trials = all_trials()
    keys = [json.dumps(trial.key, sort_keys=True) for trial in trials]
    titles = [(trial.draw.title, trial.title) for trial in trials]
    assert len(set(keys)) == len(set(titles)) == len(trials)


@pytest.mark.parametrize("weight", [0.6, 0.7])
def test_settings_are_swept_at_the_weight_that_is_asked_for_and_it_is_on_every_curve(weight):
    from leakage_trials import SAMPLERS, all_trials, sheet_trials

    trials = all_trials(weight)
    for draw in SAMPLERS:
        mine = [trial for trial in trials if trial.draw == draw]
        assert weight in {trial.weight for trial in mine if trial.is_plain}
        assert {weight} < {trial.weight for trial in mine}
    assert {trial.weight for trial in sheet_trials(weight)} == {0.0, weight}


def test_a_row_is_found_again_in_a_file_that_is_read_again(tmp_path):
    from leakage_results import Results
    from leakage_trials import all_trials

    trials = all_trials()
    results = Results(tmp_path / "deep" / "r.json", OF)
    for number, trial in enumerate(trials):
        results.add(trial, scores(0.5, number / 1000))
    again = Results(tmp_path / "deep" / "r.json", OF)
    assert [round(again.scores_of(trial).mean("first") * 1000) for trial in trials] == list(range(len(trials)))
    assert again.scores_of(replace(trials[5], weight=0.123)) is None
    assert again.scores_of(replace(trials[-1], clean=trials[-1].clean | {"top_k": 7})) is None


def test_a_file_that_was_measured_with_other_weights_is_refused(tmp_path):
    from leakage_results import Results

    Results(tmp_path / "r.json", OF).save()
    assert Results(tmp_path / "r.json").kept["of"] == OF  # a report asks for none
    with pytest.raises(ValueError, match="Give another file to --json.*measured with other teacher.safetensors, steps"):
        Results(tmp_path / "r.json", OF | {"teacher.safetensors": "b2", "steps": 4})


def test_the_tables_compare_with_the_plain_image_prompt_of_the_same_sampler(tmp_path):
    from leakage_results import Results
    from leakage_trials import STUDENT, TEACHER, Trial, svd

    results = Results(tmp_path / "r.json", OF)
    results.about["lines"] = ["6 pairs."]
    results.add(Trial(TEACHER, 0.6, "CS-SVD", svd(0.1)), scores(0.5, 0.1))
    for draw, share in ((STUDENT, 0.9), (TEACHER, 0.6)):
        results.add(Trial(draw, 0.0), scores(0.0, 0.0))
        results.add(Trial(draw, 1.0), scores(1.0, share))
    results.add(Trial(TEACHER, 1.25), scores(0.5, 0.9))  # beyond the weight with the most style
    results.add(Trial(STUDENT, 0.6, "CS-SVD", svd(0.1)), scores(0.5, 0.1))
    results.add(Trial(TEACHER, 0.6, "in the middle part alone", put_in="middle"), scores(1.5, 0.1))
    lines = list(results.markdown())
    assert lines[0] == "6 pairs."
    rows = [line for line in lines if line.startswith(("| CS-SVD", "| weight", "| no image", "| in the"))]
    titles = [re.match(r"\| ([^|]*) \|", row)[1] for row in rows]
    teachers = [
        "no image prompt",
        "weight 1",
        "weight 1.25",
        "CS-SVD, weight 0.6",
        "in the middle part alone, weight 0.6",
    ]
    assert titles == [*teachers, "no image prompt", "weight 1", "CS-SVD, weight 0.6"]
    assert "| 0.300 → 0.100, -0.200 ± 0.000 |" in rows[3]
    assert "| – | – | – | – |" in rows[4]
    assert "| 0.450 → 0.100, -0.350 ± 0.000 |" in rows[7]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_style_that_a_smaller_weight_has_too_is_compared_with_that():
    """at the largest weight there is less style again, and more leakage"""
    from leakage_results import rising

    plain = [scores(style, first) for style, first in ((0.1, 0.0), (0.5, 0.2), (0.8, 0.4), (0.6, 0.9))]
    assert rising(plain) == plain[:3]
    assert rising(plain[:2]) == plain[:2]
    assert rising([]) == []
