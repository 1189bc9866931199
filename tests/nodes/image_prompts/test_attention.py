import copy

import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfyui")
KEY = ("input", 1)
OPTIONS = {"n_heads": 2, "sigmas": torch.tensor([2.0, 2.0]), "cond_or_uncond": [0]}


class Constant:
    """A branch that adds a number, between two noise levels."""

    def __init__(self, number, start=10.0, end=0.0):
        self.number, self.start, self.end, self.moved = number, start, end, []

    def is_active(self, sigma):
        return self.end <= sigma <= self.start

    def __call__(self, out, q, k, v, extra_options, change=None):
        return torch.full_like(out, self.number)

    def to(self, where):
        self.moved.append(where)
        return self

    def models(self):
        return ["weights"]


def constant_callback(out, q, k, v, extra_options, number=0.0, **kwargs):
    return torch.full_like(out, number)


class TheirPatch:
    """What IPAdapter_plus puts into a MODEL, by its public source: lists of callbacks and their arguments."""

    def __init__(self, callback, **kwargs):
        self.callback, self.kwargs = [callback], [kwargs]


def their_kwargs(number):
    return {"number": number, "sigma_start": 10.0, "sigma_end": 0.0}


def qkv():
    generator = torch.manual_seed(0)
    return [torch.randn(2, length, 8, generator=generator) for length in (6, 5, 5)]


def by_hand(q, k, v, heads=2):
    q, k, v = (x.reshape(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(len(q), -1, heads * v.shape[-1])


@pytest.fixture
def model():
    from tiny_models import sd15

    return sd15()


def patched(model, *branches):
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention, put_attention

    clone = model.clone()
    put_attention(clone, {KEY: ImagePromptAttention(branches=branches)})
    return clone


def attention_of(model):
    from sid_pack.nodes.image_prompts.attention import attn2_replacements

    return attn2_replacements(model)[KEY]


def test_branches_are_added_to_the_text_attention():
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention

    attention = ImagePromptAttention(branches=[Constant(1.0), Constant(20.0)])
    torch.testing.assert_close(attention(*qkv(), OPTIONS), by_hand(*qkv()) + 21.0)


class OnGPU:
    """As a tensor on a GPU, which is slow to read a number from."""

    device = torch.device("cuda")

    def __init__(self, sigma):
        self.sigma, self.reads = sigma, 0

    def __getitem__(self, index):
        self.reads += 1
        return torch.tensor(self.sigma)


def test_a_gpu_is_asked_once_for_each_noise_level():
    from tiny_models import sd15

    from sid_pack.nodes.image_prompts.attention import sigma_of

    first, second = OnGPU(3.0), OnGPU(1.0)
    assert [sigma_of({"sigmas": sigmas}) for sigmas in (first, first, second, second, first)] == [3, 3, 1, 1, 3]
    assert (first.reads, second.reads) == (2, 1)
    assert sigma_of({}) == sd15().get_model_object("model_sampling").percent_to_sigma(0.0)


@pytest.mark.parametrize(("sigma", "added"), [(3.0, 0.0), (2.0, 5.0), (1.0, 5.0), (0.5, 0.0)])
def test_a_branch_acts_between_its_noise_levels(sigma, added):
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention

    attention = ImagePromptAttention(branches=[Constant(5.0, start=2.0, end=1.0)])
    result = attention(*qkv(), OPTIONS | {"sigmas": torch.tensor([sigma])})
    torch.testing.assert_close(result, by_hand(*qkv()) + added)


def test_the_users_choice_of_attention_is_used():
    """Packs like SageAttention's set an override in the transformer options."""
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention

    override = {"optimized_attention_override": lambda func, q, *args, **kwargs: torch.full_like(q, 3.0)}
    result = ImagePromptAttention(branches=[Constant(1.0)])(*qkv(), OPTIONS | override)
    torch.testing.assert_close(result, torch.full_like(result, 4.0))


@pytest.mark.parametrize("sampled", [False, True])
def test_a_clone_and_its_origin_do_not_leak_into_each_other(model, sampled):
    from comfy.model_patcher import create_model_options_clone

    first = patched(model, Constant(1.0))
    if sampled:  # the sampler works on a copy of the options
        first.model_options = create_model_options_clone(first.model_options)
    second, third = first.clone(), first.clone()
    attention_of(second).add(constant_callback, **their_kwargs(2.0))
    attention_of(first).add(constant_callback, **their_kwargs(4.0))
    fourth = second.clone()
    attention_of(fourth).add(constant_callback, **their_kwargs(8.0))
    text = by_hand(*qkv())
    for clone, added in ((first, 5.0), (second, 3.0), (third, 1.0), (fourth, 11.0)):
        torch.testing.assert_close(attention_of(clone)(*qkv(), OPTIONS), text + added)
    assert KEY not in model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def test_clones_share_branches(model):
    branch = Constant(1.0)
    assert attention_of(patched(model, branch).clone().clone()).branches[0] is branch
    attention = attention_of(patched(model, branch))
    deep = copy.deepcopy(attention)
    deep.add(constant_callback, **their_kwargs(2.0))
    assert attention.branches == (branch,) == deep.branches[:1]


def test_the_host_moves_and_loads_what_branches_have(model):
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention

    base, branches = Constant(0.0), [Constant(1.0), Constant(2.0)]
    clone = patched(model)
    attention_of(clone).base, attention_of(clone).branches = base, branches
    assert clone.model_patches_models() == ["weights"]
    clone.model_patches_to(torch.device("cpu"))
    clone.model_patches_to(torch.float16)
    assert all(part.moved == [torch.device("cpu"), torch.float16] for part in (base, *branches))
    assert isinstance(attention_of(clone), ImagePromptAttention)


def test_another_packs_replacement_stays_below():
    from sid_pack.nodes.image_prompts.attention import attend, with_branch

    def theirs(q, k, v, extra_options):
        return q * 0 + 7.0

    attention = with_branch(theirs, Constant(1.0))
    twice = with_branch(attention, Constant(2.0))
    assert attention(*qkv(), OPTIONS).unique().tolist() == [8.0]
    assert twice(*qkv(), OPTIONS).unique().tolist() == [10.0]
    assert twice.base is theirs
    assert with_branch(None, Constant(1.0)).base is attend


def test_a_subclass_is_not_taken_apart_by_the_next_image_prompt():
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention, with_branch

    class Doubling(ImagePromptAttention):
        def __call__(self, q, k, v, extra_options):
            return 2 * super().__call__(q, k, v, extra_options)

    attention = with_branch(Doubling(branches=[Constant(1.0)]), Constant(3.0))
    torch.testing.assert_close(attention(*qkv(), OPTIONS), 2 * (by_hand(*qkv()) + 1.0) + 3.0)


def test_image_prompts_of_all_kinds_are_found(model):
    from sid_pack.nodes.image_prompts.attention import attend, image_prompts, put_attention, with_branch

    def opaque(q, k, v, extra_options):
        return q

    theirs = TheirPatch(constant_callback, **their_kwargs(1.0))
    clone = model.clone()
    clone.set_model_attn2_replace(opaque, "input", 2)
    clone.set_model_attn2_replace(theirs, "middle", 0)
    added = with_branch(opaque, Constant(2.0))
    added.add(constant_callback, **their_kwargs(4.0))
    put_attention(clone, {KEY: added, ("output", 1, 0): with_branch(theirs, Constant(8.0))})
    found = image_prompts(clone)
    zero = torch.zeros(1, 2, 8)
    sums = {key: sum(b(zero, *qkv(), OPTIONS).max().item() for b in branches) for key, (_, branches) in found.items()}
    assert sums == {("middle", 0): 1.0, KEY: 6.0, ("output", 1, 0): 9.0}
    assert {key: base for key, (base, _) in found.items()} == {
        ("middle", 0): attend,
        KEY: opaque,
        ("output", 1, 0): attend,
    }
    assert image_prompts(model) == {}


def test_a_prompt_of_theirs_acts_between_its_noise_levels():
    from sid_pack.nodes.image_prompts.attention import ImagePromptAttention

    attention = ImagePromptAttention()
    attention.add(constant_callback, number=5.0, sigma_start=2.0, sigma_end=1.0)
    text = by_hand(*qkv())
    for sigma, added in ((3.0, 0.0), (2.0, 5.0), (1.0, 5.0), (0.5, 0.0)):
        result = attention(*qkv(), OPTIONS | {"sigmas": torch.tensor([sigma])})
        torch.testing.assert_close(result, text + added)
