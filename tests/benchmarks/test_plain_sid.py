"""The plain implementation trains on the losses that ours does, else comparing their speed would mean nothing."""

import importlib.util
from pathlib import Path

import pytest
import torch
from oracles import ToyNetwork, relative_error
from torch import Tensor, nn

from sid_pack.sid_core.method.guidance import Guidance, guided
from sid_pack.sid_core.method.losses import fake_score_loss, student_loss
from sid_pack.sid_core.method.process import VP

PLAIN_SID = Path(__file__).parents[2] / "benchmarks" / "plain_sid.py"
GUIDANCE = {"lsg": Guidance.lsg(1.5), "zero_cfg": Guidance.zero_cfg()}
WORDS = torch.eye(3)
DEVICE = torch.device("cpu")


class Hosted(nn.Module):
    """A toy network, called as ComfyUI's are."""

    def __init__(self):
        super().__init__()
        self.toy = ToyNetwork()

    def forward(self, x: Tensor, t: Tensor, context: Tensor, transformer_options: dict) -> Tensor:
        return self.toy(x, t / 1000, context[:, 0])


def encode(texts: list[str]) -> Tensor:
    """(B, 1, words): one-hot, and zeros for the empty prompt."""
    return torch.stack([WORDS[int(text)] if text else torch.zeros(3) for text in texts])[:, None]


@pytest.fixture(params=["eps", "v"])
def process(request) -> VP:
    return VP.stable_diffusion(request.param)


@pytest.fixture(params=GUIDANCE)
def guidance(request) -> Guidance:
    return GUIDANCE[request.param]


@pytest.fixture
def trainer(process, guidance):
    """A run of the plain implementation that keeps what it draws, and its losses in place of training on them."""
    spec = importlib.util.spec_from_file_location("plain_sid", PLAIN_SID)
    plain_sid = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain_sid)

    class Recording(plain_sid.PlainSiD):
        training = False

        def generate(self, texts):
            self.texts_drawn, self.picture = texts, super().generate(texts)
            return self.picture

        def noised(self, picture, noise, t):
            self.noise, self.t = noise, t
            return super().noised(picture, noise, t)

        def update(self, role, loss):
            self.loss = loss
            if self.training:
                super().update(role, loss)

    scales = (guidance.fake_train, guidance.fake_score, guidance.teacher)
    torch.manual_seed(0)
    made = Recording(
        Hosted(),
        encode,
        ["0", "1", "2"],
        plain_sid.PlainSettings(scales, batch=5, learning_rate=1e-2, ema_half_life_images=30),
        velocity=process.prediction == "v",
        alphas_cumprod=process.alphas_cumprod,
        latent_shape=(2, 1, 1),
        device=DEVICE,
    )
    with torch.no_grad():
        for role in ("fake score", "student"):
            for weight in made.networks[role].parameters():
                weight += 0.3 * torch.randn_like(weight)
    return made


def prediction(trainer, process: VP, role: str, scale: float) -> Tensor:
    """The guided clean picture, by sid_core, of what the trainer has drawn."""

    def predict(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return process.clean(trainer.networks[role](x_t, t, context=cond, transformer_options={}), x_t, t)

    x_t = process.diffuse(trainer.picture, trainer.noise, trainer.t)
    cond = encode(trainer.texts_drawn)
    return guided(predict, x_t, trainer.t, cond, torch.zeros_like(cond), scale)


def test_its_fake_score_is_trained_on_our_loss(trainer, process, guidance):
    trainer.train_fake_score()
    y_fake = prediction(trainer, process, "fake score", guidance.fake_train)
    expected = fake_score_loss(y_fake, trainer.picture, process.regression_weight(trainer.t))
    assert relative_error(trainer.loss.detach(), expected.detach()) < 1e-4
    assert not trainer.picture.requires_grad


def test_its_student_is_trained_on_our_loss(trainer, process, guidance):
    trainer.train_student()
    y_fake = prediction(trainer, process, "fake score", guidance.fake_score)
    expected = student_loss(trainer.picture, prediction(trainer, process, "teacher", guidance.teacher), y_fake)
    student = list(trainer.networks["student"].parameters())
    gradients = [torch.autograd.grad(loss, student, retain_graph=True) for loss in (trainer.loss, expected)]
    assert relative_error(trainer.loss.detach(), expected.detach()) < 1e-4
    assert max(map(relative_error, *gradients)) < 1e-3


def test_its_pictures_are_those_of_one_step(trainer, process):
    torch.manual_seed(3)
    picture = trainer.generate(["0", "1"])
    torch.manual_seed(3)
    t = torch.full((2,), 625)
    x_t = process.diffuse(torch.zeros(2, 2, 1, 1), torch.randn(2, 2, 1, 1), t)
    raw = trainer.networks["student"](x_t, t, context=encode(["0", "1"]), transformer_options={})
    assert relative_error(picture.detach(), process.clean(raw, x_t, t).detach()) < 1e-5


def test_an_iteration_trains_both_and_leaves_the_teacher(trainer):
    before = {role: [w.clone() for w in network.parameters()] for role, network in trainer.networks.items()}
    trainer.training = True
    trainer.iterate()
    for role, network in trainer.networks.items():
        same = [torch.equal(a, b) for a, b in zip(before[role], network.parameters(), strict=True)]
        assert all(same) == (role == "teacher")
    assert any(not torch.equal(a, b) for a, b in zip(trainer.average, before["student"], strict=True))
