"""Files of the models that users have, from the stock loader through a distillation to a saved student."""

import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_files import CHECKPOINTS, PREFIX, Checkpoint, write_scaled_fp8
from fakes import lent_weights, text_encoder
from graphs import node
from oracles import relative_error, stable_diffusion_alphas
from safetensors.torch import load_file

FAKES = text_encoder.NODE_CLASS_MAPPINGS | lent_weights.NODE_CLASS_MAPPINGS
SIDE = 64
LEARNING_RATES = {"full": 1e-5, "lora": 1e-3}
PROMPT = "a lighthouse"


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request, comfyui) -> Iterator[Checkpoint]:
    """A kind of checkpoint; its file is where the stock loader looks, and its text encoder is a node."""
    import nodes

    written = CHECKPOINTS[request.param].write(models_folder("checkpoints"))
    nodes.NODE_CLASS_MAPPINGS.update(FAKES)
    yield CHECKPOINTS[request.param]
    for name in FAKES:
        del nodes.NODE_CLASS_MAPPINGS[name]
    written.unlink()


def models_folder(kind: str) -> Path:
    """The folder of the test's ComfyUI that the loaders of this kind look into."""
    import folder_paths

    folder = Path(folder_paths.models_dir) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def loaded(checkpoint: Checkpoint) -> dict:
    """The file by the stock loader, its prompts by the stock encoder node, and a latent of two pictures."""
    return {
        "file": node("CheckpointLoaderSimple", ckpt_name=f"{checkpoint.name}.safetensors"),
        "clip": node("FakeTextEncoder", context=checkpoint.context, pooled=checkpoint.pooled or 0),
        "positive": node("CLIPTextEncode", clip=["clip", 0], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["clip", 0], text=""),
        "latent": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=2),
    }


def generated(model: list, steps: int = 0) -> dict:
    """Two pictures' latents, saved by the stock node, for these files have no VAE to show them with."""
    settings = {"t_init": 0.0, "noise_mode": "as trained", "width": SIDE, "height": SIDE, "batch_size": 2, "seed": 1}
    return {
        "generated": node("SiDGenerate", model=model, positive=["positive", 0], steps=steps, **settings),
        "kept": node("SaveLatent", samples=["generated", 0], filename_prefix="latent"),
    }


def distilled(checkpoint: Checkpoint, mode: str) -> dict:
    """Two iterations of the smallest batch that has two prompts in it."""
    settings = {"iterations": 2, "batch_size": 2, "steps": 2, "t_init": 0.0, "learning_rate_decay": False, "alpha": 1.0}
    rate = LEARNING_RATES[mode]
    settings |= {"student_learning_rate": rate, "fake_learning_rate": rate, "ema_half_life": 1.0}
    settings |= {"seed": 3, "run_name": f"{checkpoint.name} {mode}", "existing_run": "start over"}
    settings |= {"preview_every": 1000, "save_every": 1000, "mode": mode}
    wires = {"guider": ["guider", 0], "clip": ["clip", 0], "prompts": ["prompts", 0], "latent": ["latent", 0]}
    conds = {"positive": ["positive", 0], "negative": ["negative", 0]}
    return {
        **loaded(checkpoint),
        "guider": node("SiDLSGGuider", model=["file", 0], guidance_scale=1.5, **conds),
        "prompts": node("SiDPrompts", text=f"{PROMPT}\na harbour\na boat", file=""),
        "distilled": node("SiDDistill", **wires, **settings),
        "saved": node("SiDSaveStudent", model=["distilled", 0], filename_prefix="student", precision="float32"),
        **generated(["distilled", 0]),
    }


def network_of(model) -> dict[str, torch.Tensor]:
    """The weights that a MODEL has by itself, without patches."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    return model.model.diffusion_model.state_dict()


def weights_in(path: Path, prefix: str = PREFIX) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in load_file(path).items()}


def test_the_stock_loader_takes_the_file_for_what_it_stands_for(checkpoint, run_graph):
    from comfy import model_base, supported_models

    result = run_graph(loaded(checkpoint) | generated(["file", 0], steps=1))
    assert result.success, result.error
    model = result.value("file").model
    assert type(model.model_config) is getattr(supported_models, checkpoint.detected)
    assert model.model_type is model_base.ModelType[checkpoint.prediction]
    assert isinstance(model, model_base.SDXL) == (checkpoint.name == "sdxl")
    attention = [module for module in model.diffusion_model.modules() if hasattr(module, "heads")]
    assert {(block.heads, block.dim_head) for block in attention} == {(8, 40) if checkpoint.name == "sd15" else (5, 64)}
    in_file = weights_in(models_folder("checkpoints") / f"{checkpoint.name}.safetensors")
    in_file.pop((checkpoint.marker or "").removeprefix(PREFIX), None)
    network = network_of(result.value("file"))
    assert in_file.keys() == network.keys()
    assert all(torch.equal(in_file[key].to(weight), weight) for key, weight in network.items())


def test_one_step_is_the_raw_network_with_the_formula_of_its_prediction(checkpoint, run_graph):
    """What SiDGenerate makes of the file, against x̂ = (x_t - σ ε̂)/α or α x_t - σ v̂ written out here."""
    result = run_graph(loaded(checkpoint) | generated(["file", 0], steps=1))
    assert result.success, result.error
    words, extra = result.value("positive")[0]
    alpha_bar = stable_diffusion_alphas()[625]
    alpha, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    x_t = sigma * torch.randn(2, 4, SIDE // 8, SIDE // 8, generator=torch.manual_seed(1))
    given = {"context": words.expand(2, -1, -1), "transformer_options": {}}
    if checkpoint.pooled:
        sizes = torch.tensor([SIDE, SIDE, 0, 0, SIDE, SIDE])
        given["y"] = torch.cat([extra["pooled_output"], size_embedding(sizes)], 1).expand(2, -1)
    with torch.inference_mode():
        raw = result.value("file").model.diffusion_model(x_t, torch.full((2,), 625.0), **given)
    clean = alpha * x_t - sigma * raw if checkpoint.prediction == "V_PREDICTION" else (x_t - sigma * raw) / alpha
    scale = 0.13025 if checkpoint.name == "sdxl" else 0.18215  # latents outside of the network are those of the VAE
    assert relative_error(result.value("generated")["samples"], clean / scale) < 1e-3
    assert 0.1 < raw.std() < 10  # about that of noise, as a trained network gives


def size_embedding(sizes: torch.Tensor) -> torch.Tensor:
    """SDXL's conditioning on six numbers of pixels: 128 cosines and sines of each (1, 6 * 256)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = sizes[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1).flatten()[None]


def every_weight_has_moved(file: Path, teacher: dict[str, torch.Tensor]) -> None:
    """Every weight has gradients, and with β1 = 0 two steps of Adam move none by more than (1 + √2) learning rates."""
    rate = LEARNING_RATES["full"]
    steps = {key: (weight - teacher[key].float()).abs() / rate for key, weight in weights_in(file).items()}
    assert all(step.max() > 0.5 for step in steps.values())
    assert all(step.max() < 1.1 * (1 + math.sqrt(2)) for step in steps.values())


def every_layer_has_a_lora(file: Path, teacher: dict[str, torch.Tensor]) -> None:
    """And nothing else is in the file."""
    tensors = load_file(file)
    every_lora_has_moved(tensors, teacher)


def every_lora_has_moved(tensors: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor]) -> None:
    """In each linear layer of the transformers and nowhere else, by the same bound as whole weights."""
    transformers = re.compile(r"(to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)\.weight")
    assert len(tensors) == 3 * sum(bool(transformers.search(key)) for key in teacher) > 30
    rate, ups = LEARNING_RATES["lora"], [up for name, up in tensors.items() if name.endswith(".lora_up.weight")]
    assert all(0.5 * rate < up.abs().max() < 1.1 * rate * (1 + math.sqrt(2)) for up in ups)


# How a student is distilled, and what its file must hold then.
MODES = {"full": every_weight_has_moved, "lora": every_layer_has_a_lora}
FOLDERS = {"full": "diffusion_models", "lora": "loras"}


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_is_distilled_and_its_student_comes_back(checkpoint, mode, run_graph):
    if (checkpoint.name, mode) == ("sdxl", "full"):
        pytest.skip("its state is of 4 GB, and its layers are of the kinds that SD2 has")
    result = run_graph(distilled(checkpoint, mode))
    assert result.success, result.error
    shutil.rmtree(result.value("distilled", 1))  # the run's state is large: seven times the weights in float32
    latent = result.value("generated")["samples"]
    assert latent.shape == (2, 4, SIDE // 8, SIDE // 8) and latent.isfinite().all()

    teacher = weights_in(models_folder("checkpoints") / f"{checkpoint.name}.safetensors")
    assert all(torch.equal(teacher[key].to(weight), weight) for key, weight in network_of(result.value("file")).items())
    untrained = run_graph(loaded(checkpoint) | generated(["file", 0], steps=2)).value("generated")["samples"]
    assert 1e-3 < relative_error(latent, untrained) < 1

    file = Path(result.value("saved"))
    MODES[mode](file, teacher)
    student = models_folder(FOLDERS[mode]) / f"{checkpoint.name}.safetensors"
    shutil.move(file, student)
    load = node("SiDLoadStudent", model=["file", 0], student=student.name)
    again = run_graph(loaded(checkpoint) | {"student": load} | generated(["student", 0]))
    assert again.success, again.error
    student.unlink()
    assert torch.equal(again.value("generated")["samples"], latent)


def test_a_quantized_model_is_distilled_into_a_lora(checkpoint, run_graph):
    """As ComfyUI loads a "scaled fp8" file: by operations of its own in 0.3.75, as tensors of their own kind later."""
    if checkpoint.name == "sdxl":
        pytest.skip("its layers are of the same kinds as SD2's, and many")
    folder = models_folder("checkpoints")
    quantized = folder / f"{checkpoint.name}_fp8.safetensors"
    write_scaled_fp8(folder / f"{checkpoint.name}.safetensors", quantized)
    graph = distilled(checkpoint, "lora")
    graph["file"]["inputs"]["ckpt_name"] = quantized.name
    plain = loaded(checkpoint) | generated(["file", 0], steps=2)
    plain["file"] = graph["file"]
    before = run_graph(plain)
    assert before.success, before.error
    result = run_graph(graph)
    assert result.success, result.error
    shutil.rmtree(result.value("distilled", 1))
    teacher = weights_in(folder / f"{checkpoint.name}.safetensors")
    quantized.unlink()
    Path(result.value("saved")).unlink()
    every_lora_has_moved(result.value("distilled").get_attachment("sid_student_lora"), teacher)
    latent, untrained = (run.value("generated")["samples"] for run in (result, before))
    assert 1e-3 < relative_error(latent, untrained) < 1


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_only_lent_are_read_again_to_train_with(checkpoint, mode, run_graph):
    import comfy.model_management
    from comfy.model_patcher import ModelPatcher

    if checkpoint.name != "sd15" or not hasattr(ModelPatcher, "is_dynamic"):
        pytest.skip("one kind of file is enough, and this ComfyUI always has its weights in memory")
    students = {}
    for model in ("file", "lent"):
        graph = distilled(checkpoint, mode) | {"lent": node("FakeLentWeights", model=["file", 0])}
        graph["guider"]["inputs"]["model"] = [model, 0]
        comfy.model_management.unload_all_models()  # else the other MODEL's weights would do
        result = run_graph({name: part for name, part in graph.items() if name not in ("generated", "kept")})
        assert result.success, result.error
        shutil.rmtree(result.value("distilled", 1))
        file = Path(result.value("saved"))
        students[model] = load_file(file)
        file.unlink()
        assert result.value("distilled").is_dynamic() == (model == "lent")
    assert students["file"].keys() == students["lent"].keys()
    assert all(torch.equal(tensor, students["lent"][key]) for key, tensor in students["file"].items())


def test_lent_weights_without_a_file_are_refused(comfyui):
    import tiny_models

    from sid_pack.nodes.host.weights import with_ordinary_weights

    (lent,) = lent_weights.FakeLentWeights().run(tiny_models.sd15())
    if not hasattr(lent, "cached_patcher_init"):
        pytest.skip("this ComfyUI always has its weights in memory")
    with pytest.raises(ValueError, match="--disable-dynamic-vram"):
        with_ordinary_weights(lent)
