"""What CleanStyle adds to a sampling step, and how much the authors' way would add.

    python benchmarks/cleanstyle.py                 SDXL and SD1.5 with fewer channels, 256 px
    python benchmarks/cleanstyle.py --full          at their true size: for a GPU, or 16 GB of free memory
    python benchmarks/cleanstyle.py --write         also save the tables to benchmarks/results/

Both are timed within the same steps, so that what slows the machine slows all: in each layer the keys and values are
purified by us, which counts, and once more in the authors' way, which does not. That way, in our own words: a singular
value decomposition for the purified half and one for the style-negative, of keys and of values, in each layer at each
step. A step is one guided prediction: conditional and unconditional half in one batch. The step in which the spectra
are computed is told apart. A second table is of one layer alone, again and again. On a CPU, time is the processor time
that this process has had, so other programs' does not count.
"""

import argparse
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from launch import ROOT, in_environment

in_environment()

import torch  # noqa: E402  only that environment need have it
from alternate import Ratio, ratio  # noqa: E402
from authors_cleanstyle import AuthorsWay  # noqa: E402
from full_size import (  # noqa: E402
    MIDDLE_SDXL_UNET,
    MIDDLE_UNET,
    SD15_UNET,
    SDXL_UNET,
    conditioning_for,
    sd15,
    sdxl,
)

sys.path.insert(0, str(ROOT / "demo"))
from host import start_comfyui  # noqa: E402  the folder has just been made importable

RESULTS = ROOT / "benchmarks" / "results"
LIMIT, TIMES_FASTER = 0.03, 50
SEED, CFG = 7, 5.0
# (model, blocks with the image prompt): InstantStyle on SDXL, IP-Adapter on all of it, StyleShot's way on SD1.5.
CASES = {
    "SDXL, style block": ("sdxl", "style"),
    "SDXL, all blocks": ("sdxl", "all"),
    "SD1.5, all blocks": ("sd15", "all"),
}


@dataclass
class Parts:
    """Seconds of one step: `forward`, of which `authors` and what of it is ours."""

    forward: float = 0.0
    purified: float = 0.0
    branch: float = 0.0
    change: float = 0.0
    authors: float = 0.0

    @property
    def ours(self) -> float:
        """A purified branch without the branch itself, but with what that is given to do."""
        return self.purified - self.branch + self.change

    @property
    def without(self) -> float:
        return self.forward - self.authors - self.ours


def now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Clock:
    """What of each step's seconds goes where."""

    steps: list[Parts] = field(default_factory=list)

    def timed(self, part: str, function: Callable, *args, **kwargs):
        began = now()
        result = function(*args, **kwargs)
        step = self.steps[-1]
        setattr(step, part, getattr(step, part) + now() - began)
        return result


class TimedPurified:
    """In the place of a PurifiedBranch."""

    def __init__(self, purified, clock: Clock, authors: AuthorsWay):
        self.purified, self.clock = purified, clock
        purified.branch = TimedBranch(purified.branch, clock, authors)
        self.is_active, self.models = purified.is_active, purified.models

    def to(self, *args):
        self.purified.to(*args)
        return self

    def __call__(self, *args):
        return self.clock.timed("purified", self.purified, *args)


class TimedBranch:
    def __init__(self, branch, clock: Clock, authors: AuthorsWay):
        self.branch, self.clock, self.authors = branch, clock, authors
        self.is_active, self.models, self.to = branch.is_active, branch.models, branch.to

    def __call__(self, *args):
        *args, change = args
        return self.clock.timed("branch", self.branch, *args, TimedChange(change, self.clock, self.authors))


class TimedChange:
    def __init__(self, change, clock: Clock, authors: AuthorsWay):
        self.change, self.clock, self.authors = change, clock, authors

    def cond(self, *args):
        self.clock.timed("authors", self.authors.cond, *args)
        return self.clock.timed("change", self.change.cond, *args)

    def uncond(self, *args):
        self.clock.timed("authors", self.authors.uncond, *args)
        return self.clock.timed("change", self.change.uncond, *args)


@dataclass(frozen=True)
class Subject:
    """A MODEL with an image prompt, and all that sampling takes."""

    model: object
    latent: torch.Tensor
    conds: tuple[list, list]
    sigmas: torch.Tensor


def load_subject(kind: str, blocks: str, arguments: argparse.Namespace) -> Subject:
    import comfy.samplers

    if kind == "sdxl":
        unet = SDXL_UNET if arguments.full else MIDDLE_SDXL_UNET
        model = sdxl(unet)
    else:
        unet = SD15_UNET if arguments.full else MIDDLE_UNET
        model = sd15(unet)
    prompted = with_image_prompt(model, blocks, unet["context_dim"], arguments.tokens)
    side = arguments.size // 8
    latent = torch.zeros(arguments.batch, 4, side, side)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", arguments.steps)
    return Subject(prompted, latent, (conditioning_for(unet), conditioning_for(unet)), sigmas)


def with_image_prompt(model, blocks: str, width: int, tokens: int):
    """An IP-Adapter of random weights in all layers, or in InstantStyle's block."""
    import comfy.model_patcher
    import comfy.ops

    from sid_pack.nodes.host.unet_layers import ALL, STYLE, chosen_layers, cross_attention_layers
    from sid_pack.nodes.image_prompts.attention import put_attention, with_branch
    from sid_pack.nodes.image_prompts.ip_adapter_branch import AdapterBranch, ImageTokens

    layers = chosen_layers(cross_attention_layers(model), ALL if blocks == "all" else STYLE)
    network = torch.nn.Module()
    dtype = model.model.get_dtype()
    for name in ("to_k_ip", "to_v_ip"):
        projections = [
            comfy.ops.manual_cast.Linear(width, layer.width, bias=False, dtype=dtype, device=model.load_device)
            for layer in layers
        ]
        for projection in projections:
            projection.weight.data.normal_(std=width**-0.5)
        setattr(network, name, torch.nn.ModuleList(projections))
    weights = comfy.model_patcher.ModelPatcher(network, model.load_device, model.offload_device)
    image = ImageTokens(torch.randn(1, tokens, width), torch.randn(1, tokens, width))
    clone = model.clone()
    put_attention(
        clone, {layer.key: with_branch(None, AdapterBranch(weights, n, image)) for n, layer in enumerate(layers)}
    )
    return clone


def clean(subject: Subject):
    """The MODEL after CleanStyle as it comes, in all blocks that have the image prompt."""
    from sid_pack.nodes.cleanstyle.model import clean as cleaned
    from sid_pack.nodes.cleanstyle.purify import Settings

    return cleaned(subject.model, Settings())


def sample(subject: Subject, model) -> None:
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*subject.conds)
    guider.set_cfg(CFG)
    noise = torch.randn(subject.latent.shape, generator=torch.manual_seed(SEED))
    sampler = comfy.samplers.sampler_object("euler")
    guider.sample(noise, subject.latent, sampler, subject.sigmas, disable_pbar=True, seed=SEED)


def time_inside(subject: Subject, runs: int) -> tuple[list[Parts], list[Parts]]:
    """The first step, in which the spectra are computed, of each run; and all others."""
    network = subject.model.model.diffusion_model
    first, later = [], []
    sample(subject, subject.model)  # which loads it
    for _ in range(runs):
        clock = Clock()
        model = timed(clean(subject), clock)
        with forwards_on(clock, network):
            sample(subject, model)
        if len(clock.steps) != len(subject.sigmas) - 1:
            raise RuntimeError(f"{len(subject.sigmas) - 1} steps made {len(clock.steps)} forwards; expected one each")
        first.append(clock.steps[0])
        later += clock.steps[1:]
    return first, later


@contextmanager
def forwards_on(clock: Clock, network: torch.nn.Module) -> Iterator[None]:
    """A step begins with each forward of the network."""
    began = 0.0

    def start(*_: object) -> None:
        nonlocal began
        clock.steps.append(Parts())
        began = now()

    def stop(*_: object) -> None:
        clock.steps[-1].forward = now() - began

    hooks = network.register_forward_pre_hook(start), network.register_forward_hook(stop)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def timed(model, clock: Clock):
    """The same MODEL, its purified branches on the clock."""
    authors = AuthorsWay()
    for attention in model.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        attention.branches = tuple(TimedPurified(branch, clock, authors) for branch in attention.branches)
    return model


def row(name: str, first: list[Parts], later: list[Parts]) -> tuple[str, Ratio, Ratio]:
    """A line of the table, the share that we add to a step, and how many times faster we are."""
    share = ratio([step.ours for step in later], [step.without for step in later])
    faster = ratio([step.authors for step in later], [step.ours for step in later])
    ours = statistics.median(step.ours for step in later)
    authors = statistics.median(step.authors for step in later)
    once = statistics.median(step.ours for step in first)
    whole_run = (30 * authors) / (once + 29 * ours)
    step = statistics.median(step.without for step in later)
    cells = [
        name,
        f"{1000 * step:.0f}",
        f"{1000 * ours:.2f}",
        f"{1000 * authors:.1f}",
        f"{100 * share.middle:.2f} % ({100 * share.low:.2f} … {100 * share.high:.2f})",
        f"{faster.middle:.0f} × ({faster.low:.0f} … {faster.high:.0f})",
        f"{1000 * once:.0f}",
        f"{whole_run:.0f} ×",
    ]
    return f"| {' | '.join(cells)} |", share, faster


COLUMNS = [
    "",
    "ms a step without",
    "ms ours",
    "ms the authors' way",
    "ours adds",
    "the authors' to ours",
    "ms ours, first step",
    "the authors' to ours in 30 steps",
]
HEADS = f"| {' | '.join(COLUMNS)} |\n|:--|--:|--:|--:|:-:|:-:|--:|--:|"


def layer_alone(tokens: int, width: int, repetitions: int = 50) -> str:
    """A line of the second table: one layer's keys and values, both halves, at another α_t each time."""
    import comfy.model_management

    from sid_pack.nodes.cleanstyle.purify import Purify, References, Settings, Together

    device = comfy.model_management.get_torch_device()
    image = torch.randn(1, tokens, width, device=device)
    projected = {which: torch.randn(1, tokens, width, device=device) * 5 for which in "kv"}
    known, authors = References(Together()), AuthorsWay()

    def both_halves(change) -> float:
        began = now()
        for which in "kv":
            change.cond(which, lambda _, which=which: projected[which], image)
            change.uncond(which, lambda _, which=which: projected[which], image, image)
        return now() - began

    ours, theirs, warm_up = [], [], 5
    for repetition in range(warm_up + repetitions):
        alpha = 0.01 / (1 + repetition)
        ours.append(both_halves(Purify(Settings(), lambda x: known(x, (device, torch.float32)), alpha)))
        theirs.append(both_halves(authors))
    faster = ratio(theirs[warm_up:], ours[warm_up:])
    microseconds = [f"{1e6 * statistics.median(times[warm_up:]):.0f}" for times in (ours, theirs)]
    cells = [f"{tokens} × {width}", *microseconds, f"{faster.middle:.0f} × ({faster.low:.0f} … {faster.high:.0f})"]
    return f"| {' | '.join(cells)} |"


ALONE = (
    "| one layer alone: tokens × channels | µs ours | µs the authors' way | the authors' to ours |\n|:--|--:|--:|:-:|"
)


def setting(arguments: argparse.Namespace) -> str:
    """What was measured, and on what."""
    import comfyui_version

    on_gpu = torch.cuda.is_available()
    threads = f"a CPU, {torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "a CPU, one thread"
    size = "true size" if arguments.full else "128 in place of 320 channels"
    return (
        f"Random weights, {size}, {arguments.size} px, {arguments.tokens} image tokens, batch {arguments.batch} with "
        f"both halves, medians (quartiles) over the steps of {arguments.runs} runs of {arguments.steps} steps; ComfyUI "
        f"{comfyui_version.__version__}, torch {torch.__version__}, Python {platform.python_version()}, on "
        f"{torch.cuda.get_device_name() if on_gpu else threads}."
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the models at their true size")
    parser.add_argument("--size", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--tokens", type=int, default=16, help="image tokens: 4 for a base adapter, 16 for plus")
    parser.add_argument("--batch", type=int, default=1, help="pictures in a run")
    parser.add_argument("--steps", type=int, default=6, help="steps in a run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case for the times inside a step")
    parser.add_argument("--write", action="store_true", help=f"save the tables in {RESULTS.relative_to(ROOT)}/")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    start_comfyui()
    rows, kept = [], True
    sizes = [(tokens, width) for tokens in (4, 16, 257) for width in (640, 1280)]
    with torch.inference_mode():  # as nodes are run
        for name, (kind, blocks) in CASES.items():
            print(name, file=sys.stderr, flush=True)
            subject = load_subject(kind, blocks, arguments)
            line, share, faster = row(name, *time_inside(subject, arguments.runs))
            rows.append(line)
            print(line, file=sys.stderr, flush=True)
            kept &= share.middle <= LIMIT and faster.middle >= TIMES_FASTER
            del subject
        alone = [layer_alone(*size) for size in sizes]
    table = "\n".join([HEADS, *rows, "", ALONE, *alone])
    report = f"{setting(arguments)}\n\n{table}\n"
    print(f"\n{report}")
    print(f"Aimed at: at most {100 * LIMIT:.0f} % of a step, and {TIMES_FASTER} × the authors' way.")
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        size = "full" if arguments.full else "middle"
        file = RESULTS / f"cleanstyle_{size}_{datetime.date.today():%Y-%m-%d}.md"
        file.write_text(f"# Cost of CleanStyle, {datetime.date.today():%Y-%m-%d}\n\n{report}", encoding="utf-8")
        print(f"Saved to {file.relative_to(ROOT)}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
