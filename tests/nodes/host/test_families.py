"""The registry of families, the table that is made of it, and what is said where something can't be done."""

from dataclasses import asdict, fields, replace
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


def defaults_table(families) -> str:
    """What students of a family begin from: of the registry, and of the host what it says of latents."""
    rows = []
    for family in families.FAMILIES:
        if family.name not in TINY:
            continue
        usual, tiny = family.defaults, TINY[family.name]
        guidance = "" if family.guidance is None else f"{family.guidance:g}"
        latent = f"{tiny.latent[0]} channels, {family.pixels} pixels" + ", frames" * (len(tiny.latent) > 3)
        presets = " ".join(f"`{usual.preset(mode)}`" for mode in ("lora", "full"))
        times = f"{usual.t_init:g} | {usual.shift:g}" if usual.flow else f"{usual.t_init:g} | –"
        rows.append(f"| {family.name} | {times} | {usual.steps} | {latent} | {guidance or '–'} | {presets} |")
    head = "| model | t_init | shift | steps | a cell of its latents | guidance embedding | presets |\n"
    return head + "|---|--:|--:|--:|---|--:|---|\n" + "\n".join(rows) + "\n"


def presets_table(families) -> str:
    rows = [
        f"| `{name}` | {preset.mode} | {preset.batch_size} | {preset.student_learning_rate:g} | "
        f"{preset.fake_learning_rate:g} | {preset.ema_half_life:g} |"
        for name, preset in families.PRESETS.items()
    ]
    head = "| preset | mode | batch size | student's rate | fake score's rate | EMA half-life |\n"
    return head + "|---|---|--:|--:|--:|--:|\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize("made", [defaults_table, presets_table])
def test_the_page_has_the_defaults(families, made):
    if (expected := made(families)) not in PAGE.read_text(encoding="utf-8"):
        pytest.fail(f"put this into {PAGE.name}:\n{expected}")


def test_a_familys_presets_are_among_those_of_the_node(families):
    """For each mode its own; and each says what inputs of the node it decides."""
    from sid_pack.nodes.training.inputs import Inputs

    for family in families.FAMILIES:
        if families.LORA not in family.cannot:
            for mode in ("lora", "full"):
                assert families.PRESETS[family.defaults.preset(mode)] is getattr(family.defaults, mode)
    inputs = {field.name for field in fields(Inputs)}
    for name, preset in families.PRESETS.items():
        assert asdict(preset).keys() < inputs
        assert name.lower().endswith(preset.mode)


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


@pytest.mark.parametrize(
    ("name", "t_init", "named"),
    [
        ("FLUX.1", 625.0, "above 0, up to 1: it is 625, and those are the times that FLUX.1 can"),
        ("Wan 2.1", 1.5, "above 0, up to 1: it is 1.5, and those are the times that Wan 2.1 can"),
        ("SD1.5", 0.4, "from 4 to 999: it is 0.4, and those are the times that SD1.5 can"),
        ("PixArt sigma", 1.0, "from 4 to 999: it is 1, and those are the times that PixArt sigma can"),
    ],
)
def test_a_time_of_another_familys_unit_is_refused_with_this_ones_name_and_range(families, name, t_init, named):
    from sid_pack.nodes.sampling.few_step import schedule

    with torch.inference_mode():
        model = TINY[name].model()
    with pytest.raises(ValueError, match=f"^Set t_init to a time {named}"):
        schedule(model, 4, t_init)


@pytest.mark.parametrize(("name", "t_init", "named"), [("FLUX.1", 625.0, "up to 1"), ("SD1.5", 0.4, "from 4 to 999")])
def test_training_refuses_such_a_time_before_anything_is_loaded_or_made(families, name, t_init, named, monkeypatch):
    """The prompts, the latent and the text encoder are not even looked at."""
    import comfy.model_management
    import folder_paths

    from sid_pack.nodes.sampling.guiders import SiDLSGGuider
    from sid_pack.nodes.training.distill import SiDDistill

    def loaded(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", loaded)
    with torch.inference_mode():
        model = TINY[name].model()
        guider = SiDLSGGuider.execute(model, TINY[name].conditioning(0), TINY[name].conditioning(1), 1.5)[0]
        widgets = {each.id: each.default for each in SiDDistill.define_schema().inputs if hasattr(each, "default")}
        wires = {"guider": guider, "clip": None, "prompts": None, "latent": None, "run_name": "never made"}
        with pytest.raises(ValueError, match=f"^Set t_init to a time .*{named}.* the times that {name} can"):
            SiDDistill.execute(**widgets | wires | {"t_init": t_init})
    assert not (Path(folder_paths.get_output_directory()) / "sid_runs" / "never made").exists()


@pytest.mark.parametrize("name", TINY)
def test_usual_times_are_the_registrys_and_the_papers(families, name):
    """625 truncated for models of the SD kind, 1 and no shift for flow models (arXiv 2406.01561, 2509.25127)."""
    from sid_pack.nodes.host.model import process_of
    from sid_pack.sid_core.method.sampling import step_times

    if not TINY[name].known():
        pytest.skip(f"this ComfyUI has no {TINY[name].kind}")
    with torch.inference_mode():
        process = process_of(TINY[name].model())
    sd = ("SD1", "SD2", "SDXL", "SSD", "Segmind", "KOALA", "PixArt", "Hunyuan-DiT")
    expected = [625, 468, 312, 156] if name.startswith(sd) else [1.0, 0.75, 0.5, 0.25]
    assert step_times(4, process=process).tolist() == expected


def test_the_familys_own_time_is_the_usual_one_where_nothing_else_is_said(families, monkeypatch):
    """But not where a ModelSampling… node has made the model one of the other kind."""
    import nodes

    from sid_pack.nodes.host.model import process_of

    for name, t_init in (("SD1.5", 500), ("SD3", 0.9)):
        family = families.BY_CLASS[TINY[name].kind]
        other = replace(family, defaults=replace(family.defaults, t_init=t_init, shift=2.0))
        monkeypatch.setitem(families.BY_CLASS, TINY[name].kind, other)
        with torch.inference_mode():
            assert process_of(TINY[name].model()).default_t_init == t_init
    with torch.inference_mode():
        assert float(process_of(TINY["SD3"].model()).snap(torch.tensor(0.5))) == pytest.approx(2 / 3)
        (flow,) = nodes.NODE_CLASS_MAPPINGS["ModelSamplingSD3"]().patch(TINY["SD1.5"].model(), shift=3.0)
    assert process_of(flow).default_t_init == 1.0


@pytest.mark.parametrize(
    ("name", "preset", "mode", "said"),
    [
        ("FLUX.1", "SDXL, LoRA", "lora", "Set preset to 'flow models, LoRA', or to what suits FLUX.1 by hand"),
        ("SD1.5", "flow models, full", "full", "Set preset to 'SD1.5, full', or to what suits SD1.5 by hand"),
        ("FLUX.1", "flow models, LoRA", "lora", None),
        ("FLUX.1", "as set here", "lora", None),
    ],
)
def test_a_preset_for_other_families_is_told(families, name, preset, mode, said):
    with torch.inference_mode():
        told = families.before_training(TINY[name].model(), preset, mode)
    assert (len(told) == 1 and told[0].startswith(said)) if said else told == []


def test_wan_of_14b_is_told_of_the_experts_that_look_the_same(families):
    """The two of Wan 2.2 A14B have the layers of Wan 2.1 14B, whose tokens are 5120 wide; the 1.3B one has no twin."""
    with torch.inference_mode():
        model = TINY["Wan 2.1"].model()
        assert families.before_training(model, "as set here", "lora") == []
        model.model.diffusion_model.dim = 5120
        (told,) = families.before_training(model, "as set here", "lora")
    assert told.startswith("Connect Wan 2.1, and not one of the two experts of Wan 2.2 A14B") and "0.875" in told


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("CosmosT2IPredict2", "Cosmos"),
        ("Stable_Cascade_C", "Stable Cascade"),
        ("SV3D_p", "SVD and SV3D"),
        ("HunyuanVideoI2V", "Hunyuan with a picture or a video"),
        ("WAN22_Animate", "Wan with a picture or a video"),
        ("SDXL_instructpix2pix", "SD with a picture"),
        ("SDXLRefiner", "the SDXL refiner"),
    ],
)
def test_what_cannot_be_distilled_is_refused_by_name(families, kind, name):
    import comfy.supported_models

    with torch.inference_mode():
        model = tiny_models.sd15()
        model.model.model_config = getattr(comfy.supported_models, kind)({})
    with pytest.raises(ValueError, match=f"^Choose a model of another family: {name} can't be used so"):
        families.require_use(model, families.LORA)


@pytest.mark.parametrize("name", ["HunyuanImage 2.1", "HunyuanVideo 1.5"])
def test_what_is_told_where_a_step_ends_draws_and_is_no_teacher(families, name):
    """Hunyuan's own files for few steps, MeanFlow networks: ComfyUI tells one by a layer, and by no class."""
    from sid_pack.nodes.sampling.few_step import SiDGenerate

    tiny = TINY[name]
    if not tiny.known():
        pytest.skip(f"this ComfyUI has no {name}")
    with torch.inference_mode():
        usual, few = tiny.model(), replace(tiny, config=lambda: tiny.config() | {"meanflow": True}).model()
        size = {"seed": 1, "width": 64, "height": 64, "batch_size": 1}
        setting = {"steps": 2, "t_init": 0.0, "noise_mode": "fixed"}
        if name == "HunyuanImage 2.1":
            drawn = SiDGenerate.execute(few, tiny.conditioning(0), **size, **setting)[0]["samples"]
            assert drawn.isfinite().all()
    for use in (families.LORA, families.FULL, families.ADVERSARIAL):
        families.require_use(usual, use)
        with pytest.raises(ValueError, match=f"^Choose the {name} that needs many steps: this one can't be used so"):
            families.require_use(few, use)
    families.require_use(few, families.SAMPLE)


def test_every_class_of_the_host_that_samples_by_a_known_noise_is_of_the_family_meant(families):
    """None is taken for a relative that it is derived from and is not."""
    import comfy.supported_models

    derived = {kind.__name__ for kind in comfy.supported_models.models if kind.__mro__[1].__name__ in families.BY_CLASS}
    variants = {"FluxInpaint", "HunyuanDiT1", "ChromaRadiance", "Hunyuan3Dv2mini", "Hunyuan3Dv2_1", "SV3D_u", "SV3D_p"}
    later = {"StableAudio3", "ZImagePixelSpace", "WAN21_CausalAR_T2V", "Boogu", "CogVideoX_I2V", "CogVideoX_Inpaint"}
    assert derived - families.BY_CLASS.keys() <= variants | later


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


@pytest.mark.parametrize("name", TINY)
def test_a_discriminator_sees_tokens_along_one_axis(families, name):
    """Of which it takes the mean; a UNet's middle block is a map."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.features import watched
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.sid_core.data.conditioning import by_length
    from sid_pack.sid_core.method.process import Flow

    tiny = TINY[name]
    if not tiny.known():
        pytest.skip(f"this ComfyUI has no {tiny.kind}")
    seen: list[torch.Tensor] = []
    with torch.inference_mode():
        model = tiny.model()
        network, process = model.model.diffusion_model, process_of(model)
        if families.ADVERSARIAL in families.family_of(model).cannot:
            pytest.skip("it has no adversarial term")
        x_t = torch.randn(1, *tiny.latent, generator=torch.manual_seed(0))
        cond = conditioning_tensors(model, tiny.conditioning(0), x_t)
        t = torch.full((1,), 0.4 if isinstance(process, Flow) else 400)
        with watched(network, seen.append):
            by_length(predictor(model.model, process))(x_t, t, cond)
    (features,) = seen
    assert features.ndim == (4 if families.last_tokens(network) is None else 3)
