"""Distil the students that come with the demo model, and those that they are compared with, by the pack's own workflow.

    python demo/distil_students.py [--steps 4] [--guidance lsg] [--whole]

With LSG it writes `assets/student_4_steps.safetensors` and `assets/student_1_step.safetensors`, or one of them; with
the other guidances of the paper `.sid/students/zero_4_steps.safetensors` and so on, for the table. Each is a LoRA on
the teacher. With --whole it is the whole network, `.sid/students/whole_lsg_4_steps.safetensors`, of which
benchmarks/extraction.py makes LoRAs. A run that is stopped goes on where it was. dev/LOG.md says how these settings
were found.
"""

import argparse
import json
import shutil
from pathlib import Path

from host import ROOT
from pictures import ASSETS
from run import BASE, WORKFLOWS, newest_student, run_graph

SETTINGS = {
    "SiDDistill.batch_size": 32,
    "SiDDistill.learning_rate_decay": "true",
    "SiDDistill.ema_half_life": 1000,
    "SiDDistill.save_every": 50,
}
ITERATIONS = {4: 500, 1: 500}
# A whole network bears a tenth of a LoRA's rates; half the batch and fewer iterations are enough to be made a LoRA of.
WHOLE = {
    "SiDDistill.mode": "full",
    "SiDDistill.batch_size": 16,
    "SiDDistill.iterations": 240,
    "SiDDistill.student_learning_rate": 1e-4,
    "SiDDistill.fake_learning_rate": 2e-4,
    "SiDDistill.save_every": 20,
}
WORKFLOW = WORKFLOWS / "demo_distil.json"
LSG = "lsg"  # the workflow's own
OTHER_GUIDERS = {
    "zero": {"class_type": "SiDZeroCFGGuider", "inputs": {}},
    "anti": {"class_type": "SiDAntiCFGGuider", "inputs": {"fake_guidance_scale": -1.0}},
}
COMPARED = ROOT / ".sid" / "students"


def graph_with(guidance: str) -> Path:
    """The workflow, with another guider in the place of its own unless that is LSG."""
    if guidance == LSG:
        return WORKFLOW
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    (node,) = (node for node in graph.values() if node["class_type"] == "SiDLSGGuider")
    guider = OTHER_GUIDERS[guidance]
    connections = {name: node["inputs"][name] for name in ("model", "positive", "negative")}
    node.update(class_type=guider["class_type"], inputs=connections | guider["inputs"])
    COMPARED.mkdir(parents=True, exist_ok=True)
    file = COMPARED / f"distil_{guidance}.json"
    file.write_text(json.dumps(graph), encoding="utf-8")
    return file


def student_file(guidance: str, steps: int, whole: bool = False) -> Path:
    """Where a student is put; the shipped ones are LSG's LoRAs."""
    name = f"{steps}_step{'s' * (steps > 1)}.safetensors"
    if whole:
        return COMPARED / f"whole_{guidance}_{name}"
    return ASSETS / f"student_{name}" if guidance == LSG else COMPARED / f"{guidance}_{name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, choices=list(ITERATIONS), help="only the student of that many steps")
    parser.add_argument("--guidance", choices=[LSG, *OTHER_GUIDERS], default=LSG)
    parser.add_argument("--whole", action="store_true", help="the whole network in place of a LoRA")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="for trials")
    parser.add_argument("--name", help="of the run, for trials: nothing is copied into the assets")
    args = parser.parse_args()
    for steps in [args.steps] if args.steps else ITERATIONS:
        name = args.name or f"{'whole_' * args.whole}{args.guidance}_{steps}"
        settings = SETTINGS | {"SiDDistill.iterations": ITERATIONS[steps], "SiDDistill.steps": steps}
        settings |= WHOLE if args.whole else {}
        settings |= {"SiDDistill.run_name": name, "SiDSaveStudent.filename_prefix": name}
        run_graph(graph_with(args.guidance), *(f"{key}={value}" for key, value in settings.items()), *args.set)
        print(f"the run's previews are in {BASE / 'output' / 'sid_runs' / name}")
        if not args.name:
            file = student_file(args.guidance, steps, args.whole)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(newest_student(name), file)
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
