"""Trainings by time: stopped ones go on, and what is saved is the average."""

import pytest
import torch
from torch import nn


def make(file, minutes: float):
    from training import TimedTraining

    torch.manual_seed(0)
    networks = nn.Linear(3, 1)
    return TimedTraining(networks, [{"params": list(networks.parameters()), "lr": 0.1}], minutes, file)


def loss_of(training):
    def loss():
        x = torch.randn(8, 3)
        return (training.networks(x) - x.sum(1, keepdim=True)).square().mean()

    return loss


class StoppedError(Exception):
    pass


@pytest.fixture
def clock(monkeypatch):
    """Ten seconds from one look at it to the next."""
    import training

    seconds = iter(range(0, 10**6, 10))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(seconds))


def test_it_takes_its_minutes_and_saves_once_at_the_end(tmp_path, clock):
    training, saved = make(tmp_path / "x.pt", 5), []
    training.run(loss_of(training), lambda: saved.append(training.iteration))
    assert saved == [5 * 60 / 10]
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path, clock):
    whole = make(tmp_path / "whole.pt", 5)
    whole.run(loss_of(whole), lambda: None)

    stopped = make(tmp_path / "x.pt", 5)
    loss = loss_of(stopped)

    def loss_until_stopped():
        if stopped.iteration == 20:
            raise StoppedError
        return loss()

    with pytest.raises(StoppedError):
        stopped.run(loss_until_stopped, lambda: None)
    goes_on = make(tmp_path / "x.pt", 5)
    goes_on.run(loss_of(goes_on), lambda: None)
    assert goes_on.iteration == whole.iteration == 30
    for ours, theirs in ((goes_on.networks, whole.networks), (goes_on.average, whole.average)):
        assert torch.equal(ours.weight, theirs.weight)


def test_the_average_is_the_weights_running_mean(tmp_path, clock):
    from training import EMA_DECAY

    training = make(tmp_path / "x.pt", 1)
    seen = []
    training.run(loss_of(training), lambda: None)
    torch.manual_seed(0)
    again = make(tmp_path / "y.pt", 1)
    loss = loss_of(again)
    for _ in range(training.iteration):
        torch.manual_seed(again.iteration)
        again._step(loss)
        again.iteration, again.spent = again.iteration + 1, again.spent + 10
        seen.append(again.networks.weight.detach().clone())
    expected = seen[0]
    for weight in seen[1:]:
        expected = EMA_DECAY * expected + (1 - EMA_DECAY) * weight
    torch.testing.assert_close(training.average.weight, expected)
    assert not torch.equal(training.average.weight, training.networks.weight)
