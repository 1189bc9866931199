"""Sets of encoded prompts."""

import pytest
import torch

from sid_pack.sid_core.data.conditioning import Joined, PromptSet, replace_rows, select, stack


def prompt(value: float, length: int = 2, width: int = 3, **extra: float) -> dict[str, torch.Tensor]:
    return {"c_crossattn": torch.full((1, length, width), value)} | {
        name: torch.tensor([[number]]) for name, number in extra.items()
    }


def test_a_batch_has_the_rows_asked_for_in_their_order():
    prompts = PromptSet.of(["a", "b", "c"], [prompt(1, y=10), prompt(2, y=20), prompt(3, y=30)], prompt(0, y=5))
    batch = prompts.batch(torch.tensor([2, 0, 2]))
    assert batch["c_crossattn"][:, 0, 0].tolist() == [3, 1, 3]
    assert batch["y"][:, 0].tolist() == [30, 10, 30]
    assert batch["c_crossattn"].shape == (3, 2, 3)
    assert (len(prompts), prompts.texts) == (3, ("a", "b", "c"))


def test_the_empty_prompt_is_repeated_and_never_among_the_others():
    prompts = PromptSet.of(["a", "b"], [prompt(1), prompt(2)], prompt(0))
    assert prompts.unconditional(4)["c_crossattn"].shape == (4, 2, 3)
    assert not prompts.unconditional(4)["c_crossattn"].any()
    assert prompts.cond["c_crossattn"][:, 0, 0].tolist() == [1, 2]


def test_replaced_rows_are_the_masked_ones_alone():
    cond, other = stack([prompt(1, y=1), prompt(2, y=2), prompt(3, y=3)]), prompt(0, y=9)
    mixed = replace_rows(cond, torch.tensor([False, True, False]), other)
    assert mixed["c_crossattn"][:, 1, 2].tolist() == [1, 0, 3]
    assert mixed["y"][:, 0].tolist() == [1, 9, 3]
    assert cond["y"][:, 0].tolist() == [1, 2, 3]


def test_select_keeps_every_tensor():
    assert {name: len(v) for name, v in select(prompt(1, y=1), torch.tensor([0, 0])).items()} == {
        "c_crossattn": 2,
        "y": 2,
    }


def test_prompts_of_other_lengths_are_repeated_to_a_common_one():
    short, long = prompt(1, length=2), {"c_crossattn": torch.arange(3.0).view(1, 3, 1).expand(1, 3, 3)}
    joined = stack([short, long])["c_crossattn"]
    assert joined.shape == (2, 6, 3)
    assert joined[1, :, 0].tolist() == [0, 1, 2, 0, 1, 2]
    # The ∅-prompt has the same length, or a batch could not mix it with the others.
    prompts = PromptSet.of(["a"], [prompt(1, length=4)], prompt(0, length=2))
    assert prompts.uncond["c_crossattn"].shape == prompts.cond["c_crossattn"].shape == (1, 4, 3)


def test_prompts_that_cannot_be_batched_raise():
    with pytest.raises(ValueError, match="same text encoder"):
        stack([prompt(1), prompt(1, y=1)])
    with pytest.raises(ValueError, match=r"2, 3\).*2, 4\).*expected one"):
        stack([prompt(1), prompt(1, width=4)])


def test_no_prompts_raise():
    with pytest.raises(ValueError, match="there are none"):
        PromptSet.of([], [], prompt(0))


def test_the_empty_prompt_may_be_shorter_or_longer_than_the_rows_it_replaces():
    cond, other = stack([prompt(1, length=4), prompt(2, length=4)]), {"c_crossattn": torch.arange(6.0).view(1, 2, 3)}
    mixed = replace_rows(cond, torch.tensor([True, False]), other)["c_crossattn"]
    assert mixed[0, :, 0].tolist() == [0, 3, 0, 3] and mixed[1].eq(2).all()
    longer = replace_rows({"c_crossattn": other["c_crossattn"]}, torch.tensor([False]), prompt(5, length=3))
    assert longer["c_crossattn"][0, :, 0].tolist() == [0, 3, 0, 3, 0, 3]


def test_joined_prompts_are_those_of_one_list():
    conds = [prompt(i, length=2 if i < 3 else 4) for i in range(5)]
    uncond = prompt(9)
    names = [str(i) for i in range(5)]
    whole = PromptSet.of(names, conds, uncond)
    joined = Joined(PromptSet.of(names[:2], conds[:2], uncond), PromptSet.of(names[2:], conds[2:], uncond))
    assert len(joined) == 5
    for rows in ([3, 0, 4, 1, 1], [4, 2]):
        batch, expected = joined.batch(torch.tensor(rows)), whole.batch(torch.tensor(rows))
        assert torch.equal(batch["c_crossattn"], expected["c_crossattn"])
    assert joined.batch(torch.tensor([1, 0]))["c_crossattn"][:, :, 0].tolist() == [[1, 1], [0, 0]]
