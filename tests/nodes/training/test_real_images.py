"""The adversarial term in the graph: what a run with images is, and that without a weight it is one without them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import distilled, node, training_options
from PIL import Image
from safetensors.torch import load_file

LORA = {"mode": "lora", "student_rank": 3, "fake_rank": 2, "student_learning_rate": 1e-3, "fake_learning_rate": 1e-3}
ON = {"adversarial_weight": 0.1, "discriminator_weight": 1.0, "adversarial_warm_up": 2}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures with captions."""
    for i in range(3):
        values = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("red apple")
    return tmp_path


def with_images(folder: Path, name: str, options: dict | None = None, **changes) -> dict:
    wires = {"vae": ["demo", 2], "images": ["images", 0], "options": ["options", 0]}
    return {
        **distilled(run_name=name, **(LORA | wires | changes)),
        "images": node(
            "SiDImages", folder=str(folder), column="caption", common_caption="", small_pictures="leave out"
        ),
        "options": training_options(**(ON | (options or {}))),
    }


def state(result, iteration: int) -> dict[str, torch.Tensor]:
    assert result.success, result.error
    file = Path(result.value("distilled", 1)) / f"state_{iteration:07}.safetensors"
    return {key: value.clone() for key, value in load_file(file).items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def metrics(result) -> list[dict]:
    rows = [
        json.loads(line) for line in (Path(result.value("distilled", 1)) / "metrics.jsonl").read_text().splitlines()
    ]
    return [row for row in rows if "student_loss" in row]


def test_a_run_with_images_tells_its_losses_and_goes_on_bit_for_bit(run_graph, folder):
    unbroken = run_graph(with_images(folder, "unbroken", iterations=3))
    expected = state(unbroken, 3)
    run_graph(with_images(folder, "broken", iterations=1))
    resumed = run_graph(with_images(folder, "broken", iterations=3, existing_run="continue it"))
    assert same(state(resumed, 3), expected)
    rows = metrics(unbroken)
    assert all(0 < row["discriminator_loss"] < 10 for row in rows)
    assert ["adversarial_loss" in row for row in rows] == [False, True, True]
    plain = run_graph(with_images(folder, "plain", {"adversarial_weight": 0.0}, iterations=3))
    assert not same(state(plain, 3), expected)


def test_without_a_weight_a_run_with_images_is_one_without_them(run_graph, folder, monkeypatch):
    import comfy.sd

    def encode(*_):
        raise AssertionError("no picture is to be encoded")

    monkeypatch.setattr(comfy.sd.VAE, "encode", encode)
    off = run_graph(with_images(folder, "off", {"adversarial_weight": 0.0}))
    graph = with_images(folder, "without", {"adversarial_weight": 0.0})
    del graph["distilled"]["inputs"]["images"]
    without = run_graph(graph)
    assert same(state(off, 2), state(without, 2))
    for a, b in zip(metrics(off), metrics(without), strict=True):
        assert a.keys() == b.keys() and not {"discriminator_loss", "adversarial_loss"} & a.keys()
    said = [bytes(data).decode(errors="replace") for _, data in off.events if isinstance(data, bytes | bytearray)]
    assert any("Raise adversarial_weight" in text for text in said)


def test_a_model_whose_features_are_not_known_is_refused_with_images_alone(run_graph, folder, monkeypatch):
    from sid_pack.nodes.host import features

    monkeypatch.setattr(features, "_place", lambda network: None)
    result = run_graph(with_images(folder, "unknown"))
    assert not result.success and "Take the images off SiD Distill" in result.error
    assert "the demo model, as it is not known where the features of its UNetModel are" in result.error
    assert run_graph(with_images(folder, "known", {"adversarial_weight": 0.0})).success
