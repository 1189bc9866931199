"""The command `convert`, in ComfyUI's Python, on a network that diffusers has saved."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sid_pack.sid_core.headless import architectures
from sid_pack.sid_core.headless.command import main

TINY = {"sample_size": 8, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2}
TINY |= {"attention_head_dim": 64, "num_attention_heads": 2, "caption_projection_dim": 128, "pos_embed_max_size": 8}
TINY |= {"joint_attention_dim": 64, "pooled_projection_dim": 2048}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pipeline's folder of shards, as SiD-DiT's are."""
    from diffusers import SD3Transformer2DModel

    folder = tmp_path_factory.mktemp("hub") / "SiD-DiT-SD3-tiny"
    SD3Transformer2DModel(**TINY).save_pretrained(folder / "transformer", max_shard_size="2MB")
    return folder


@pytest.fixture(scope="module", autouse=True)
def asked_once():
    """The host is asked once for each network: it takes seconds to start."""
    answers: dict = {}
    ask = architectures.architecture_of

    def known(comfyui, shapes):
        key = (comfyui, tuple(sorted(shapes)))
        if key not in answers:
            answers[key] = ask(comfyui, shapes)
        return answers[key]

    architectures.architecture_of = known
    yield
    architectures.architecture_of = ask


def convert(comfyui_path, *arguments: object) -> int:
    return main(["convert", *map(str, arguments), "--comfyui", str(comfyui_path)])


def test_a_folder_becomes_a_student_and_a_folder_of_diffusers_again(folder, comfyui_path, tmp_path, capsys):
    from diffusers import SD3Transformer2DModel

    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "back"
    assert convert(comfyui_path, folder, "--output", ours) == 0
    said = capsys.readouterr().out
    assert "SiD-DiT-SD3-tiny: a diffusers pipeline, its transformer in 3 files, a whole SD3, 51 tensors" in said
    assert "method sid by its name; steps 4, t_init 1.0, guidance unknown, noise_mode fresh as usual" in said
    assert f"wrote {ours}: {ours.stat().st_size:,} bytes, 51 tensors, read again and the same" in said
    assert "sha256 " in said
    with safe_open(ours, "pt") as file:
        metadata = file.metadata()
        assert all(name.startswith("model.diffusion_model.") for name in file.keys())  # noqa: SIM118
    assert json.loads(metadata["sid.base"]).startswith("SD3-51-")
    assert convert(comfyui_path, ours, "--to", "diffusers", "--base", folder, "--output", theirs) == 0
    back = SD3Transformer2DModel.from_pretrained(theirs).state_dict()
    before = SD3Transformer2DModel.from_pretrained(folder / "transformer").state_dict()
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in before.items())

    taken = tmp_path / "of another"
    taken.mkdir()
    (taken / "config.json").write_text('{"mine": 1}')
    assert convert(comfyui_path, ours, "--to", "diffusers", "--base", folder, "--output", taken) == 1
    assert "Give a folder of its own as --output: config.json" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in taken.iterdir()] == [("config.json", '{"mine": 1}')]


def test_a_lora_is_converted_on_the_base_that_is_named(folder, comfyui_path, tmp_path, capsys):
    lora = tmp_path / "a_2step.safetensors"
    layer = "transformer.transformer_blocks.0.attn.to_k"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 128), f"{layer}.lora_B.weight": torch.ones(128, 2)}
    save_file(tensors, lora)
    assert convert(comfyui_path, lora) == 1
    assert "error: Give the model that a_2step.safetensors is a LoRA of, by --base FILE" in capsys.readouterr().err
    arguments = (lora, "--base", folder, "--precision", "float16", "--t-init", "0.9")
    assert convert(comfyui_path, *arguments) == 0
    found = load_file(tmp_path / "a_2step.student.safetensors")
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == {
        f"{layer}.lora_down.weight": (torch.float16, (2, 128)),
        f"{layer}.lora_up.weight": (torch.float16, (128, 2)),
        f"{layer}.alpha": (torch.float16, ()),
    }
    capsys.readouterr()
    assert convert(comfyui_path, *arguments) == 1  # it is there already
    assert "error: Give another --output, or move that file" in capsys.readouterr().err


REFUSED = {
    "sana": (TINY | {"_class_name": "SanaTransformer2DModel"}, "it is a SANA model"),
    "other": (TINY | {"_class_name": "CogView4Transformer2DModel"}, "knows no network like that of other (CogView4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_comfyui_has_not_is_told_by_name(name, comfyui_path, tmp_path, capsys):
    config, said = REFUSED[name]
    (tmp_path / name / "transformer").mkdir(parents=True)
    (tmp_path / name / "transformer" / "config.json").write_text(json.dumps(config))
    save_file({"blocks.0.x": torch.ones(2)}, tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors")
    assert convert(comfyui_path, tmp_path / name) == 1
    assert said in capsys.readouterr().err


def test_a_web_page_is_told_without_starting_anything(comfyui_path, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_text("<html>")
    assert convert(comfyui_path, tmp_path / "x.safetensors") == 1
    assert "it is a web page" in capsys.readouterr().err
