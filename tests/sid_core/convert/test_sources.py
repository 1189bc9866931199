"""What a file or folder is told to be, of those that people have."""

import json
import struct

import pytest
import torch
from safetensors.torch import save, save_file

from sid_pack.sid_core.convert.names import network_names, unknown_family
from sid_pack.sid_core.convert.sources import open_source

WEIGHTS = {"conv_in.weight": torch.ones(2, 3), "conv_in.bias": torch.ones(2), "mid.weight": torch.ones(4)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3438\n"


def component(folder, files: dict[str, list[str]], index: str | None = None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    for file, names in files.items():
        save_file({name: WEIGHTS[name] for name in names}, folder / file)
    if index:
        held = {name: file for file, names in files.items() for name in names}
        (folder / index).write_text(json.dumps({"weight_map": held}))
    return folder


def test_the_network_of_a_pipeline_is_found_and_its_python_is_not_run(tmp_path):
    component(tmp_path / "unet", {"diffusion_pytorch_model.safetensors": list(WEIGHTS)})
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "pipeline.py").write_text("raise SystemExit('it ran')")
    source = open_source(tmp_path)
    assert {name: tensor.tolist() for name, tensor in source.tensors.items()} == {
        name: tensor.tolist() for name, tensor in WEIGHTS.items()
    }
    assert source.config["_class_name"] == "UNet2DConditionModel"
    assert source.kind == "a diffusers pipeline, its unet in one file"


SHARDS = {
    "a-00001-of-00002.safetensors": ["conv_in.weight"],
    "a-00002-of-00002.safetensors": ["conv_in.bias", "mid.weight"],
}


@pytest.mark.parametrize("given", ["", "a-00002-of-00002.safetensors", "a.safetensors.index.json"])
def test_shards_are_one_network_whichever_of_them_is_chosen(tmp_path, given):
    folder = component(tmp_path / "transformer", SHARDS, "a.safetensors.index.json")
    source = open_source(folder / given if given else folder)
    assert dict(source.tensors).keys() == WEIGHTS.keys()
    assert "in 2 files" in source.kind
    assert torch.equal(source.tensors.rows("conv_in.weight", 1, 2), torch.ones(1, 3))


def test_in_a_folder_that_many_share_the_settings_of_others_are_not_its_own(tmp_path):
    """As in ComfyUI's folders of models, where somebody has put a broken index, and a LoRA's settings."""
    save_file(WEIGHTS, tmp_path / "some_4step.safetensors")
    (tmp_path / "other.safetensors.index.json").write_text("<html>")
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 64}')
    (tmp_path / "config.json").write_text('{"_class_name": "SanaTransformer2DModel"}')
    source = open_source(tmp_path / "some_4step.safetensors")
    assert source.tensors.keys() == WEIGHTS.keys() and not source.config
    torch.save(WEIGHTS, tmp_path / "some_4step.bin")
    assert not open_source(tmp_path / "some_4step.bin").config
    # Its own settings, in its own metadata, are before those beside it.
    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8})}
    save_file(WEIGHTS, tmp_path / "pytorch_lora_weights.safetensors", said)
    assert open_source(tmp_path / "pytorch_lora_weights.safetensors").config["lora_alpha"] == 8


def test_the_full_precision_is_taken_where_there_are_several(tmp_path):
    files = {
        "diffusion_pytorch_model.fp16.safetensors": ["mid.weight"],
        "diffusion_pytorch_model.safetensors": list(WEIGHTS),
    }
    assert len(open_source(component(tmp_path / "unet", files)).tensors) == 3


def test_a_missing_shard_is_named(tmp_path):
    folder = component(tmp_path / "transformer", SHARDS, "a.safetensors.index.json")
    (folder / "a-00001-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^Download 'a-00001-of-00002\.safetensors' as well"):
        open_source(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "b/c.safetensors"])
def test_an_index_reaches_no_file_of_another_folder(tmp_path, name):
    (tmp_path / "secret.safetensors").write_bytes(save(WEIGHTS))
    folder = component(tmp_path / "transformer", {})
    (folder / "a.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ValueError, match="as well"):
        open_source(folder)


WHOLE = save(WEIGHTS)
ODD = {
    "an empty folder": (None, "is a folder without transformer/"),
    "a web page": (b"<!DOCTYPE html><html>", "it is a web page"),
    "a pointer": (POINTER, "Git LFS pointer"),
    "one cut short": (WHOLE[:-5], "cut short"),
    "one cut within its header": (WHOLE[:40], "cut short"),
    "an empty file": (b"", "it is empty"),
    "holes": (struct.pack("<Q", 2) + b"{}" + b"1234", "truncated or of another kind"),
}


@pytest.mark.parametrize("what", ODD)
def test_each_is_told_for_what_it_is(tmp_path, what):
    content, expected = ODD[what]
    path = tmp_path / "student.safetensors"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError) as refused:
        open_source(path)
    assert expected in str(refused.value) and "student.safetensors" in str(refused.value)


def test_a_distributed_checkpoint_is_told_with_what_merges_it(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"")
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(ValueError, match="dcp_to_torch_save"):
        open_source(tmp_path)


def test_what_is_in_front_of_a_networks_names_is_taken_off_and_what_is_beside_it_is_left_out():
    names = [
        "model.ema._fsdp_wrapped_module.unet.module.conv_in.weight",
        "model.net.unet.conv_in.weight",
        "model.ema.logvar.bias",
    ]
    assert network_names(names) == ({"conv_in.weight": names[0]}, [names[1], names[2]])
    checkpoint = ["model.diffusion_model.out.2.bias", "first_stage_model.x", "cond_stage_model.y"]
    assert network_names(checkpoint) == ({"out.2.bias": checkpoint[0]}, checkpoint[1:])


def test_sana_is_known_by_its_class_and_by_its_names():
    assert unknown_family("SanaTransformer2DModel", []) == "SANA"
    assert unknown_family(None, ["transformer_blocks.0.ff.conv_inverted.weight"]) == "SANA"
    assert unknown_family("UNet2DConditionModel", ["conv_in.weight"]) is None
