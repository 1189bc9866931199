"""Distil the students that come with the demo model, by the pack's own workflow in a real ComfyUI.

    python demo/distil_students.py

Writes `assets/student_4_steps.safetensors` and `assets/student_1_step.safetensors`. A run that is stopped goes
on where it was. dev/LOG.md says how these settings were found.
"""

import shutil
from pathlib import Path

from run import BASE, newest_student, run_workflow

ASSETS = Path(__file__).parent / "assets"
SETTINGS = {
    "SiDLSGGuider.guidance_scale": 1.5,
    "SiDDistill.iterations": 1000,
    "SiDDistill.batch_size": 32,
    "SiDDistill.student_learning_rate": 5e-5,
    "SiDDistill.fake_learning_rate": 1e-4,
    "SiDDistill.learning_rate_decay": "true",
    "SiDDistill.ema_half_life": 1500,
    "SiDDistill.save_every": 100,
}


def main() -> None:
    for steps, file in ((4, "student_4_steps.safetensors"), (1, "student_1_step.safetensors")):
        settings = SETTINGS | {"SiDDistill.steps": steps, "SiDDistill.run_name": f"shipped_{steps}"}
        run_workflow("demo_distil", *(f"{name}={value}" for name, value in settings.items()))
        shutil.copy(newest_student(), ASSETS / file)
        print(f"wrote {ASSETS / file}; the run's previews are in {BASE / 'output' / 'sid_runs'}")


if __name__ == "__main__":
    main()
