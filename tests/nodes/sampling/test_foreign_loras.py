"""LoRAs of others on their base: as diffusers and peft apply them, W + alpha/rank · B·A."""

import json
from pathlib import Path

import pytest
import torch
from diffusers_networks import FAMILIES, Pair
from safetensors.torch import load_file, save_file

RANK, ALPHA = 4, 6
CONVOLVED = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.2"]
JOINT = ["to_q", "to_k", "to_v", "add_k_proj", "to_out.0", "ff.net.2", "norm_out.linear", "norm1.linear"]
TOLD = {"steps": 2}
WITHOUT_KOHYA = {"AuraFlow", "PixArtSigma", "ZImage"}  # for parts of layers, as diffusers has them


@pytest.fixture(scope="module", params=["sd15", "sdxl", "sd3", "flux", "pixart", "auraflow", "z-image"])
def adapted(request, comfyui) -> Pair:
    """diffusers' network with a LoRA of peft's on it; `base` has the network's own weights, without the LoRA."""
    from peft import LoraConfig, inject_adapter_in_model

    from sid_pack.nodes.sampling.attached import as_student

    with torch.inference_mode(False), torch.no_grad():
        pair = FAMILIES[request.param]()
        targets = CONVOLVED if is_unet(pair) else JOINT
        info = student_of(pair, weights_of(pair)).info
        whole = {name: weight.whole() for name, weight in student_of(pair, weights_of(pair)).weights.items()}
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets), pair.network)
        generator = torch.manual_seed(2)
        for name, tensor in pair.network.named_parameters():
            if ".lora_" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        return Pair(pair.network, as_student(pair.base, whole, info), pair.ours, pair.theirs)


def is_unet(pair: Pair) -> bool:
    return "UNet" in type(pair.network).__name__


def weights_of(pair: Pair):
    from sid_pack.sid_core.convert.sources import Source, Store

    tensors = dict(pair.network.state_dict())
    return Source(Path("a_4step"), "", Store(dict.fromkeys(tensors, tensors)))


def student_of(pair: Pair, source):
    from sid_pack.nodes.host.architectures import architecture_of
    from sid_pack.sid_core.convert.facts import Facts
    from sid_pack.sid_core.convert.students import student_of

    return student_of(source, architecture_of(pair.base), Facts())


def lora_of(pair: Pair) -> dict[str, torch.Tensor]:
    from peft.utils import get_peft_model_state_dict

    return {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(pair.network).items()}


def as_diffusers_saves_it(pair: Pair, folder: Path) -> Path:
    from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

    part = "unet" if is_unet(pair) else "transformer"
    pipeline = StableDiffusionPipeline if is_unet(pair) else StableDiffusion3Pipeline
    settings = {f"{part}_lora_adapter_metadata": {"r": RANK, "lora_alpha": ALPHA}}
    pipeline.save_lora_weights(folder, **{f"{part}_lora_layers": lora_of(pair)}, **settings)
    return folder / "pytorch_lora_weights.safetensors"


def as_peft_saves_it(pair: Pair, folder: Path) -> Path:
    save_file(
        {f"base_model.model.{name}": t for name, t in lora_of(pair).items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return folder / "adapter_model.safetensors"


def as_kohya_saves_it(pair: Pair, folder: Path) -> Path:
    """With a text encoder's layer, as most have. For transformers: as OneTrainer names them."""
    start = "lora_unet_" if is_unet(pair) else "lora_transformer_"
    tensors = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4, 4)}
    for name, tensor in lora_of(pair).items():
        layer, _, matrix = name.removesuffix(".weight").rpartition(".")
        stem = start + layer.replace(".", "_")
        tensors[f"{stem}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = tensor
        tensors[f"{stem}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


FORMS = [as_diffusers_saves_it, as_peft_saves_it, as_kohya_saves_it]


def assert_same_prediction(pair: Pair, model) -> None:
    import comfy.model_management

    with torch.inference_mode(False), torch.no_grad():
        theirs = pair.theirs()
        comfy.model_management.load_models_gpu([pair.base], force_full_load=True)
        before = pair.ours(pair.base.model.diffusion_model)
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        ours = pair.ours(model.model.diffusion_model)
    size = theirs.abs().mean()
    assert (before - theirs).abs().mean() > 0.02 * size
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * size.item())


@pytest.mark.parametrize("saved", FORMS)
def test_a_lora_of_others_predicts_as_peft_does(saved, adapted, tmp_path):
    from sid_pack.nodes.sampling.students import load_student

    path = saved(adapted, tmp_path)
    path.with_suffix(".json").write_text(json.dumps(TOLD))
    assert_same_prediction(adapted, load_student(adapted.base, path))


def test_one_that_was_converted_goes_into_the_stock_loader_and_out_to_peft_and_kohya(adapted, tmp_path, caplog):
    import comfy.sd

    from sid_pack.nodes.host.architectures import architecture_of
    from sid_pack.sid_core.convert.errors import ForeignFileError
    from sid_pack.sid_core.convert.lora import is_lora
    from sid_pack.sid_core.convert.sources import open_source
    from sid_pack.sid_core.convert.stream import write_streamed
    from sid_pack.sid_core.convert.students import KOHYA, PEFT, exported

    theirs = as_diffusers_saves_it(adapted, tmp_path)
    theirs.with_suffix(".json").write_text(json.dumps(TOLD))
    student = student_of(adapted, open_source(theirs))
    ours = tmp_path / "ours.safetensors"
    write_streamed(ours, student.weights, student.info.to_metadata(), lambda *_: None)

    def stock(path: Path):
        model, _ = comfy.sd.load_lora_for_models(adapted.base, None, load_file(path), 1.0, 0.0)
        assert "not loaded" not in caplog.text
        return model

    assert_same_prediction(adapted, stock(ours))
    architecture = architecture_of(adapted.base)
    has_kohya = architecture.kind not in WITHOUT_KOHYA
    for form in (KOHYA, PEFT) if has_kohya else (PEFT,):
        weights = exported(open_source(ours), architecture, form)
        write_streamed(tmp_path / f"{form}.safetensors", weights, {}, lambda *_: None)
    if has_kohya:
        kohya = load_file(tmp_path / "kohya.safetensors")
        assert all("." not in name.removesuffix(".weight").rpartition(".")[0] for name in kohya)
        assert_same_prediction(adapted, stock(tmp_path / "kohya.safetensors"))
    else:
        with pytest.raises(ForeignFileError, match="^Convert --to peft instead: kohya has no name for "):
            exported(open_source(ours), architecture, KOHYA)
    peft = load_file(tmp_path / "peft.safetensors")
    # As diffusers has it, alpha is in B, and A is what it was.
    before = load_file(theirs)
    assert is_lora(peft) and peft.keys() == before.keys()
    for name, tensor in before.items():
        scale = ALPHA / RANK if ".lora_B." in name else 1.0
        torch.testing.assert_close(peft[name], tensor * scale, rtol=1e-6, atol=0)
