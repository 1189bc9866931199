"""The registry of families, the table that is made of it, and what is said where something can't be done."""

from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_families import FAMILIES as TINY

PAGE = Path(__file__).parents[3] / "docs" / "families.md"
CAN, CANNOT = "✓", "–"


@pytest.fixture(scope="module")
def families(comfyui):
    from sid_pack.nodes.host import families

    return families


def table(families) -> str:
    """Those that draw from text, in the registry's order."""
    rows, reasons = [], {}
    for family in families.FAMILIES:
        if family.name not in TINY:
            continue
        cells = [CANNOT if use in family.cannot else CAN for use in families.USES]
        since = f" (ComfyUI {family.since} and later)" if family.since else ""
        rows.append(f"| {family.name}{since} | {' | '.join(cells)} |")
        for use, reason in family.cannot.items():
            reasons.setdefault((use, reason), []).append(family.name)
    for family in families.FAMILIES:
        if family.name not in TINY:
            for reason in set(family.cannot.values()) - {families.NO_IMAGE_PROMPTS[families.CLEANSTYLE]}:
                uses = tuple(use for use in families.USES if family.cannot.get(use) == reason)
                reasons.setdefault((", ".join(uses), reason), []).append(family.name)
    listed = [f"- {use}: {', '.join(names)}, as {reason}" for (use, reason), names in reasons.items()]
    head = f"| model | {' | '.join(families.USES)} |\n|{'---|' * (len(families.USES) + 1)}\n"
    return head + "\n".join(rows) + "\n\n**Not there, and why:**\n\n" + "\n".join(listed) + "\n"


def test_the_page_has_the_registrys_table(families):
    expected = table(families)
    if expected not in PAGE.read_text(encoding="utf-8"):
        pytest.fail(f"put this into {PAGE.name} in place of its table and list:\n{expected}")


def test_every_cell_has_a_family_at_tiny_size(families):
    """What test_families.py of the training tests goes through; and a family by its class is the one meant."""
    for name, tiny in TINY.items():
        family = families.BY_CLASS[tiny.kind]
        assert family.name == name
        assert tiny.known() or family.since  # the oldest host has all others
    drawing = {f.name for f in families.FAMILIES if families.LORA not in f.cannot}
    assert drawing == TINY.keys()


@pytest.mark.parametrize(("name", "pixels"), [("FLUX.2", 16), ("Wan 2.2 5B", 16), ("Qwen-Image", 8), ("FLUX.1", 8)])
def test_sizes_are_pixels(families, name, pixels):
    from sid_pack.nodes.host.latents import latent_shapes, model_latent, pixels_per_cell

    with torch.inference_mode():
        model = TINY[name].model()
        assert pixels_per_cell(model) == pixels
        frames = TINY[name].latent[1:-2]
        assert latent_shapes(model, "64x32", frames) == [(TINY[name].latent[0], *frames, 32 // pixels, 64 // pixels)]
        drawn = model_latent(model, {"samples": torch.zeros(1, 4, 32 // pixels, 64 // pixels)})
        assert drawn.ndim == 1 + len(TINY[name].latent)


def test_an_unknown_family_is_named_and_goes_by_its_noise(families):
    from comfy.supported_models import SD15, supported_models_base

    with torch.inference_mode():
        model = tiny_models.sd15()
        kind = type("SomethingNew", (supported_models_base.BASE,), {"latent_format": SD15.latent_format})
        model.model.model_config = kind(model.model.model_config.unet_config)
    assert "SomethingNew" in families.unknown_family(model)
    for use in (families.LORA, families.ADVERSARIAL):  # its features are looked for by the network's class
        families.require_use(model, use)


def test_what_draws_no_pictures_is_refused_by_name(families):
    from sid_pack.nodes.sampling.few_step import schedule
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider

    with torch.inference_mode():
        model = tiny_models.sd15()
        model.model.model_config = type("ACEStep", (), {})()
        for refused in (
            lambda: schedule(model, 4, 0.0),
            lambda: SiDLSGGuider.execute(model, tiny_models.conditioning(0), tiny_models.conditioning(0), 1.5),
            lambda: families.require_use(model, families.FULL),
        ):
            with pytest.raises(ValueError, match="audio and 3D models can't be used so .*does not draw pictures"):
                refused()


@pytest.mark.parametrize(("name", "t_init", "named"), [("FLUX.1", 625.0, "up to 1"), ("SD1.5", 0.9, "from 4 to 999")])
def test_a_time_of_another_familys_unit_is_refused_with_this_ones_range(families, name, t_init, named):
    from sid_pack.nodes.sampling.few_step import schedule

    with torch.inference_mode():
        model = TINY[name].model()
    with pytest.raises(ValueError, match=named):
        schedule(model, 4, t_init)


def test_students_of_flux_are_told_the_guidance_that_they_were_trained_at(families):
    """Wherever they are sampled; another one on the way to SiD Distill is refused."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.model import signature_of
    from sid_pack.nodes.sampling.attached import as_student
    from sid_pack.nodes.sampling.few_step import SiDGenerate
    from sid_pack.sid_core.files.student import StudentInfo

    tiny = TINY["FLUX.1"]
    with torch.inference_mode():
        model = tiny.model()
        weights = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
        student = as_student(model, weights, StudentInfo(2, 1.0, signature_of(model), "run", "lsg")).clone()

        def drawn(of, **said) -> torch.Tensor:
            positive = [[context, extra | said] for context, extra in tiny.conditioning(0)]
            size = {"seed": 1, "width": 64, "height": 64, "batch_size": 1}
            return SiDGenerate.execute(of, positive, **size, steps=2, t_init=0.0, noise_mode="fixed")[0]["samples"]

        base = drawn(model, guidance=1.0)
        assert torch.equal(drawn(student), base) and torch.equal(drawn(student, guidance=7.0), base)
        assert not torch.equal(drawn(model), base)
        assert conditioning_tensors(model, tiny.conditioning(0), torch.zeros(1, *tiny.latent))["guidance"] == 1
        other = [[context, extra | {"guidance": 3.5}] for context, extra in tiny.conditioning(0)]
        with pytest.raises(
            ValueError, match="^Take FluxGuidance off what leads to SiD Distill, or set it to 1: it is 3.5"
        ):
            conditioning_tensors(model, other, torch.zeros(1, *tiny.latent))
