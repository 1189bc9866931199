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
def test_joint_attention_takes_prompts_of_any_length_as_they_are(encoded, empty, tokens):
    """There a repeated prompt is another prompt; it says how long it is, to be run with others of that length."""
    cond = encoded("sd3", empty, tokens)
    assert cond["c_crossattn"].shape == (1, tokens, 16) and cond["c_crossattn tokens"].tolist() == [tokens]


def test_several_prompts_in_one_conditioning_are_refused(comfyui):
    """A row of it each would be taken for the next picture's caption."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors

    with torch.inference_mode():
        ((context, extra),) = prompt(77)
        two = [[context.repeat(2, 1, 1), extra]]
        with pytest.raises(ValueError, match="^Connect a conditioning for each prompt.* one has 2 prompts in it"):
            conditioning_tensors(tiny_models.sd15(), two, torch.zeros(1, 4, 8, 8))


def test_another_text_encoders_prompt_is_refused(comfyui):
    from sid_pack.nodes.host.conditioning import conditioning_tensors

    with torch.inference_mode():
        model, latent = tiny_models.sd3(), torch.zeros(1, 16, 8, 8)
        wider = [[torch.zeros(1, 5, 24), prompt(5)[0][1]]]
        with pytest.raises(ValueError, match="^Encode the prompt 'wide' and the ∅-prompt with the same text encoder"):
            conditioning_tensors(model, wider, latent, like=conditioning_tensors(model, prompt(5), latent), text="wide")
