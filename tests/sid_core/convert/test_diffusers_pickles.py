"""Whole networks of the real diffusers package, pickled as SiD-LSG, SiDA and ml-sid-dit pickle them."""

import io
import pickle

import pytest
import torch

from sid_pack.sid_core.convert.pickles import read_pickle

diffusers = pytest.importorskip("diffusers", reason="diffusers isn't installed", exc_type=ImportError)

UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
NETWORKS = {
    "SD1.5": lambda: diffusers.UNet2DConditionModel(**UNET),
    "SD2.1": lambda: diffusers.UNet2DConditionModel(
        **UNET | {"use_linear_projection": True, "attention_head_dim": (4, 8)}
    ),
    "SD3": lambda: diffusers.SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=8,
    ).half(),
}


class ZipInside(pickle.Pickler):
    """Writes storages in torch.save's zip form; PyTorch itself takes the older for them."""

    def reducer_override(self, obj):
        if not isinstance(obj, torch.storage.TypedStorage | torch.UntypedStorage):
            return NotImplemented
        buffer = io.BytesIO()
        torch.save(obj, buffer)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


@pytest.mark.parametrize("pickler", [pickle.Pickler, ZipInside])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_diffusers_network_is_its_state_dict_and_settings(tmp_path, name, pickler):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    path = tmp_path / "batch512_cfg4.54.54.5_t625_8380_v2.pkl"
    with path.open("wb") as file:
        pickler(file).dump({"ema": network})
    found = read_pickle(path)
    expected = network.state_dict()
    assert list(found.tensors) == list(expected)
    for key, tensor in expected.items():
        assert found.tensors[key].dtype == tensor.dtype and torch.equal(found.tensors[key], tensor), key
    assert found.root == "ema"
    assert found.class_name == f"{type(network).__module__}.{type(network).__name__}"
    assert found.config == dict(network.config) | {"_use_default_values": network.config["_use_default_values"]}
