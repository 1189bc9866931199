"""What converting takes: seconds, and memory above that of a Python with torch, for a file of random weights.

    python benchmarks/convert.py --comfyui PATH [--gigabytes 3.4] [--pickle] [--folder DIR]

The file is SD1.5's network by diffusers' names and in float32, which has 3.4 GB; a smaller one has layers of fewer
input channels. It is converted by the pack's own functions in a process that does nothing else; ComfyUI's
names are asked for by a process of its own, as the command does. `--pickle` has it as torch.save writes it.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sid_core.convert.architecture import Architecture  # noqa: E402
from sid_core.convert.facts import Facts  # noqa: E402
from sid_core.convert.sources import open_source  # noqa: E402
from sid_core.convert.stream import write_streamed  # noqa: E402
from sid_core.convert.students import NETWORK, network_of, student_of  # noqa: E402
from sid_core.convert.weights import Weight  # noqa: E402
from sid_core.headless.architectures import architecture_of  # noqa: E402

FULL = 859_520_964  # numbers in SD1.5's network
SHAPES = "shapes.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the converter.")
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=FULL * 4 / 1e9)
    parser.add_argument("--pickle", action="store_true")
    parser.add_argument("--folder", type=Path, help="where there is room for the file twice")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.comfyui)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder) / ("student_4step.pth" if options.pickle else "student_4step.safetensors")
        # diffusers is asked here, and not in the process that is measured.
        source.with_name(SHAPES).write_text(json.dumps(shapes()), encoding="utf-8")
        make(source, options.gigabytes)
        line = [sys.executable, __file__, "--comfyui", str(options.comfyui), "--measure", str(source)]
        subprocess.run(line, check=True)


def shapes() -> dict[str, list[int]]:
    """Of SD1.5's network by diffusers' names."""
    from diffusers import UNet2DConditionModel

    widths = (320, 640, 1280, 1280)
    with torch.device("meta"):
        network = UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8)
    return {name: list(weight.shape) for name, weight in network.state_dict().items()}


def make(path: Path, gigabytes: float) -> None:
    """Random float32 weights, of as many of the layers' input channels as the size has room for."""
    part = gigabytes * 1e9 / 4 / FULL
    held = {name: cut(shape, part) for name, shape in shapes().items()}
    if path.suffix == ".pth":
        torch.save({"ema": {name: torch.randn(shape) for name, shape in held.items()}}, path)
        return
    weights = {name: random(shape) for name, shape in held.items()}
    write_streamed(path, weights, {}, lambda *_: None)


def cut(shape: list[int], part: float) -> tuple[int, ...]:
    return (shape[0], max(1, round(shape[1] * part)), *shape[2:]) if len(shape) > 1 and part < 1 else tuple(shape)


def random(shape: tuple[int, ...]) -> Weight:
    def rows():
        for first in range(0, shape[0], 256):
            yield torch.randn(min(256, shape[0] - first), *shape[1:])

    return Weight(shape, torch.float32, rows)


def measure(path: Path, comfyui: Path) -> None:
    """In a process of its own: the peak is of the whole life of a process."""
    source = open_source(path)
    asked = time.monotonic()
    full = json.loads(path.with_name(SHAPES).read_text(encoding="utf-8"))
    architecture = architecture_of(comfyui, full)
    assert architecture is not None and network_of(source)
    asked = time.monotonic() - asked
    # Of the file's own shapes, which are narrower where the file is smaller.
    places = {name: pieces for name, pieces in architecture.diffusers.items() if name in source.tensors}
    own = {pieces[0][0]: source.tensors.shape(name) for name, pieces in places.items()}
    known = Architecture("SD15", "unet", False, False, own, places, architecture.lora)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which importing torch has made, is forgotten
    begun = time.monotonic()
    student = student_of(source, known, Facts())
    weights = {NETWORK + name: weight for name, weight in student.weights.items()}
    written = write_streamed(path.with_name("out.safetensors"), weights, student.info.to_metadata(), lambda *_: None)
    seconds, above = time.monotonic() - begun, memory("VmHWM") - before
    largest = max(weight.nbytes for weight in weights.values())
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    print("| form | file, MB | names, s | convert and check, s | MB/s | peak above start, MB | largest, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {source.kind} | {written.nbytes / 1e6:,.0f} | {asked:.0f} | {seconds:.0f} | "
        f"{written.nbytes / 1e6 / seconds:.0f} | {above / 1e6:.1f} | {largest / 1e6:.1f} | {above / largest:.2f} |"
    )


def memory(field: str) -> int:
    """Bytes that this process has in memory (VmRSS), or has had at most (VmHWM), mapped files included; Linux alone."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
