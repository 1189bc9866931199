"""What an evaluation takes beyond the network's own forwards, and whether its memory grows with the samples.

`python benchmarks/evaluation.py` evaluates the demo's student of 4 steps against its teacher, with 1,000 and with
10,000 samples of each in one process, and prints a table. Exits with 1 where RSS at the larger number is more than 5 %
above that at the smaller one.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from launch import ROOT, in_environment

GROWTH = 0.05


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs=2, default=[1_000, 10_000], help="(default: 1000 10000)")
    parser.add_argument("--teacher-steps", type=int, default=10, help="(default: 10)")
    parser.add_argument("--batch", type=int, default=16, help="pictures at once (default: 16)")
    asked = parser.parse_args()
    if not 2 <= asked.samples[0] < asked.samples[1]:
        parser.error(f"set --samples to two numbers, the smaller first; they are {asked.samples}")
    return asked


class Forwards:
    """The seconds within the networks' own forwards, and the largest RSS that was seen after one."""

    def __init__(self):
        self.seconds, self.rss, self.began = 0.0, 0, 0.0

    def watch(self) -> None:
        import psutil
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
        from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

        process = psutil.Process()

        def before(module, _args) -> None:
            if isinstance(module, UNetModel):
                self.began = time.perf_counter()

        def after(module, _args, _output) -> None:
            if isinstance(module, UNetModel):
                self.seconds += time.perf_counter() - self.began
                self.rss = max(self.rss, process.memory_info().rss)

        register_module_forward_pre_hook(before)
        register_module_forward_hook(after)


def graph(samples: int, asked: argparse.Namespace) -> dict:
    from graphs import demo, node

    wires = {"model": ["demo", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    return {
        **demo(),
        "four": node("SiDDemoModel", weights="student, 4 steps"),
        "guider": node("SiDLSGGuider", **wires, guidance_scale=1.5),
        "prompts": node("SiDPrompts", text="", file="emoji_names.txt"),
        "evaluated": node(
            "SiDEvaluate",
            **{"prompts": ["prompts", 0], "clip": ["demo", 1], "vae": ["demo", 2], "clip_vision": ["demo", 3]},
            **{"teacher": ["guider", 0], "student_1": ["four", 0], "latent": ["latent", 0], "samples": samples},
            **{"per_prompt": 4, "steps": "0", "teacher_steps": asked.teacher_steps, "sampler_name": "dpmpp_2m"},
            **{"scheduler": "karras", "batch_size": asked.batch, "seed": samples, "name": "benchmark", "labels": ""},
        ),
    }


def main() -> int:
    asked = arguments()
    in_environment()
    sys.path[:0] = [str(ROOT / "tests")]
    import conftest  # noqa: F401  makes the pack importable as sid_pack
    from comfyui_process import ComfyUIProcess

    sizes = []
    with tempfile.TemporaryDirectory() as base:
        run = ComfyUIProcess.start(Path(os.environ["COMFYUI_PATH"]), ROOT, Path(base)).executor()
        forwards = Forwards()
        forwards.watch()
        run(graph(asked.batch, asked))  # caches and arenas fill
        print("samples    seconds   of which forwards    ratio    RSS, MB", flush=True)
        for samples in asked.samples:
            forwards.seconds, forwards.rss, began = 0.0, 0, time.perf_counter()
            result = run(graph(samples, asked))
            took = time.perf_counter() - began
            if not result.success:
                print(result.error)
                return 1
            sizes.append(forwards.rss)
            ratio = took / forwards.seconds
            print(f"{samples:7}{took:11.1f}{forwards.seconds:20.1f}{ratio:9.2f}{forwards.rss / 1e6:11.0f}", flush=True)
    print(f"RSS at {asked.samples[1]:,} is {sizes[1] / sizes[0]:.3f} times that at {asked.samples[0]:,}.")
    return 0 if sizes[1] <= sizes[0] * (1 + GROWTH) else 1


if __name__ == "__main__":
    sys.exit(main())
