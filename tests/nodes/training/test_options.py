import json
from pathlib import Path

import pytest
from graphs import distilled, node, training_options

ALL = {
    "warm_up_iterations": 3,
    "fake_updates": 2,
    "gradient_norm": 0.5,
    "weighting": "snr",
    "caption_dropout": 0.25,
    "optimizer": "Adam",
    "score_time_low": 50,
    "score_time_high": 700,
    "adam_epsilon": 1e-6,
    "adversarial_weight": 0.02,
    "discriminator_weight": 0.5,
    "adversarial_warm_up": 64,
}


def settings_of(result) -> dict:
    assert result.success, result.error
    return json.loads((Path(result.value("distilled", 1)) / "run.json").read_text())["settings"]


def test_options_reach_the_run(run_graph):
    graph = distilled(run_name="options", options=["options", 0])
    settings = settings_of(run_graph(graph | {"options": node("SiDTrainingOptions", **ALL)}))
    expected = {name: value for name, value in ALL.items() if not name.startswith("score_time")}
    assert settings | expected | {"score_times": [50, 700]} == settings


def test_the_options_defaults_are_those_without_the_node(run_graph):
    without = settings_of(run_graph(distilled(run_name="without")))
    graph = distilled(run_name="defaults", options=["options", 0]) | {"options": training_options()}
    assert settings_of(run_graph(graph)) == without


def test_a_preset_decides_what_it_names_and_nothing_else(run_graph):
    result = run_graph(distilled(run_name="preset", preset="SDXL, LoRA", iterations=1, steps=1, student_rank=4))
    settings = settings_of(result)
    assert settings["batch"] == 16
    assert settings["student_learning_rate"] == 5e-5
    assert settings["fake_learning_rate"] == 1e-4
    assert settings["ema_half_life_images"] == 1000
    assert settings["steps"] == 1
    assert result.value("distilled").get_attachment("sid_student_lora") is not None


def test_score_times_the_wrong_way_round_are_refused(run_graph):
    options = node("SiDTrainingOptions", **(ALL | {"score_time_low": 800}))
    result = run_graph(distilled(run_name="wrong", options=["options", 0]) | {"options": options})
    assert "Set score_time_low to 700 or less" in result.error


def test_further_sizes_are_part_of_the_run(run_graph):
    result = run_graph(distilled(run_name="sizes", more_sizes="64x128, 128 x 64", iterations=6))
    assert result.success, result.error
    identity = json.loads((Path(result.value("distilled", 1)) / "run.json").read_text())["identity"]
    assert identity["latent"] == "32x8x8"
    assert identity["more_sizes"] == "32x16x8, 32x8x16"  # heights first
    other = run_graph(distilled(run_name="sizes", iterations=8, existing_run="continue it"))
    assert "more_sizes: 32x16x8, 32x8x16 then, None now" in other.error


@pytest.mark.parametrize("sizes", ["big", "64", "60x64", "0x64", "64x64;64x128", "64x16392"])
def test_sizes_that_are_none_are_named(run_graph, sizes):
    result = run_graph(distilled(run_name="no sizes", more_sizes=sizes))
    assert repr(sizes) in result.error
    assert "Write more_sizes as width x height" in result.error


def test_a_run_goes_on_in_neither_another_mode_nor_more_sizes(run_graph):
    result = run_graph(distilled(run_name="whole", mode="full"))
    assert result.success, result.error
    more = {"run_name": "whole", "iterations": 4, "existing_run": "continue it"}
    assert "mode: full then, lora now" in run_graph(distilled(mode="lora", **more)).error
    assert "more_sizes: None then, 32x16x8 now" in run_graph(distilled(mode="full", more_sizes="64x128", **more)).error
