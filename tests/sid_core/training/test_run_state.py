"""A run to and from disk: bit for bit, or not at all."""

import errno
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles import ToyDistillation, small
from safetensors.torch import load_file, save_file

from sid_pack.sid_core.files import atomic, tensors
from sid_pack.sid_core.files.checkpoint import Changes, Checkpoint
from sid_pack.sid_core.files.tensors import NotACheckpointError, read_tensors, write_tensors
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.run_state import OtherRunError, checkpoint_of, restore
from sid_pack.sid_core.training.settings import Settings

SETTINGS = small(Settings(Guidance.lsg(2.0), steps=3, ema_half_life_images=100))
IDENTITY = {"base": "toy-4-abc", "prompts": "3"}


def save_run(run: Run, path: Path, identity: dict[str, str]) -> None:
    checkpoint_of(run, identity).write(path)


def load_run(run: Run, path: Path, identity: dict[str, str]) -> Changes:
    return restore(run, Checkpoint.read(path), identity)


def toy(settings: Settings = SETTINGS) -> ToyDistillation:
    return ToyDistillation(VP.stable_diffusion(), settings)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The state of a run after three iterations."""
    path = tmp_path / "run" / "state.safetensors"
    distillation = toy()
    distillation.train(3)
    save_run(distillation.run, path, IDENTITY)
    return path


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(saved):
    unbroken, resumed = toy(), toy()
    with torch.no_grad():  # what a new run starts from must not matter
        for weight in [*resumed.run.student.parameters(), *resumed.run.fake.parameters(), *resumed.run.ema.average]:
            weight += 1
    load_run(resumed.run, saved, IDENTITY)
    expected = unbroken.train(7)
    assert resumed.train(4) == expected[3:]
    for mine, theirs in zip(resumed.weights(), unbroken.weights(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(resumed.run.ema.average, unbroken.run.ema.average, strict=True):
        assert torch.equal(mine, theirs)
    assert (resumed.run.iteration, resumed.run.images) == (7, 7 * 8)


def test_the_scales_of_losses_belong_to_the_state(tmp_path):
    def scaled() -> ToyDistillation:
        distillation = toy()
        distillation.run = Run(distillation.run.student, distillation.run.fake, SETTINGS, loss_scaling=True)
        return distillation

    unbroken, broken, resumed = scaled(), scaled(), scaled()
    for each in (unbroken, broken):
        each.train(1)
        each.run.student_scaler.update(1024.0)
        each.train(2)
    save_run(broken.run, tmp_path / "state.safetensors", IDENTITY)
    load_run(resumed.run, tmp_path / "state.safetensors", IDENTITY)
    assert resumed.run.student_scaler.state_dict() == unbroken.run.student_scaler.state_dict()
    assert resumed.run.student_scaler.get_scale() == 1024
    assert resumed.train(4) == unbroken.train(4)
    with pytest.raises(OtherRunError, match="student_scaler"):
        load_run(toy().run, tmp_path / "state.safetensors", IDENTITY)


def test_a_run_saved_before_its_first_iteration_can_be_loaded(tmp_path):
    save_run(toy().run, tmp_path / "new.safetensors", IDENTITY)
    resumed = toy()
    load_run(resumed.run, tmp_path / "new.safetensors", IDENTITY)
    assert resumed.train(2) == toy().train(2)


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.5, 0.999])
def test_a_truncated_state_is_refused_and_says_what_to_do(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(NotACheckpointError, match="Copy or download state.safetensors again: it is not a whole"):
        load_run(toy().run, saved, IDENTITY)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_another_kind_are_refused_by_name(tmp_path, metadata):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_up.weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(NotACheckpointError, match="lora.safetensors again: it is no distillation state"):
        load_run(toy().run, path, IDENTITY)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 4}, "steps: 3 then, 4 now"),
        ({"learning_rate_decay_iterations": 9}, "learning_rate_decay_iterations: 0 then, 9 now"),
        ({"guidance": Guidance.zero_cfg()}, "guidance: .*lsg.* then, .*zero_cfg.* now"),
    ],
)
def test_a_run_of_other_settings_is_refused_and_they_are_named(saved, changes, named):
    other = toy(replace(SETTINGS, **changes))
    before = other.weights()
    with pytest.raises(OtherRunError, match=named) as refused:
        load_run(other.run, saved, IDENTITY)
    assert "batch" not in str(refused.value)  # it is the same
    assert all(torch.equal(a, b) for a, b in zip(before, other.weights(), strict=True))


def test_a_run_of_another_base_is_refused_and_both_are_named(saved):
    with pytest.raises(OtherRunError, match="base: toy-4-abc then, toy-4-xyz now"):
        load_run(toy().run, saved, IDENTITY | {"base": "toy-4-xyz"})


def test_learning_rates_may_change_and_are_reported(saved):
    """The optimizers go on with the new ones, and with their old moments."""
    faster = toy(replace(SETTINGS, fake_learning_rate=0.02))
    assert load_run(faster.run, saved, IDENTITY) == {"fake_learning_rate": (0.01, 0.02)}
    other, same = toy(replace(SETTINGS, student_learning_rate=0.5)), toy()
    assert load_run(other.run, saved, IDENTITY) == {"student_learning_rate": (0.01, 0.5)}
    assert load_run(same.run, saved, IDENTITY) == {}
    before = same.weights()[0]
    other.train(1)
    same.train(1)
    # One step of Adam is proportional to the learning rate, and the moments were the same.
    torch.testing.assert_close(other.weights()[0] - before, 50 * (same.weights()[0] - before))


def test_a_run_stopped_after_the_fake_scores_half_of_an_iteration_goes_on_exactly(tmp_path):
    """As by Cancel, which the host raises within a forward. The teacher is asked after the fake score has learnt."""

    class Cancelled(BaseException):
        pass

    def cancelling(*_args):
        raise Cancelled

    stopped, resumed, unbroken = toy(), toy(), toy()
    stopped.train(3)
    whole, before = stopped.predict, stopped.run.fake.w.detach().clone()
    stopped.predict = replace(whole, teacher=cancelling)
    with pytest.raises(Cancelled):
        stopped.train(1)
    assert not torch.equal(stopped.run.fake.w, before) and not stopped.run.torn
    save_run(stopped.run, tmp_path / "half.safetensors", IDENTITY)
    load_run(resumed.run, tmp_path / "half.safetensors", IDENTITY)
    assert resumed.train(3) == unbroken.train(6)[3:]
    for mine, theirs in zip(resumed.weights(), unbroken.weights(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("network", ["student", "fake"])
def test_a_run_stopped_within_an_optimizers_step_says_so(network, monkeypatch):
    distillation = toy()
    distillation.train(1)
    optimizer = getattr(distillation.run, f"{network}_optimizer")
    monkeypatch.setattr(optimizer, "step", lambda: [][0])
    with pytest.raises(IndexError):
        distillation.train(1)
    assert distillation.run.torn


class Scaler:
    """A state of plain values and tensors, as a gradient scaler's or another optimizer's."""

    def __init__(self):
        self.state = {"scale": 1.0, "tracker": 0, "history": torch.zeros(2)}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_further_parts_of_a_run_are_saved_with_it(tmp_path):
    distillation, again = toy(), toy()
    distillation.run.further["scaler"], again.run.further["scaler"] = Scaler(), Scaler()
    distillation.run.further["scaler"].state = {"scale": 0.1 + 0.2, "tracker": 7, "history": torch.ones(2)}
    save_run(distillation.run, tmp_path / "a.safetensors", IDENTITY)
    load_run(again.run, tmp_path / "a.safetensors", IDENTITY)
    loaded = again.run.further["scaler"].state
    assert loaded.pop("history").tolist() == [1, 1]
    assert loaded == {"scale": 0.1 + 0.2, "tracker": 7}
    with pytest.raises(OtherRunError, match=r"further: \['scaler'\] then, \[\] now"):
        load_run(toy().run, tmp_path / "a.safetensors", IDENTITY)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_single_wrong_bit_is_noticed(saved, place):
    content = bytearray(saved.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int((len(content) - header) * place)] ^= 1
    saved.write_bytes(content)
    with pytest.raises(NotACheckpointError, match="state.safetensors again: it is damaged"):
        load_run(toy().run, saved, IDENTITY)


def test_a_state_of_version_0_1_0_goes_on_exactly(saved):
    """Without checksum, values and half iterations; settings that it did not know yet had their defaults."""
    state, metadata = read_tensors(saved)
    settings = json.loads(metadata["settings"])
    del settings["gradient_norm"]
    old = {"format": "sid-run-1", "settings": json.dumps(settings), "identity": json.dumps({"base": "toy-4-abc"})}
    write_tensors(saved, state, old | {"counters": json.dumps({"iteration": 3, "images": 24})})
    resumed = toy()
    assert load_run(resumed.run, saved, IDENTITY) == {}
    assert resumed.train(4) == toy().train(7)[3:]
    with pytest.raises(OtherRunError, match="gradient_norm: 0.0 then, 1.0 now"):
        load_run(toy(replace(SETTINGS, gradient_norm=1.0)).run, saved, IDENTITY)


def test_a_state_of_the_format_before_goes_on_exactly(saved):
    """Its checksum was of names and values alone."""
    state, metadata = read_tensors(saved)
    total = 0
    for name in sorted(state):
        total = zlib.crc32(state[name].numpy().tobytes(), zlib.crc32(name.encode(), total))
    before = metadata | {"format": "sid-run-2", "checksum": f"{total:08x}"}
    write_tensors(saved, state, before)
    resumed = toy()
    assert load_run(resumed.run, saved, IDENTITY) == {}
    assert resumed.train(4) == toy().train(7)[3:]
    write_tensors(saved, state, before | {"checksum": f"{total ^ 1:08x}"})
    with pytest.raises(NotACheckpointError, match="is damaged"):
        load_run(toy().run, saved, IDENTITY)


def test_a_state_of_a_newer_version_says_to_update(saved):
    newer = replace(Checkpoint.read(saved), settings=SETTINGS.as_dict() | {"momentum": [{"deep": 1}]})
    newer.write(saved)
    run = toy().run
    with pytest.raises(OtherRunError, match="update this pack.*momentum"):
        load_run(run, saved, IDENTITY)
    assert run.iteration == 0


def test_the_state_is_safetensors_with_readable_metadata(saved):
    state, metadata = read_tensors(saved)
    assert json.loads(metadata["settings"])["guidance"]["teacher"] == 2.0
    assert json.loads(metadata["counters"]) == {
        "iteration": 3,
        "images": 24,
        "fake_updated": 0,
        "fake_loss": pytest.approx(toy().train(3)[-1].fake_loss),
    }
    assert {key.split(".")[0] for key in state} == {"student", "fake", "ema", "student_optimizer", "fake_optimizer"}


@pytest.mark.parametrize("step", ["save_file", "fsync", "replace"])
def test_no_space_at_any_step_of_saving_leaves_the_previous_state(saved, monkeypatch, step):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"save_file": tensors, "fsync": atomic.os, "replace": Path}[step]
    before = saved.read_bytes()
    distillation = toy()
    distillation.train(1)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, full)
        with pytest.raises(OSError, match="Free some space.*No space left.*What was there before is unchanged"):
            save_run(distillation.run, saved, IDENTITY)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    load_run(toy().run, saved, IDENTITY)


def test_an_interruption_while_saving_leaves_the_previous_state(saved, monkeypatch):
    def interrupted(state, path, metadata):
        save_file(state, path, metadata)
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(tensors, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_run(toy().run, saved, IDENTITY)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_again_replaces_the_state(saved):
    distillation = toy()
    distillation.train(5)
    save_run(distillation.run, saved, IDENTITY)
    weights = load_file(saved)
    for name, value in distillation.run.student.state_dict().items():
        assert torch.equal(weights[f"student.{name}"], value)


def test_a_state_with_other_weights_is_refused_in_plain_words(saved):
    other = toy()
    other.run.student = torch.nn.Linear(2, 2)
    with pytest.raises(OtherRunError, match="trains other weights"):
        load_run(other.run, saved, IDENTITY)
