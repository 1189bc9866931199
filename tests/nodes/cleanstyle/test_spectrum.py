"""The picture of what CleanStyle takes out."""

import json
import math

import numpy as np
import pytest
import torch
from tiny_models import sd15
from torch import nn

SIGMAS = [14.6, 4.1, 1.6, 0.7]


@pytest.fixture
def drawn(comfyui):
    """A picture of layers (before, after, negative) and schedules of α, as an array (H, W, 3)."""
    from sid_pack.nodes.cleanstyle.spectrum import Layer, Schedule, draw_spectra

    def draw(layers, alphas=((0.01, 0.008, 0.001, 0.0),), sigmas=SIGMAS):
        schedules = [Schedule(f"schedule {i}", values) for i, values in enumerate(alphas)]
        layers = [Layer(f"layer {i}", i % len(schedules), b, a, 0.5, n) for i, (b, a, n) in enumerate(layers)]
        return np.asarray(draw_spectra(sigmas, schedules, layers))

    return draw


def pixels(picture: np.ndarray, colour: str) -> np.ndarray:
    """(N, 2) of x, y of a colour's pixels below the curve of the run and its legend."""
    from sid_pack.nodes.cleanstyle.spectrum import RUN_HEIGHT

    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    found = np.argwhere((picture == wanted).all(2))[:, ::-1]
    return found[found[:, 1] > RUN_HEIGHT + 40]  # nor the panels' titles


def heights(picture: np.ndarray, colour: str, bars: int) -> list[int]:
    """Of each bar of the only panel: how many pixels of a colour are in the column at its middle."""
    from sid_pack.nodes.cleanstyle.spectrum import LEAST_WIDTH, PAGE_MARGIN

    width = LEAST_WIDTH // 2 - 14
    found = pixels(picture, colour)
    middles = [PAGE_MARGIN + round(width * (i + 0.4) / bars) for i in range(bars)]
    return [int((found[:, 0] == x).sum()) for x in middles]


def test_bars_are_as_high_as_their_values(drawn):
    from sid_pack.nodes.cleanstyle.spectrum import AFTER, BEFORE

    picture = drawn([([10.0, 8.0, 4.0, 2.0], [10.0, 4.0, 4.0, 0.0], [])])
    left, out = heights(picture, AFTER, 4), heights(picture, BEFORE, 4)
    assert left[0] > 70
    assert left == pytest.approx([left[0] * share for share in (1, 0.4, 0.4, 0)], abs=2)
    assert out == pytest.approx([left[0] * share for share in (0, 0.4, 0, 0.2)], abs=2)


def test_the_style_negative_is_a_mark_at_its_height(drawn):
    from sid_pack.nodes.cleanstyle.spectrum import NEGATIVE

    marks = pixels(drawn([([8.0, 8.0], [8.0, 8.0], [2.0, 6.0])]), NEGATIVE)
    middle = marks[:, 0].mean()
    low, high = marks[marks[:, 0] < middle][:, 1].mean(), marks[marks[:, 0] > middle][:, 1].mean()
    assert low - high == pytest.approx(82 / 2, abs=3)  # of the 82 pixels that 8 is high; the picture's y goes down
    assert not len(pixels(drawn([([8.0], [8.0], [])]), NEGATIVE))


def test_the_curve_falls_with_alpha(drawn):
    from sid_pack.nodes.cleanstyle.spectrum import RUN_HEIGHT, SCHEDULES

    picture = drawn([([1.0], [1.0], [])] * 2, alphas=[(1.0, 0.6, 0.3, 0.0), (0.0, 0.2, 0.4, 0.5)])[: RUN_HEIGHT - 40]
    places = {}
    for colour in SCHEDULES[:2]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        found = np.argwhere((picture == wanted).all(2))[:, ::-1]
        places[colour] = found[found[:, 1] > 52]  # not its name
    falling, rising = (np.corrcoef(places[colour].T)[0, 1] for colour in SCHEDULES[:2])
    assert falling > 0.9  # the picture's y goes down
    assert rising < -0.9


@pytest.mark.parametrize(("layers", "columns"), [(1, 1), (2, 2), (22, 6), (140, 10)])
def test_every_layer_has_a_panel(drawn, layers, columns):
    from sid_pack.nodes.cleanstyle.spectrum import CELL, LEAST_WIDTH, PAGE_MARGIN, RUN_HEIGHT

    picture = drawn([([4.0, 2.0], [4.0, 1.0], [0.1, 0.2])] * layers)
    rows = -(-layers // max(columns, 2))
    height, width, _ = picture.shape
    assert height == RUN_HEIGHT + rows * CELL[1] + PAGE_MARGIN
    assert width == max(LEAST_WIDTH, columns * CELL[0]) + 2 * PAGE_MARGIN


@pytest.mark.parametrize(
    ("layer", "alphas", "sigmas"),
    [
        (([1.0], [1.0], []), [(0.01,)], [2.5]),
        (([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]), [(0.0, 0.0)], [2.5, 0.9]),
        (([1.0] * 257, [0.5] * 257, [0.2] * 257), [tuple([0.1] * 1000)], [1.0] * 1000),
    ],
)
def test_the_least_and_the_most_can_be_drawn(drawn, layer, alphas, sigmas):
    picture = drawn([layer], alphas, sigmas)
    assert picture.min() < 100


def test_thin_bars_have_no_gaps(drawn):
    from sid_pack.nodes.cleanstyle.spectrum import AFTER

    picture = drawn([([1.0] * 257, [0.5] * 257, [])])
    xs = np.unique(pixels(picture, AFTER)[:, 0])
    assert len(xs) >= 330
    assert (np.diff(xs) == 1).all()


TOKENS, WIDTH = 4, 24
SETTINGS = {"alpha": 0.08, "gamma": 15.0, "center": 0.4, "beta": 0.9, "negative_alpha": 0.1}


def references(pictures: int) -> torch.Tensor:
    return torch.randn(pictures, TOKENS, WIDTH, generator=torch.manual_seed(4))


@pytest.fixture
def prompted(comfyui):
    """A MODEL with an image prompt in two layers, of a reference for each picture; and its projections."""
    import comfy.model_patcher
    import comfy.ops

    from sid_pack.nodes.host.unet_layers import cross_attention_layers
    from sid_pack.nodes.image_prompts.attention import put_attention, with_branch
    from sid_pack.nodes.image_prompts.ip_adapter_branch import AdapterBranch, ImageTokens

    model = sd15()
    layers = cross_attention_layers(model)[:2]
    generator = torch.manual_seed(5)
    network = nn.Module()
    network.to_k_ip, network.to_v_ip = nn.ModuleList(), nn.ModuleList()
    for layer in layers:
        for projections in (network.to_k_ip, network.to_v_ip):
            projections.append(comfy.ops.manual_cast.Linear(WIDTH, layer.width, bias=False, dtype=torch.float32))
            projections[-1].weight.data = torch.randn(layer.width, WIDTH, generator=generator)
    weights = comfy.model_patcher.ModelPatcher(network, load_device=model.load_device, offload_device=model.load_device)
    tokens = ImageTokens(references(3), references(3) * 0, True)
    branches = {
        layer.key: with_branch(None, AdapterBranch(weights, number, tokens)) for number, layer in enumerate(layers)
    }
    put_attention(model, branches)
    return model, network


def cleaned(model, **changes):
    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings

    return clean(model, Settings(**(SETTINGS | changes)))


def run_sigmas(model) -> torch.Tensor:
    sampling = model.get_model_object("model_sampling")
    return torch.cat([sampling.sigma(torch.tensor([999.0, 749.0, 499.0, 249.0])), torch.zeros(1)])


def told(model, sigmas, picture=1) -> dict:
    from sid_pack.nodes.cleanstyle.spectrum import CleanStyleSpectrum

    image, text = CleanStyleSpectrum.execute(model, sigmas, picture).args
    assert image.shape[0] == 1
    assert image.shape[3] == 3
    assert 0 <= image.min() < 0.5 < image.max() <= 1
    return json.loads(text)


@pytest.mark.parametrize("picture", [1, 3])
def test_the_node_tells_what_is_done_to_each_layer(prompted, picture):
    model, network = prompted
    sigmas = run_sigmas(model)
    report = told(cleaned(model), sigmas, picture)
    assert report["sigmas"] == pytest.approx(sigmas[:-1].tolist())
    (schedule,) = report["schedules"]
    alphas = [0.08 / (1 + math.exp(15 * (p - 0.4))) for p in (0, 250 / 999, 500 / 999, 750 / 999)]
    assert schedule["alphas"] == pytest.approx(alphas, rel=1e-3)
    assert [layer["name"] for layer in report["layers"]] == [
        "input 1 keys",
        "input 1 values",
        "input 3 keys",
        "input 3 values",
    ]
    projections = [layer for pair in zip(network.to_k_ip, network.to_v_ip, strict=True) for layer in pair]
    for layer, projection in zip(report["layers"], projections, strict=True):
        values = torch.linalg.svdvals(projection(references(3)[picture - 1]).double()).tolist()
        after = [value * (0.9 * math.exp(-alphas[0] * value) if i else 1) for i, value in enumerate(values)]
        assert layer["before"] == pytest.approx(values, rel=1e-4)
        assert layer["after"] == pytest.approx(after, rel=1e-3)
        assert layer["kept"] == pytest.approx(sum(v * v for v in after) / sum(v * v for v in values), rel=1e-3)
        assert layer["negative"] == pytest.approx([0.9 * v * math.exp(-0.1 * v) for v in values], rel=1e-3)


def test_the_browser_is_sent_the_steps_and_the_singular_values_before(prompted):
    from sid_pack.nodes.cleanstyle.spectrum import CleanStyleSpectrum

    model, network = prompted
    output = CleanStyleSpectrum.execute(cleaned(model), run_sigmas(model), 2)
    (view,) = output.ui["cleanstyle"]
    assert view["steps"] == pytest.approx([0, 250 / 999, 500 / 999, 750 / 999], abs=1e-3)
    assert [layer["name"] for layer in view["layers"]][:2] == ["input 1 keys", "input 1 values"]
    values = torch.linalg.svdvals(network.to_v_ip[0](references(3)[1]).double()).tolist()
    assert view["layers"][1]["values"] == pytest.approx(values, rel=1e-3)
    (settings,) = view["settings"]
    assert settings.items() >= {**SETTINGS, "top_k": 1, "start": 0.0, "end": 1.0}.items()
    assert [layer["settings"] for layer in view["layers"]] == [0] * 4


def test_outside_of_start_and_end_nothing_is_suppressed(prompted):
    model, _ = prompted
    report = told(cleaned(model, start=0.4, end=0.6, style_negative="off"), run_sigmas(model))
    alphas = report["schedules"][0]["alphas"]
    assert [alpha > 0 for alpha in alphas] == [False, False, True, False]
    assert all(layer["negative"] == [] for layer in report["layers"])


def test_a_model_without_cleanstyle_and_an_empty_run_are_refused(prompted):
    from sid_pack.nodes.cleanstyle.spectrum import CleanStyleSpectrum

    model, _ = prompted
    with pytest.raises(ValueError, match="^Connect a CleanStyle node before this one"):
        CleanStyleSpectrum.execute(model, run_sigmas(model), 1)
    with pytest.raises(ValueError, match=r"^Connect a scheduler of 1 step or more to sigmas: it is of shape \(\d,\)"):
        CleanStyleSpectrum.execute(cleaned(model), torch.zeros(0), 1)
