"""Students of others on their base: what diffusers' own network predicts is what ComfyUI's then does."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers_networks import FAMILIES, Pair
from safetensors.torch import save_file

STEPS = {"steps": 4}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, comfyui) -> Pair:
    with torch.inference_mode(False), torch.no_grad():
        return FAMILIES[request.param]()


def network_of(model) -> torch.nn.Module:
    """With the MODEL's weights in it, as it is while it samples; the network is one for all MODELs of a base."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return model.model.diffusion_model


def load(pair: Pair, path: Path):
    from sid_pack.nodes.sampling.students import load_student

    return load_student(pair.base, path)


def student_in(pair: Pair, path: Path):
    """What the converter makes of it for the base."""
    from sid_pack.nodes.host.architectures import architecture_of
    from sid_pack.sid_core.convert.facts import Facts
    from sid_pack.sid_core.convert.sources import open_source
    from sid_pack.sid_core.convert.students import student_of

    return student_of(open_source(path), architecture_of(pair.base), Facts())


def assert_same_prediction(pair: Pair, path: Path) -> None:
    with torch.inference_mode(False), torch.no_grad():
        theirs = pair.theirs()
        before = pair.ours(network_of(pair.base))
        ours = pair.ours(network_of(load(pair, path)))
    size = theirs.abs().mean()
    assert (before - theirs).abs().mean() > 0.1 * size  # else the base's would do
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * size.item())


def test_a_folder_in_shards_predicts_as_diffusers_does(pair, tmp_path):
    component = "unet" if "UNet" in type(pair.network).__name__ else "transformer"
    size = sum(tensor.nbytes for tensor in pair.network.state_dict().values())
    pair.network.save_pretrained(tmp_path / "some_4step" / component, max_shard_size=size // 2)
    shard = sorted((tmp_path / "some_4step" / component).glob("*-00001-of-*.safetensors"))[0]
    (shard.parent / "student.json").write_text(json.dumps(STEPS))
    assert_same_prediction(pair, shard)


def test_a_pickle_of_the_network_as_published_predicts_as_diffusers_does(pair, tmp_path):
    """SiD's own files: a whole module, under 'ema', by pickle and not by torch.save."""
    path = tmp_path / "batch512_cfg4.54.54.5_t400_8380_v2.pkl"
    path.write_bytes(pickle.dumps({"ema": pair.network}))
    assert_same_prediction(pair, path)
    assert student_in(pair, path).info.guidance == "lsg 4.5"


def test_a_training_snapshot_predicts_as_diffusers_does_and_what_is_not_the_network_is_told(pair, tmp_path):
    """FastGen's: state dicts of torch.save, the network's names behind its component's, and a head of the loss."""
    component = "unet" if "UNet" in type(pair.network).__name__ else "transformer"
    weights = {f"{component}.{name}": tensor for name, tensor in pair.network.state_dict().items()}
    weights |= {"logvar_linear.weight": torch.ones(1, 4), "logvar_linear.bias": torch.ones(1)}
    path = tmp_path / "0001000_2step.pth"
    torch.save({"model": {"net": {name: tensor * 0 for name, tensor in weights.items()}, "ema": weights}}, path)
    assert_same_prediction(pair, path)
    (found, dropped, facts) = student_in(pair, path).told
    assert f"a whole {type(pair.base.model.model_config).__name__}" in found
    assert "logvar_linear (2)" in dropped
    assert facts.startswith("steps 2 by its name; ")


@pytest.mark.parametrize("name", ["conv_in.scale_weight", "scaled_fp8"])
def test_quantized_weights_are_not_taken_without_their_scales(pair, tmp_path, name):
    from sid_pack.sid_core.convert.errors import ForeignFileError

    weights = {key: weight.contiguous() for key, weight in pair.network.state_dict().items()}
    save_file(weights | {name: torch.ones(1)}, tmp_path / "some_4step.safetensors")
    with pytest.raises(ForeignFileError, match="^Take the file that is not quantized .* 1 of its weights .*" + name):
        load(pair, tmp_path / "some_4step.safetensors")


def test_out_to_diffusers_and_in_again_is_the_same_to_the_bit(pair, tmp_path):
    from diffusers.models.model_loading_utils import load_state_dict

    from sid_pack.nodes.host.architectures import architecture_of
    from sid_pack.sid_core.convert.sources import open_source
    from sid_pack.sid_core.convert.stream import write_streamed
    from sid_pack.sid_core.convert.students import DIFFUSERS, exported

    network = network_of(pair.base)
    ours = tmp_path / "ours_4step.safetensors"
    save_file({f"model.diffusion_model.{name}": w.contiguous() for name, w in network.state_dict().items()}, ours)
    weights = exported(open_source(ours), architecture_of(pair.base), DIFFUSERS)
    theirs = tmp_path / "theirs_4step.safetensors"
    write_streamed(theirs, weights, {}, lambda *_: None)
    with torch.inference_mode(False), torch.no_grad():
        pair.network.load_state_dict(load_state_dict(theirs))  # strict: diffusers finds all, and nothing else
        torch.testing.assert_close(pair.theirs(), pair.ours(network), rtol=1e-4, atol=1e-4)
    back = {name: weight.whole() for name, weight in student_in(pair, theirs).weights.items()}
    assert back.keys() == network.state_dict().keys()
    drawn_by = network.state_dict().keys() - {"norm_final.weight", "y_embedder.y_embedding"}  # not in diffusers' files
    assert all(torch.equal(back[name], network.state_dict()[name]) for name in drawn_by)
