"""What sampling through the pack's nodes costs beyond the network itself.

    python benchmarks/sampling.py                                      SD1.5 at full size, 256 px
    python benchmarks/sampling.py --model demo --batch 64 --rounds 40  the demo's student
    python benchmarks/sampling.py --write                              also save the table to benchmarks/results/

Each way to sample is compared with the bare network twice: with the time inside the diffusion model during the very
same run, which is what the promise is about, and with the forwards of one run of SiDGenerate alone, its inputs
recorded and given to the diffusion model again. The latter would also show a network that runs slower under our
nodes, but is as unsteady as the machine: the bare network, timed against itself, says how much. Beside our nodes:
`apply_model` (what ComfyUI adds to a forward) and ComfyUI's own lcm sampler on the same sigmas.
"""

import argparse
import datetime
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch import ROOT, in_environment

in_environment()

import torch  # noqa: E402  only that environment need have it
from alternate import Timing, alternate  # noqa: E402
from full_size import sd15, sd15_conditioning  # noqa: E402

sys.path.insert(0, str(ROOT / "demo"))
from host import start_comfyui  # noqa: E402  the folder has just been made importable

RESULTS = Path(__file__).parent / "results"
LIMIT = 1.02
SEED = 7
PROMPT = "red apple"
DEMO_WEIGHTS = "student, 4 steps"
MODELS = {"sd15": "SD1.5, random weights, 256 px", "demo": f"Demo model ({DEMO_WEIGHTS}), 64 px"}
SIDES = {"sd15": 256, "demo": 64}  # of a picture, in pixels
BARE = "bare network"
AGAIN = "bare network, once more"
GENERATE = "SiDGenerate"
SAMPLER = "SiDSampler in SamplerCustom"


@dataclass(frozen=True)
class Subject:
    """A model, what the nodes are given with it, and the host's own sampling node."""

    model: object
    positive: list
    latent: dict
    side: int
    steps: int
    sampler_custom: type


def load_subject(name: str, batch: int, steps: int) -> Subject:
    """Everything that is not to be timed, done once."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    from sid_pack.nodes.demo.node import SiDDemoModel

    if name == "sd15":
        model, positive = sd15(), sd15_conditioning()
    else:
        model, clip, *_ = SiDDemoModel.execute(DEMO_WEIGHTS).result
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    channels = model.get_model_object("latent_format").latent_channels
    side = SIDES[name]
    latent = {"samples": torch.zeros(batch, channels, side // 8, side // 8)}
    return Subject(model, positive, latent, side, steps, SamplerCustom)


def ways_to_sample(subject: Subject) -> dict[str, Callable[[], None]]:
    """By name, each a whole run; the nodes' also draw their noise, build their schedule and ready the model."""
    import comfy.samplers

    from sid_pack.nodes.sampling.few_step import AUTO, SiDGenerate, SiDSampler, SiDScheduler

    def generate() -> None:
        batch = len(subject.latent["samples"])
        SiDGenerate.execute(
            subject.model, subject.positive, SEED, subject.side, subject.side, batch, subject.steps, 0.0, AUTO
        )

    def custom(sampler: object) -> None:
        (sigmas,) = SiDScheduler.execute(subject.model, subject.steps, 0.0).result
        subject.sampler_custom.execute(
            subject.model, True, SEED, 1.0, subject.positive, subject.positive, sampler, sigmas, subject.latent
        )

    def sid_sampler() -> None:
        custom(SiDSampler.execute(AUTO).result[0])

    def lcm() -> None:
        custom(comfy.samplers.sampler_object("lcm"))

    network, applied = record(subject, generate)

    def bare_network() -> None:
        replay(subject.model.model.diffusion_model, network)

    return {
        BARE: bare_network,
        AGAIN: bare_network,
        "apply_model": lambda: replay(subject.model.model.apply_model, applied),
        GENERATE: generate,
        SAMPLER: sid_sampler,
        "stock lcm in SamplerCustom": lcm,
    }


Call = tuple[tuple, dict]


def record(subject: Subject, run: Callable[[], None]) -> tuple[list[Call], list[Call]]:
    """What the network and `apply_model` are called with in one run."""
    from comfy.patcher_extension import WrappersMP

    network: list[Call] = []
    applied: list[Call] = []

    def keep_applied(executor, *args, **kwargs):
        applied.append(bare((args, kwargs)))
        return executor(*args, **kwargs)

    hook = subject.model.model.diffusion_model.register_forward_pre_hook(
        lambda module, args, kwargs: network.append(bare((args, kwargs))), with_kwargs=True
    )
    key = "benchmark"
    subject.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, keep_applied)
    try:
        run()
    finally:
        hook.remove()
        subject.model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, key)
    if not len(network) == len(applied) == subject.steps:
        raise RuntimeError(f"{subject.steps} steps made {len(network)} forwards, {len(applied)} through apply_model")
    return network, applied


def bare(call: Call) -> Call:
    """The call with copies of its tensors and without the host's options, which carry the recorder itself."""
    args, kwargs = call
    args = tuple({} if isinstance(value, dict) else copied(value) for value in args)
    return args, {name: copied(value) for name, value in kwargs.items() if name != "transformer_options"}


def copied(value: object) -> object:
    return value.clone() if isinstance(value, torch.Tensor) else value


def replay(function: Callable, calls: list[Call]) -> None:
    for args, kwargs in calls:
        function(*args, **kwargs)


def table(timings: dict[str, Timing]) -> str:
    rows = [
        f"| {name} | {1000 * timing.seconds:.1f} | {timing.to_own_core} | {timing.to_baseline} |"
        for name, timing in timings.items()
    ]
    heads = "| | ms a run | to the forwards in the same run | to the bare network's run |"
    return "\n".join([heads, "|:--|--:|:-:|:-:|", *rows])


def setting(arguments: argparse.Namespace) -> str:
    """What was measured, and on what."""
    import comfyui_version

    on_gpu = torch.cuda.is_available()
    threads = f"a CPU, {torch.get_num_threads()} threads"
    return (
        f"{MODELS[arguments.model]}, {arguments.steps} steps, batch {arguments.batch}, median (quartiles) of "
        f"{arguments.rounds} rounds; ComfyUI {comfyui_version.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, on {torch.cuda.get_device_name() if on_gpu else threads}."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", choices=list(MODELS), default="sd15", help="what to sample")
    parser.add_argument("--steps", type=int, default=4, help="forwards in a run")
    parser.add_argument("--batch", type=int, default=1, help="pictures in a run")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is timed")
    parser.add_argument("--write", action="store_true", help=f"save the table in {RESULTS.relative_to(ROOT)}/")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    start_comfyui()
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False  # or the host's sampler would be timed printing
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    with torch.inference_mode():  # as nodes are run
        subject = load_subject(arguments.model, arguments.batch, arguments.steps)
        timings = alternate(
            ways_to_sample(subject),
            subject.model.model.diffusion_model,
            arguments.rounds,
            synchronize=synchronize,
            after_round=lambda done: print(f"Round {done} of {arguments.rounds}", file=sys.stderr, flush=True),
        )
    report = f"{setting(arguments)}\n\n{table(timings)}\n"
    print(f"\n{report}")
    worst = max(timings[name].to_own_core.middle for name in (GENERATE, SAMPLER))
    print(f"Our nodes: {worst:.3f} x the network's own forwards; promised: {LIMIT} or less.")
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"sampling_{arguments.model}_{datetime.date.today():%Y-%m-%d}.md"
        file.write_text(f"# Cost of sampling, {datetime.date.today():%Y-%m-%d}\n\n{report}", encoding="utf-8")
        print(f"Saved to {file.relative_to(ROOT)}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
