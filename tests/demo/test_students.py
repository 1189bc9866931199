"""The shipped students' promise: nearer to the real pictures than their teacher by a stock sampler of few steps.

The stock settings are the best that demo/scan.py found; dev/LOG.md has the figures of the whole protocol.
"""

import pytest

CAPTIONS = 256


@pytest.mark.parametrize(
    ("student", "steps", "stock"),
    [
        ("student_4_steps.safetensors", 4, (4, "euler", "exponential", 1.5)),
        ("student_1_step.safetensors", 1, (2, "lcm", "karras", 2.0)),
    ],
)
def test_a_student_is_nearer_to_the_real_pictures_than_its_teacher_in_few_steps(
    comfyui, protocol, student, steps, stock
):
    from drawing import Artist, Setting
    from emoji import ASSETS
    from evaluate import evaluate, some_captions

    artist = Artist(protocol.emoji.captions, batch=64)
    captions = some_captions(len(protocol.emoji.captions), CAPTIONS)
    of_student, of_teacher = (
        evaluate(setting, artist, protocol, captions, seeds=1).scores
        for setting in (Setting(steps, student=ASSETS / student), Setting(*stock))
    )
    assert of_student.distance < of_teacher.distance
    assert of_student.alignment_training > 0.9 * of_teacher.alignment_training
