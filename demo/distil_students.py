"""Distil the students that come with the demo model, by the pack's own workflow in a real ComfyUI.

    python demo/distil_students.py [--steps 4]

Writes `assets/student_4_steps.safetensors` and `assets/student_1_step.safetensors`, or one of them. A run that is
stopped goes on where it was. dev/LOG.md says how these settings were found.
"""

import argparse
import shutil

from pictures import ASSETS
from run import BASE, newest_student, run_workflow

SETTINGS = {
    "SiDDistill.batch_size": 32,
    "SiDDistill.student_learning_rate": 1e-4,
    "SiDDistill.fake_learning_rate": 2e-4,
    "SiDDistill.learning_rate_decay": "true",
    "SiDDistill.ema_half_life": 1000,
    "SiDDistill.save_every": 100,
}
STUDENTS = {
    4: ("student_4_steps.safetensors", {"SiDDistill.iterations": 400, "SiDLSGGuider.guidance_scale": 2.5}),
    1: (
        "student_1_step.safetensors",
        {
            "SiDDistill.iterations": 900,
            "SiDLSGGuider.guidance_scale": 2.0,
            "SiDDistill.student_learning_rate": 2e-4,
            "SiDDistill.fake_learning_rate": 4e-4,
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, choices=list(STUDENTS), help="only the student of that many steps")
    only = parser.parse_args().steps
    for steps in [only] if only else STUDENTS:
        file, own = STUDENTS[steps]
        name = f"shipped_{steps}"
        settings = SETTINGS | own | {"SiDDistill.steps": steps, "SiDDistill.run_name": name}
        settings["SiDSaveStudent.filename_prefix"] = name
        run_workflow("demo_distil", *(f"{key}={value}" for key, value in settings.items()))
        shutil.copy(newest_student(name), ASSETS / file)
        print(f"wrote {ASSETS / file}; the run's previews are in {BASE / 'output' / 'sid_runs' / name}")


if __name__ == "__main__":
    main()
