"""What the shipped students promise, against their teacher in 50 steps and in few; README.md has the whole figures."""

import pytest

CAPTIONS = 128


@pytest.fixture(scope="module")
def score(comfyui, protocol):
    """The scores of a setting on a few training captions."""
    from drawing import Artist
    from evaluate import evaluate

    artist = Artist(protocol.captions, CAPTIONS)
    prompts = {"training": protocol.some_prompts(CAPTIONS)["training"]}
    return lambda setting: evaluate(setting, artist, protocol, prompts, seeds=1).scores["training"]


@pytest.fixture(scope="module")
def teacher(protocol):
    """What its own 50 steps have for the same captions, which the reference keeps."""
    return protocol.score_set("training", protocol.reference.teacher["training"][:CAPTIONS])


@pytest.mark.parametrize(
    ("file", "steps", "farther", "share"),
    [("student_4_steps.safetensors", 4, 1.4, 0.9), ("student_1_step.safetensors", 1, 2.4, 0.75)],
)
def test_a_shipped_student_is_near_its_teacher_and_passes_it_in_as_many_steps(
    score, teacher, file, steps, farther, share
):
    from drawing import Setting
    from pictures import ASSETS

    student = score(Setting(steps, student=ASSETS / file))
    assert student["distance"].mean <= farther * teacher["distance"]
    assert student["subject"].mean >= share * teacher["subject"]
    as_many_steps = Setting(steps, "dpmpp_2m", "sgm_uniform", 4.0)  # twice the forwards
    assert student["distance"].mean < score(as_many_steps)["distance"].mean
