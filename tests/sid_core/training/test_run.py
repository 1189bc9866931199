"""A run's optimizers, clipping, loss scaling and averages."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from oracles import ToyDistillation, small, toy_prompts
from torch import nn

from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.distill import Bucket, Predictors, distill
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings

LSG, ZERO = Guidance.lsg(2.0), Guidance.zero_cfg()
SD = VP.stable_diffusion()


def test_gradients_are_clipped_to_the_norm_asked_for():
    toy = ToyDistillation(SD, small(Settings(LSG, gradient_norm=1e-3)))
    toy.train(1)
    for network in (toy.run.student, toy.run.fake):
        norm = torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_averaged_weights_are_lent_and_given_back():
    toy = ToyDistillation(SD, small(Settings(LSG, ema_half_life_images=1e6)))
    toy.train(3)
    mine, averaged = toy.weights(), {name: weight.clone() for name, weight in toy.run.averaged().items()}
    with pytest.raises(KeyError), toy.run.averaged_weights():
        for name, weight in toy.run.student.named_parameters():
            assert torch.equal(weight, averaged[name])
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(mine, toy.weights(), strict=True))
    assert any(not torch.equal(averaged[name], weight) for name, weight in toy.run.student.named_parameters())


# Loss scaling.


def test_scaling_the_loss_changes_nothing_in_float32():
    plain, scaled = (ToyDistillation(SD, small(Settings(LSG, gradient_norm=0.5))) for _ in range(2))
    scaled.run = Run(scaled.run.student, scaled.run.fake, scaled.run.settings, loss_scaling=True)
    assert plain.train(6) == scaled.train(6)
    assert all(torch.equal(a, b) for a, b in zip(scaled.weights(), plain.weights(), strict=True))


@pytest.mark.parametrize("scaling", [False, True])
def test_scaling_saves_gradients_that_float16_is_too_coarse_for(scaling):
    toy = ToyDistillation(SD, small(Settings(LSG)))
    toy.run = Run(toy.run.student, toy.run.fake, toy.run.settings, loss_scaling=scaling)
    student, before = toy.predict.student, toy.weights()

    def in_float16(x_t, t, cond):
        # What comes back through the half-precision sum is smaller by 2^-26, below float16's least number.
        clean = student(x_t, t, cond)
        return x_t * 0 + clean.detach() + (clean - clean.detach()).half().float() * 2**-26

    toy.predict = replace(toy.predict, student=in_float16)
    toy.train(3)
    learnt = any(not torch.equal(a, b) for a, b in zip(toy.weights()[:4], before[:4], strict=True))
    assert learnt == scaling


def test_a_step_whose_scaled_gradients_overflow_is_left_out():
    toy = ToyDistillation(SD, small(Settings(LSG)))
    toy.run = Run(toy.run.student, toy.run.fake, toy.run.settings, loss_scaling=True)
    before, scale = toy.weights(), toy.run.student_scaler.get_scale()
    handles = [
        parameter.register_hook(lambda gradient: gradient * math.inf) for parameter in toy.run.student.parameters()
    ]
    toy.train(1)
    assert all(torch.equal(a, b) for a, b in zip(toy.weights()[:4], before[:4], strict=True))
    assert toy.run.student_scaler.get_scale() == scale / 2
    for handle in handles:
        handle.remove()
    toy.train(1)
    assert any(not torch.equal(a, b) for a, b in zip(toy.weights()[:4], before[:4], strict=True))


# The 8-bit optimizer.


class Wide(nn.Module):
    """Enough weights for the 8-bit averages, which small tensors don't have."""

    def __init__(self, seed: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8192, generator=torch.manual_seed(seed)))


def wide(optimizer: str, iterations: int, run: Run | None = None) -> Run:
    settings = Settings(
        ZERO, batch=4, optimizer=optimizer, student_learning_rate=0.01, fake_learning_rate=0.01, steps=1
    )
    run = run or Run(Wide(0), Wide(1), settings)

    def role(network: Wide):
        return lambda x_t, t, cond: torch.tanh(network.weight).view(1, -1, 1, 1) + 0 * x_t

    predict = Predictors(lambda x_t, t, cond, uncond: 0.3 + 0 * x_t, role(run.fake), role(run.student))
    results = distill(run, predict, [Bucket((8192, 1, 1), toy_prompts())], SD, torch.device("cpu"))
    for _ in range(iterations):
        next(results)
    return run


def test_8_bits_learn_what_32_do():
    trained = wide("Adam", 20).fake, wide("Adam, 8 bits", 20).fake
    start, exact, coarse = (network.weight.detach() for network in (Wide(1), *trained))
    assert float((exact - start).abs().mean()) > 0.1
    assert float((coarse - exact).abs().mean()) < 0.1 * float((exact - start).abs().mean())
    assert not torch.equal(coarse, exact)


def test_8_bits_are_a_quarter_of_the_state_and_go_on_exactly(tmp_path):
    from sid_pack.sid_core.files.checkpoint import Checkpoint
    from sid_pack.sid_core.training.run_state import checkpoint_of, restore

    unbroken, broken = wide("Adam, 8 bits", 6), wide("Adam, 8 bits", 3)
    state = broken.fake_optimizer.state[broken.fake.weight]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    checkpoint_of(broken, {}).write(tmp_path / "run.safetensors")
    resumed = Run(Wide(5), Wide(6), broken.settings)
    restore(resumed, Checkpoint.read(tmp_path / "run.safetensors"), {})
    wide("Adam, 8 bits", 3, resumed)
    assert torch.equal(resumed.student.weight, unbroken.student.weight)
    assert torch.equal(resumed.fake.weight, unbroken.fake.weight)


def test_without_its_library_8_bits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        wide("Adam, 8 bits", 1)
