"""Prompts that go through the host's own text encoders together: the same as one by one, in one forward for many."""

import pytest
import torch
from torch import Tensor

LONG = "a very long description of many small things, " * 12  # three chunks of CLIP's
TEXTS = [
    "",
    "a cat",
    "(a cat:1.3) on a [red] mat",
    "a red cat",
    "eine Katze",
    LONG,
    LONG + "(a dog:0.5)",
    "a cat",
    "two",
]
TEXTS += [f"{i} cats" for i in range(20)]

SMALL_CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
SMALL_CLIP |= {"projection_dim": 32}
SMALL_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
SMALL_QWEN = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL_QWEN |= {"num_hidden_layers": 3}
OPTIONS = {
    "clip_l_model_config": SMALL_CLIP,
    "clip_g_model_config": SMALL_CLIP,
    "t5xxl_model_config": SMALL_T5,
    "qwen3_4b_model_config": SMALL_QWEN,
}
ENCODERS = {"SD1.5": 1, "SDXL": 2, "FLUX": 2, "Z-Image": 1, "demo": 1}  # how many a prompt goes through


def clip_of(family: str):
    """A CLIP of the host's own classes, narrow and with random weights."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.text_encoders.flux as flux
    import comfy.text_encoders.z_image as z_image
    from comfy.supported_models_base import ClipTarget

    if family == "demo":
        from sid_pack.nodes.demo.model import load_demo

        return load_demo()[1]
    tokenizer, model = {
        "SD1.5": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "SDXL": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
        "FLUX": (flux.FluxTokenizer, flux.flux_clip(dtype_t5=torch.float32)),
        "Z-Image": (z_image.ZImageTokenizer, z_image.te(dtype_llama=torch.float32)),
    }[family]
    clip = comfy.sd.CLIP(ClipTarget(tokenizer, model), model_options=OPTIONS)
    draw = torch.Generator().manual_seed(0)
    for weight in clip.cond_stage_model.state_dict().values():
        weight.normal_(std=0.5, generator=draw)
    return clip


@pytest.fixture(params=ENCODERS)
def family(request):
    return request.param


@pytest.fixture
def clip(comfyui, family):
    return clip_of(family)


def one_by_one(clip, texts: list[str]) -> list:
    with torch.inference_mode():
        return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]


def tensors(conditioning: list) -> dict[str, Tensor]:
    ((context, extra),) = conditioning
    return {"context": context} | {name: value for name, value in extra.items() if isinstance(value, Tensor)}


@pytest.fixture
def rows(clip, monkeypatch) -> list[int]:
    """How many rows each forward of the text encoders has had."""
    import comfy.sd1_clip

    seen = []
    encoders = [
        each for each in clip.cond_stage_model.modules() if isinstance(each, comfy.sd1_clip.ClipTokenWeightEncoder)
    ]
    # Of classes, as the product has its own on the objects; of one that is another's parent, once.
    for kind in {next(each for each in type(encoder).__mro__ if "encode" in vars(each)) for encoder in encoders}:

        def encode(self, tokens, plain=kind.encode):
            seen.append(len(tokens))
            return plain(self, tokens)

        monkeypatch.setattr(kind, "encode", encode)
    return seen


def test_many_are_as_one_by_one(clip):
    from sid_pack.nodes.host.texts import conditionings

    expected, found = one_by_one(clip, TEXTS), list(conditionings(clip, TEXTS))
    assert len(found) == len(expected)
    for mine, alone in zip(map(tensors, found), map(tensors, expected), strict=True):
        assert mine.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max()))


def test_they_take_few_forwards(clip, family, rows):
    from sid_pack.nodes.host.texts import AT_ONCE, conditionings

    alike = [f"{colour} {thing}" for colour in ("red", "blue", "green", "yellow") for thing in ("cat", "dog")] * 2
    assert len(alike) == AT_ONCE
    list(conditionings(clip, alike))
    assert rows == [8] * ENCODERS[family]  # each prompt once, and all of them together


def test_an_encoder_is_left_as_it_was(clip, family, rows):
    from sid_pack.nodes.host.texts import conditionings

    next(conditionings(clip, ["a cat", "a dog"]))
    rows.clear()
    one_by_one(clip, ["a cat", "a dog"])
    assert rows == [1] * 2 * ENCODERS[family]


def test_with_hooks_they_go_one_by_one(clip, family, rows):
    from comfy.hooks import HookGroup

    from sid_pack.nodes.host.texts import conditionings

    clip.patcher.forced_hooks = HookGroup()
    list(conditionings(clip, ["a cat", "a dog"]))
    assert rows == [1] * 2 * ENCODERS[family]
