"""Prompts of several lengths: what a repeated prompt is to a network decides what can be trained on together."""

import pytest
import tiny_models
import torch


def prompt(tokens: int, seed: int = 0) -> list:
    generator = torch.manual_seed(seed)
    pooled = torch.randn(1, tiny_models.POOLED, generator=generator)
    return [[torch.randn(1, tokens, 16, generator=generator), {"pooled_output": pooled}]]


@pytest.fixture
def encoded(comfyui):
    """encoded(name, ∅-prompt's tokens, a prompt's tokens) → the latter's tensors as a run takes them."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors

    def encode(name: str, empty: int, tokens: int) -> dict:
        with torch.inference_mode():
            model = getattr(tiny_models, name)()
            latent = torch.zeros(1, model.get_model_object("latent_format").latent_channels, 8, 8)
            uncond = conditioning_tensors(model, prompt(empty), latent)
            return conditioning_tensors(model, prompt(tokens, 1), latent, like=uncond, text="a long story")

    return encode


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("tokens", [77, 2 * 77, 3 * 77, 4 * 77])
def test_cross_attention_takes_prompts_of_several_chunks(encoded, name, tokens):
    assert encoded(name, 77, tokens)["c_crossattn"].shape == (1, tokens, 16)


@pytest.mark.parametrize(("empty", "tokens"), [(77, 5 * 77), (256, 301), (77, 78)])
def test_a_prompt_that_would_be_repeated_out_of_all_proportion_is_refused(encoded, empty, tokens):
    with pytest.raises(ValueError, match=f"^Shorten the prompt 'a long story'.*{tokens} tokens.*∅-prompt.*{empty}"):
        encoded("sd15", empty, tokens)


@pytest.mark.parametrize(("empty", "tokens"), [(154, 155), (77, 154), (256, 301), (154, 77)])
def test_joint_attention_takes_prompts_of_one_length(encoded, empty, tokens):
    """There a repeated prompt is another prompt."""
    with pytest.raises(ValueError, match=f"'a long story'.*{tokens} tokens where .*{empty}.*joins text and picture"):
        encoded("sd3", empty, tokens)
    assert encoded("sd3", empty, empty)["c_crossattn"].shape == (1, empty, 16)


def test_encodings_of_another_length_are_others(comfyui):
    """What was encoded beside a ∅-prompt of another length is not taken for this one's."""
    from sid_pack.nodes.host.conditioning import fixed_lengths

    with torch.inference_mode():
        joint, cross = tiny_models.sd3(), tiny_models.sd15()
        assert fixed_lengths(joint, prompt(154), torch.zeros(1, 16, 8, 8)) == {"c_crossattn": 154}
        assert fixed_lengths(cross, prompt(154), torch.zeros(1, 4, 8, 8)) == {}
