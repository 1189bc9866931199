"""CleanStyle on a MODEL that joins a picture's tokens to the text's inside it: ComfyUI's own USO on a tiny Flux."""

import math

import pytest
import tiny_models
import torch
from oracles import progress, suppressed

TEXT, IMAGE, HIDDEN = 5, 6, 32
SCHEDULE = {"alpha": 0.08, "gamma": 15.0, "center": 0.4}


class Projector(torch.nn.Module):
    """In place of USO's: tokens out of a picture that is said in a few numbers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, encoded_image):
        return tokens_of(encoded_image) + self.weight


def tokens_of(encoded_image: torch.Tensor) -> torch.Tensor:
    return torch.sin(encoded_image.flatten()[:1] + torch.arange(IMAGE * HIDDEN) ** 1.5).view(1, IMAGE, HIDDEN) * 3


PICTURE = tokens_of(torch.full((1,), 0.7))


@pytest.fixture
def flux(comfyui):
    """A MODEL with a style reference."""
    import comfy.model_patcher
    from comfy_extras.nodes_model_patch import USOStyleReference

    class Encoded:
        all_hidden_states = torch.full((1, 24, 4, 4), 0.7)
        penultimate_hidden_states = torch.full((1, 4, 4), 0.7)

    with torch.inference_mode():
        model = tiny_models.flux()
        device = model.load_device
        projector = comfy.model_patcher.ModelPatcher(Projector(), load_device=device, offload_device=device)
        return USOStyleReference().apply_patch(model, projector, Encoded())[0]


@pytest.fixture
def behind_the_text(flux):
    """A MODEL with another pack's style reference: for any batch, and with the text first."""

    class Reference:
        encoded_image, model_patch = None, None

        def __call__(self, args):
            tokens = PICTURE.expand(len(args["txt"]), -1, -1)
            ids = torch.zeros(len(tokens), IMAGE, args["txt_ids"].shape[-1])
            joined = {"txt": torch.cat([args["txt"], tokens], 1), "txt_ids": torch.cat([args["txt_ids"], ids], 1)}
            return args | joined

    model = flux.clone()
    model.model_options["transformer_options"]["patches"]["post_input"] = [Reference()]
    return model


def clean(model, **settings):
    from sid_pack.nodes.cleanstyle.model import clean
    from sid_pack.nodes.cleanstyle.purify import Settings

    return clean(model, Settings(**(SCHEDULE | settings)))


def seen(model, cfg: float = 1.0, steps: int = 10) -> list[tuple[float, int, torch.Tensor]]:
    """The tokens that the network's first block is given in a run: sigma, 0 or 1 for positive or negative, tokens."""
    import comfy.sample
    import comfy.samplers

    found = []

    def watch(args, extra):
        options = args["transformer_options"]
        chunks = options["cond_or_uncond"]
        for which, rows in zip(chunks, args["txt"].chunk(len(chunks)), strict=True):
            found.append((float(options["sigmas"][0]), which, rows.clone()))  # blocks add to it in place
        return extra["original_block"](args)

    with torch.inference_mode():
        model = model.clone()
        model.set_model_patch_replace(watch, "dit", "double_block", 0)
        noise = torch.randn(1, 16, 8, 8, generator=torch.manual_seed(0))
        sampling = model.get_model_object("model_sampling")
        latent = comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            comfy.samplers.sampler_object("euler"),
            comfy.samplers.calculate_sigmas(sampling, "simple", steps),
            tiny_models.conditioning(1),
            tiny_models.conditioning(2),
            torch.zeros_like(noise),
            disable_pbar=True,
        )
    assert latent.isfinite().all()
    return found


def expected(sigma: float) -> float:
    from sid_pack.sid_core.method.cleanstyle import suppression

    return suppression(progress("flux", sigma), **SCHEDULE)


def test_usos_tokens_are_purified_by_the_sigma(flux):
    plain, purified = seen(flux), seen(clean(flux, top_k=2))
    assert len(plain) == len(purified) == 10
    for (sigma, _, before), (at, _, after) in zip(plain, purified, strict=True):
        assert sigma == at
        torch.testing.assert_close(after[:, IMAGE:], before[:, IMAGE:], rtol=0, atol=0)
        torch.testing.assert_close(before[:, :IMAGE], PICTURE)
        alphas = suppressed(after[:, :IMAGE], PICTURE, 2, 1.0)
        assert alphas == pytest.approx([expected(sigma)] * (IMAGE - 2), rel=1e-2, abs=1e-5)
    assert expected(purified[0][0]) > 0.9 * SCHEDULE["alpha"]
    assert expected(purified[-1][0]) < 0.1 * SCHEDULE["alpha"]


def test_the_unconditional_half_gets_the_style_negative(behind_the_text):
    halves = {0: [], 1: []}
    for sigma, which, tokens in seen(clean(behind_the_text, negative_alpha=0.3), cfg=2.0):
        halves[which].append((sigma, tokens))
    assert len(halves[0]) == len(halves[1]) == 10
    for sigma, tokens in halves[0]:
        assert suppressed(tokens[:, TEXT:], PICTURE, 1, 1.0) == pytest.approx([expected(sigma)] * 5, rel=1e-2, abs=1e-5)
    for _, tokens in halves[1]:
        assert suppressed(tokens[:, TEXT:], PICTURE, 0, 1.0) == pytest.approx([0.3] * 6, rel=1e-2)
    assert not torch.equal(halves[0][0][1][:, :TEXT], halves[1][0][1][:, :TEXT])


def test_without_a_style_negative_the_unconditional_half_is_left_alone(behind_the_text):
    for _, which, tokens in seen(clean(behind_the_text, style_negative="off"), cfg=2.0):
        if which == 1:
            torch.testing.assert_close(tokens[:, TEXT:], PICTURE, rtol=0, atol=0)


def test_it_acts_between_start_and_end(flux):
    for sigma, _, tokens in seen(clean(flux, start=0.2, end=0.6, gamma=0.0)):
        inside = 0.2 <= progress("flux", sigma) <= 0.6
        alphas = suppressed(tokens[:, :IMAGE], PICTURE, 1, 1.0)
        assert alphas == pytest.approx([0.04 if inside else 0.0] * 5, rel=1e-2, abs=1e-5)


def test_the_last_one_counts_and_the_model_before_it_is_left_alone(flux):
    first = clean(flux, gamma=0.0)
    second = clean(first, gamma=0.0, alpha=0.2)
    for model, alpha in ((second, 0.1), (first, 0.04), (flux, 0.0)):
        for _, _, tokens in seen(model, steps=2):
            assert suppressed(tokens[:, :IMAGE], PICTURE, 1, 1.0) == pytest.approx([alpha] * 5, rel=1e-2, abs=1e-5)


def test_the_spectrum_is_computed_once(flux, monkeypatch):
    from sid_pack.sid_core.method.cleanstyle import Spectrum

    computed = []
    plain = Spectrum.of
    monkeypatch.setattr(Spectrum, "of", lambda tokens: computed.append(tokens) or plain(tokens))
    seen(clean(flux))
    assert len(computed) == 1


def test_what_has_no_spectrum_or_too_small_a_one_is_refused(flux, monkeypatch):
    with pytest.raises(ValueError, match="k is 7, but these style tokens have 6"):
        seen(clean(flux, top_k=7))
    monkeypatch.setattr(Projector, "forward", lambda self, encoded: PICTURE * math.nan)
    with pytest.raises(ValueError, match="NaN or infinite"):
        seen(clean(flux))


def test_a_model_without_style_reference_is_told_what_to_connect(comfyui):
    with pytest.raises(ValueError, match=r"on FLUX.1, use USOStyleReference before this node, or CleanStyle Cond"):
        clean(tiny_models.flux())
