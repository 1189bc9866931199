"""How much of a whole student a LoRA keeps that was made of it, and what a student is at other strengths.

    python demo/distil_students.py --steps 4 --whole      makes the student: minutes on an idle CPU core
    python benchmarks/extraction.py                       the demo protocol on 256 captions, two seeds
    python benchmarks/extraction.py --write               also saves the table to benchmarks/results/

The gain is how much nearer the student's pictures are to the real ones than those that its teacher draws in as many
steps itself, by the best of the TEACHERS; a LoRA is to keep KEPT of it at rank 64. Exits with 1 where it does not.
"""

import argparse
import datetime
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from launch import ROOT, in_environment

in_environment()
sys.path.insert(0, str(ROOT / "demo"))

from demo_protocol import Protocol  # noqa: E402  the folder has just been made importable
from distil_students import student_file  # noqa: E402
from drawing import SID_TIMES, Artist, Setting  # noqa: E402
from evaluate import Result, evaluate  # noqa: E402
from host import start_comfyui  # noqa: E402
from pictures import ASSETS  # noqa: E402
from reference import TRAINING, load_reference  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
STEPS = 4
# Its own 4 guided steps, of 8 forwards: over the student's times, and as is usual.
TEACHERS = [
    Setting(STEPS, "lcm", SID_TIMES, 3.0, name="teacher, lcm over the student's times"),
    Setting(STEPS, "dpmpp_2m", "karras", 3.0, name="teacher, dpmpp_2m karras"),
    Setting(STEPS, "dpmpp_2m", "sgm_uniform", 4.0, name="teacher, dpmpp_2m sgm_uniform"),
]
RANKS, STRICT = (8, 16, 64), 64
STRENGTHS = (0.5, 0.8, 1.2)
KEPT = 0.9


@dataclass(frozen=True)
class Row:
    """A setting's line of the table. about: what was measured of it besides pictures."""

    result: Result
    about: str = ""


def extracted(artist: Artist, whole: Path, rank: int) -> tuple[Path, str]:
    """A LoRA of that rank made of the whole student, as SiD Extract LoRA and SiD Save Student would; and how it is."""
    import torch

    from sid_pack.nodes.sampling.attached import student_info
    from sid_pack.nodes.sampling.extraction import extract
    from sid_pack.nodes.sampling.students import load_student
    from sid_pack.sid_core.files.tensors import write_tensors

    with torch.inference_mode():
        student = load_student(artist.teacher, whole)
        tensors, told = extract(student, artist.teacher, rank, energy=1.0)
    file = whole.with_name(f"{whole.stem}_rank_{rank}.safetensors")
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    write_tensors(file, halves, student_info(student).to_metadata())
    size = sum(tensor.nbytes for tensor in halves.values()) / 1e6
    return file, f"relative error {100 * told.error:.0f} %, {size:.1f} MB"


def at_strength(artist: Artist, student: Path, strength: float, folder: Path) -> Path:
    """That LoRA student at a strength, as a file."""
    import torch

    from sid_pack.nodes.sampling.attached import student_info
    from sid_pack.nodes.sampling.students import load_student, student_tensors
    from sid_pack.sid_core.files.tensors import write_tensors

    with torch.inference_mode():
        scaled = load_student(artist.teacher, student, strength)
        _, tensors = student_tensors(scaled, torch.float32, merge=False)
    file = folder / f"{student.stem}_at_{strength:g}.safetensors"
    write_tensors(file, tensors, student_info(scaled).to_metadata())
    return file


def table(rows: list[Row], teacher: float, whole: float) -> str:
    """As Markdown. teacher, whole: the distances that a gain is counted from and to."""
    lines = ["| | distance | of the gain | |", "|:--|--:|--:|:--|"]
    for row in rows:
        score = row.result.scores[TRAINING]["distance"]
        gain = (teacher - score.mean) / (teacher - whole)
        title = row.result.setting.title
        lines.append(f"| {title} | {score.mean:.1f} ± {score.std:.1f} | {100 * gain:.0f} % | {row.about} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = student_file("lsg", STEPS, whole=True)
    parser.add_argument("--student", type=Path, default=default, help="the whole one (default: the demo's)")
    parser.add_argument("--captions", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="also save the table, dated")
    args = parser.parse_args()
    if not args.student.is_file():
        parser.error("there is no whole student yet: run `python demo/distil_students.py --steps 4 --whole`")
    return args


def main() -> int:
    args = parse_arguments()
    start_comfyui()
    import comfy.model_management
    import torch

    protocol = Protocol(load_reference(), comfy.model_management.get_torch_device())
    artist = Artist(protocol.captions, batch=64)
    prompts = {TRAINING: protocol.some_prompts(args.captions)[TRAINING]}

    def measured(setting: Setting, about: str = "") -> Row:
        row = Row(evaluate(setting, artist, protocol, prompts, args.seeds), about)
        print(f"{setting.title}: {row.result.distance:.1f} {about}", flush=True)
        return row

    teachers = [measured(setting) for setting in TEACHERS]
    whole = measured(Setting(STEPS, student=args.student, name="whole student"))
    loras = {}
    for rank in RANKS:
        file, about = extracted(artist, args.student, rank)
        loras[rank] = measured(Setting(STEPS, student=file, name=f"LoRA of rank {rank}"), about)
    shipped = ASSETS / "student_4_steps.safetensors"
    others = [measured(Setting(STEPS, student=shipped, name="shipped student, a LoRA of rank 12"))]
    for strength in STRENGTHS:
        file = at_strength(artist, shipped, strength, args.student.parent)
        others.append(measured(Setting(STEPS, student=file, name=f"shipped student at strength {strength:g}")))
    teacher = min(row.result.distance for row in teachers)
    shown = table([*teachers, whole, *loras.values(), *others], teacher, whole.result.distance)
    kept = (teacher - loras[STRICT].result.distance) / (teacher - whole.result.distance)
    verdict = f"Rank {STRICT} keeps {100 * kept:.0f} % of the whole student's gain; {100 * KEPT:.0f} % are asked for."
    print(f"\n{shown}\n\n{verdict}")
    if args.write:
        today = datetime.date.today()
        text = (
            f"# A LoRA made of a whole student, {today}\n\n`python benchmarks/extraction.py --captions {args.captions} "
            f"--seeds {args.seeds}`, PyTorch {torch.__version__}, {platform.processor() or platform.machine()}, "
            f"{torch.get_num_threads()} CPU thread{'s' * (torch.get_num_threads() > 1)}. The demo's distance on "
            f"{args.captions} captions, ± the deviation over the seeds.\n\n{shown}\n\n{verdict}\n"
        )
        (RESULTS / f"extraction_demo_{today}.md").write_text(text, encoding="utf-8")
    return 0 if kept >= KEPT else 1


if __name__ == "__main__":
    sys.exit(main())
