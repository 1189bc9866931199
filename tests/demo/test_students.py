"""What the shipped students promise, against their teacher in 50 steps and in few; README.md has the whole figures."""

import pytest

CAPTIONS = 128


@pytest.fixture(scope="module")
def score(comfyui, protocol):
    """The scores of a setting on a few captions."""
    from drawing import Artist
    from evaluate import evaluate, some_captions

    artist = Artist(protocol.emoji.captions, CAPTIONS)
    captions = some_captions(len(protocol.emoji.captions), CAPTIONS)
    return lambda setting: evaluate(setting, artist, protocol, captions, seeds=1).scores


@pytest.fixture(scope="module")
def teacher(score):
    from run import TEACHER_50

    return score(TEACHER_50)


@pytest.mark.parametrize(
    ("file", "steps", "farther"), [("student_4_steps.safetensors", 4, 1.0), ("student_1_step.safetensors", 1, 1.3)]
)
def test_a_shipped_student_is_near_its_teacher_and_passes_its_few_steps(score, teacher, file, steps, farther):
    from drawing import Setting
    from emoji import ASSETS
    from run import TEACHER_2, TEACHER_4

    student = score(Setting(steps, student=ASSETS / file))
    assert student.distance <= farther * teacher.distance
    assert student.alignment_training >= 0.9 * teacher.alignment_training
    assert student.distance < score(TEACHER_4 if steps == 4 else TEACHER_2).distance
