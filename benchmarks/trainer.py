"""Speed and memory of distillation, ours against a plain implementation, and where the time of ours goes.

    python benchmarks/trainer.py                    SD1.5: full size on a GPU, middle size on a CPU
    python benchmarks/trainer.py --model demo       the demo's teacher and its text encoder
    python benchmarks/trainer.py --write            also save the tables to benchmarks/results/

Every contender trains the same model from the same weights, batch and precision, in a process of its own, so that its
peak memory is its own. The processes are started in turn, in alternating order, a round each; speeds are compared
within a round. "CPU s" are seconds of work, which other programs on the machine change less than the clock's; on a CPU
they should tell the same. plain_sid.py says what the plain implementation does, bare_iteration.py what "bare" is: the
forwards and backwards that no implementation can do without.
"""

import argparse
import datetime
import importlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from launch import ROOT, in_environment

in_environment()

import torch  # noqa: E402  only that environment need have it
from alternate import Ratio, ratio  # noqa: E402
from bare_iteration import bare_iteration, rows_of  # noqa: E402
from full_size import CLIP_L, MIDDLE_CLIP, MIDDLE_UNET, SD15_UNET, sd15, sd15_clip  # noqa: E402
from plain_sid import PlainSettings, PlainSiD  # noqa: E402
from profile_parts import OPTIMIZERS, REST, Parts  # noqa: E402

sys.path.insert(0, str(ROOT / "demo"))
from host import start_comfyui  # noqa: E402  the folder has just been made importable

RESULTS = Path(__file__).parent / "results"
# What ours with LoRA is to reach: of plain, LSG its speed, by guidance, and its memory; of the bare iteration its time.
SPEEDS, MEMORY, LIMIT = {"LSG": 1.4, "Zero-CFG": 2.0}, 0.5, 1.10
WARM_UP = 2
LEARNING_RATE = 1e-6
EMA_HALF_LIFE = 50_000.0
SEED = 7
KAPPA = 1.5
PLAIN, BARE, LORA = "plain", "bare", "lora"
STRATEGIES = ("LSG", "Zero-CFG")
BASELINE = f"{PLAIN}, LSG"  # the public loop with its own guidance
MODELS = {
    "sd15": "SD1.5, random weights",
    "sd15-middle": "SD1.5's blocks with 128 in place of 320 channels, random weights",
    "demo": "Demo teacher",
}
SIDES = {"sd15": 512, "sd15-middle": 128, "demo": 64}  # of a picture, in pixels
BATCHES = {"sd15": 4, "sd15-middle": 2, "demo": 16}
RANKS = {"sd15": (64, 32), "sd15-middle": (26, 13), "demo": (64, 32)}  # of the LoRAs; in the middle one by 128/320, too
BACKWARD = "student's backward, through all three"


@dataclass(frozen=True)
class Subject:
    """A teacher with its text encoder. encode(texts) → (B, tokens, width), all at once as the public loop does it."""

    model: object
    clip: object
    encode: Callable[[Sequence[str]], torch.Tensor]
    texts: tuple[str, ...]
    latent_shape: tuple[int, ...]
    ranks: tuple[int, int]


@dataclass(frozen=True)
class Contender:
    """A trainer, ready: iterate() is one iteration, profile(parts) makes the iterations from then on book their parts.

    once: seconds for encoding the prompts, which is done once in a run and not in an iteration; singly: the same, one
    prompt at a time.
    """

    iterate: Callable[[], None]
    profile: Callable[[Parts], None]
    once: float = 0.0
    singly: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One process of one contender: seconds of each iteration, and bytes at the peak, of which some for the model.

    cpu_seconds: of all the process's threads. loaded: bytes for all that it takes to have the model and its text
    encoder in memory; on a CPU, ComfyUI and torch too.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    peak: int
    loaded: int
    once: float
    singly: float
    parts: dict[str, float]


# The contenders.


def plain(subject: Subject, guidance, batch: int) -> Contender:
    """The plain implementation, whose teacher is the loaded model itself."""
    from sid_pack.nodes.host.model import process_of

    process = process_of(subject.model)
    settings = PlainSettings(scales(guidance), batch, LEARNING_RATE, EMA_HALF_LIFE)
    torch.manual_seed(SEED)
    trainer = PlainSiD(
        subject.model.model.diffusion_model,
        subject.encode,
        subject.texts,
        settings,
        velocity=process.prediction == "v",
        alphas_cumprod=process.alphas_cumprod,
        latent_shape=subject.latent_shape,
        device=subject.model.load_device,
    )

    def profile(parts: Parts) -> None:
        predict, encode = trainer.predict, trainer.encode
        trainer.encode = parts.timed("encoding", encode)

        def by_role(role, *inputs):
            with parts.part(f"{role}, forward"):
                return predict(role, *inputs)

        trainer.predict = by_role
        parts.watch(trainer.optimizers["fake score"], "fake score, backward")
        parts.watch(trainer.optimizers["student"], BACKWARD)
        trainer.follow = parts.timed("average", trainer.follow)

    return Contender(trainer.iterate, profile)


def bare(subject: Subject, guidance, batch: int) -> Contender:
    """No training: see bare_iteration.py."""
    from sid_pack.sid_core.method.guidance import evaluations

    network, rows = subject.model.model.diffusion_model, rows_of(*map(evaluations, scales(guidance)))
    context = subject.encode(subject.texts[:1]).to(network.dtype)
    return Contender(bare_iteration(network, context, subject.latent_shape, rows, batch), lambda parts: None)


def scales(guidance) -> tuple[float, float, float]:
    return guidance.fake_train, guidance.fake_score, guidance.teacher


def ours(subject: Subject, guidance, batch: int, lora: bool, recompute: bool) -> Contender:
    """What SiDDistill does in its modes."""
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.model import compute_dtype, process_of
    from sid_pack.nodes.host.texts import AT_ONCE, conditionings
    from sid_pack.nodes.sampling.guiders import SiDGuider
    from sid_pack.nodes.training.memory import Savings
    from sid_pack.nodes.training.roles import LoRAOptions, full_roles, lora_roles
    from sid_pack.sid_core.data.conditioning import PromptSet
    from sid_pack.sid_core.training.run import Run
    from sid_pack.sid_core.training.settings import Settings

    model, process = subject.model, process_of(subject.model)
    guider = SiDGuider(model, guidance, None, 0.0)
    latent = torch.zeros(1, *subject.latent_shape)

    def encode(texts: Sequence[str], at_once: int) -> list[dict[str, torch.Tensor]]:
        found = [
            each for i in range(0, len(texts), at_once) for each in conditionings(subject.clip, texts[i : i + at_once])
        ]
        return [conditioning_tensors(model, each, latent) for each in found]

    (empty,) = conditionings(subject.clip, [""])
    guider.set_conds(empty, empty)
    encode(subject.texts, 1)  # the text encoder's first forwards take longer
    conds, once = timed(encode, [*subject.texts, ""], AT_ONCE)
    _, singly = timed(encode, [*subject.texts, ""], 1)
    prompts = PromptSet.of(subject.texts, conds[:-1], conds[-1])
    savings = Savings(batch, recompute, can_offload=False)
    roles = (
        lora_roles(guider, process, LoRAOptions(*subject.ranks), savings)
        if lora
        else full_roles(guider, process, savings)
    )
    settings = Settings(
        guidance,
        steps=1,
        batch=batch,
        student_learning_rate=LEARNING_RATE,
        fake_learning_rate=LEARNING_RATE,
        ema_half_life_images=EMA_HALF_LIFE,
        seed=SEED,
    )
    in_float16 = compute_dtype(model) == torch.float16
    run = Run(roles.student, roles.fake, settings, loss_scaling=in_float16)
    return of_run(run, roles, prompts, process, subject, once, singly)


def timed(work: Callable, *inputs: object) -> tuple:
    """What it gives, and the seconds that it took."""
    began = time.perf_counter()
    found = work(*inputs)
    return found, time.perf_counter() - began


def of_run(run, roles, prompts, process, subject: Subject, once: float, singly: float) -> Contender:
    """Iterations of `distill`, for any mode."""
    from sid_pack.sid_core.training.distill import Bucket, distill

    timing: list[Parts] = []

    def booked(name: str, function: Callable | None) -> Callable | None:
        def call(*inputs):
            return (timing[0].timed(name, function) if timing else function)(*inputs)

        return function and call

    predictors = replace(
        roles.predict,
        teacher=booked("teacher, forward", roles.predict.teacher),
        fake=booked("fake score, forward", roles.predict.fake),
        student=booked("student, forward", roles.predict.student),
        both=booked("both scores, forward", roles.predict.both),
    )
    iterations = distill(run, predictors, [Bucket(subject.latent_shape, prompts)], process, subject.model.load_device)

    def profile(parts: Parts) -> None:
        timing.append(parts)
        parts.watch(run.fake_optimizer, "fake score, backward")
        parts.watch(run.student_optimizer, BACKWARD)
        run.ema.update = parts.timed("average", run.ema.update)

    def iterate() -> None:
        with roles.ready():
            next(iterations)

    return Contender(iterate, profile, once, singly)


OURS = {
    "full": partial(ours, lora=False, recompute=False),
    LORA: partial(ours, lora=True, recompute=False),
    "lora recomputing": partial(ours, lora=True, recompute=True),
}
WAYS = {PLAIN: plain, BARE: bare} | OURS
NAMES = [f"{way}, {strategy}" for way in WAYS for strategy in STRATEGIES]


# What they train.


def load_subject(name: str, side: int, prompts: int) -> Subject:
    """The model and its text encoder, on the device that they are run on."""
    import comfy.model_management as host

    if name == "demo":
        from sid_pack.nodes.demo.node import SiDDemoModel

        model, clip, *_ = SiDDemoModel.execute("teacher").result
    else:
        full_size = name == "sd15"
        model = sd15(SD15_UNET if full_size else MIDDLE_UNET)
        clip = sd15_clip(CLIP_L if full_size else MIDDLE_CLIP)
    host.load_models_gpu([model, clip.patcher], force_full_load=True)
    names = (ROOT / "demo" / "assets" / "emoji_names.txt").read_text(encoding="utf-8").splitlines()
    texts = tuple(line for line in names if not line.startswith("#"))[:prompts]
    channels = model.get_model_object("latent_format").latent_channels
    encode = encoder_of_batches(name, clip)
    alone = clip.encode_from_tokens_scheduled(clip.tokenize(texts[0]))[0][0]
    torch.testing.assert_close(encode(texts[:2])[:1].cpu().float(), alone.float(), rtol=1e-2, atol=1e-2)
    return Subject(model, clip, encode, texts, (channels, side // 8, side // 8), RANKS[name])


def encoder_of_batches(name: str, clip) -> Callable[[Sequence[str]], torch.Tensor]:
    """The host encodes one prompt at a time; the public loop does not, and gets its way here."""

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        return [[token for token, _ in next(iter(clip.tokenize(text).values()))[0]] for text in texts]

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> torch.Tensor:
        encoder = clip.cond_stage_model
        clip.load_model()
        if name == "demo":
            return encoder(torch.tensor(tokens(texts), device=encoder.positions.device))
        return encoder.clip_l.encode(tokens(texts))[0]

    return encode


# Measuring, in a process for each.


def measure(name: str, arguments: argparse.Namespace) -> Measured:
    """Train a contender in this process."""
    start_comfyui()
    # The nodes ask for the server; in this order, as later on the host's own comfy/utils.py hides its package utils.
    for module in ("utils.extra_config", "server", "comfy.utils"):
        importlib.import_module(module)
    import comfy.utils

    from sid_pack.sid_core.method.guidance import Guidance

    comfy.utils.PROGRESS_BAR_ENABLED = False
    way, strategy = name.split(", ")
    guidance = Guidance.lsg(KAPPA) if strategy == "LSG" else Guidance.zero_cfg()
    subject = load_subject(arguments.model, arguments.side, arguments.prompts)
    loaded = peak_memory()
    contender = WAYS[way](subject, guidance, arguments.batch)
    seconds, cpu_seconds = [], []
    for _ in range(WARM_UP + arguments.iterations):
        synchronize()
        began, cpu_began = time.perf_counter(), time.process_time()
        contender.iterate()
        synchronize()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    peak = peak_memory()
    parts = Parts(synchronize)
    contender.profile(parts)
    shares = parts.per_iteration(contender.iterate, arguments.iterations)
    return Measured(seconds[WARM_UP:], cpu_seconds[WARM_UP:], peak, loaded, contender.once, contender.singly, shares)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Bytes, the most until now: of a GPU's memory where there is one, else of this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_a_process(name: str, arguments: argparse.Namespace) -> Measured:
    """Measured by this program, started again. Raises RuntimeError where it fails; its console says why."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        line = [sys.executable, __file__, "--measure", name, "--into", str(file), "--model", arguments.model]
        for option in ("side", "batch", "iterations", "prompts"):
            line += [f"--{option}", str(getattr(arguments, option))]
        if subprocess.run(line, check=False).returncode:
            raise RuntimeError(f"{name!r} could not be measured; what it printed says why")
        return Measured(**json.loads(file.read_text(encoding="utf-8")))


def measure_all(names: Sequence[str], arguments: argparse.Namespace) -> dict[str, list[Measured]]:
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    for repetition in range(arguments.rounds):
        for name in names if repetition % 2 == 0 else reversed(names):
            print(f"Round {repetition + 1} of {arguments.rounds}: {name}", file=sys.stderr, flush=True)
            measured[name].append(in_a_process(name, arguments))
    return measured


# The tables.


def typical(runs: list[Measured]) -> list[float]:
    """The median iteration of each process."""
    return [statistics.median(run.seconds) for run in runs]


def memory(runs: list[Measured]) -> tuple[float, float]:
    """Median bytes: at the peak, and those above the loaded model."""
    return statistics.median(r.peak for r in runs), statistics.median(r.peak - r.loaded for r in runs)


def comparison(measured: dict[str, list[Measured]]) -> str:
    heads = (
        "| | s an iteration | CPU s | speed to plain, LSG | speed to plain, same guidance "
        "| time to bare, same guidance | peak MB | MB above the loaded model | of plain, LSG |"
    )
    rows = [heads, "|:--|--:|--:|:-:|:-:|:-:|--:|--:|--:|"]
    for name, runs in measured.items():
        strategy = name.split(", ")[1]
        seconds = statistics.median(typical(runs))
        cpu = statistics.median(statistics.median(run.cpu_seconds) for run in runs)
        speeds = [time_to(measured, other, name) for other in (BASELINE, f"{PLAIN}, {strategy}")]
        peak, above = memory(runs)
        share = to_baseline(measured, name)[1]
        cells = [name, f"{seconds:.3f}", f"{cpu:.3f}", *speeds, time_to(measured, name, f"{BARE}, {strategy}")]
        cells = [str(cell) for cell in cells]
        rows.append(f"| {' | '.join(cells)} | {peak / 1e6:.0f} | {above / 1e6:.0f} | {share:.2f} |")
    return "\n".join(rows)


def time_to(measured: dict[str, list[Measured]], name: str, other: str) -> Ratio:
    """Of the one's iterations to the other's."""
    return ratio(typical(measured[name]), typical(measured[other]))


def profile_table(measured: dict[str, list[Measured]]) -> str:
    """The share of each part in an iteration, in percent; each process's parts weigh the same."""
    found = {part for runs in measured.values() for run in runs for part in run.parts}
    last = [part for part in (OPTIMIZERS, "average", REST) if part in found]
    parts = [*sorted(found - set(last)), *last]
    rows = [f"| | {' | '.join(measured)} |", "|:--|" + "--:|" * len(measured)]
    for part in parts:
        cells = []
        for runs in measured.values():
            shares = [run.parts.get(part, 0.0) / sum(run.parts.values()) for run in runs]
            cells.append(f"{100 * statistics.mean(shares):.1f}")
        rows.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(rows)


def encoding(measured: dict[str, list[Measured]], prompts: int) -> str:
    ours = [run for name, runs in measured.items() if is_ours(name) for run in runs]
    once, faster = (statistics.median(each) for each in ([r.once for r in ours], [r.singly / r.once for r in ours]))
    return (
        f"Ours encodes each of the {prompts} prompts once, before it begins: {once:.1f} s, not in the table, and "
        f"{faster:.2f} x as fast as one by one."
    )


def is_ours(name: str) -> bool:
    return name.split(", ")[0] in OURS


def setting(arguments: argparse.Namespace) -> str:
    """What was measured, and on what."""
    on_gpu = torch.cuda.is_available()
    threads = f"a CPU, {torch.get_num_threads()} threads"
    return (
        f"{MODELS[arguments.model]}, {arguments.side} px, one step, batch {arguments.batch}; LSG has κ = {KAPPA}. "
        f"Median (quartiles) of {arguments.rounds} processes, {arguments.iterations} iterations in each after "
        f"{WARM_UP} that do not count. ComfyUI {comfyui_version()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, on {torch.cuda.get_device_name() if on_gpu else threads}."
    )


def comfyui_version() -> str:
    start_comfyui()
    import comfyui_version as version

    return version.__version__


def to_baseline(measured: dict[str, list[Measured]], name: str) -> tuple[float, float]:
    """How many times as fast as the baseline, and in which share of its memory."""
    runs, baseline = measured[name], measured[BASELINE]
    return time_to(measured, BASELINE, name).middle, memory(runs)[1] / memory(baseline)[1]


def verdict(measured: dict[str, list[Measured]]) -> str:
    """What each of ours is to the baseline and to the bare iteration, and what is aimed at."""
    lines = []
    for name in filter(is_ours, measured):
        speed, share = to_baseline(measured, name)
        limit = time_to(measured, name, f"{BARE}, {name.split(', ')[1]}").middle
        lines.append(
            f"{name}: {speed:.2f} x the speed and {share:.2f} x the memory of {BASELINE}, and {limit:.2f} x the time "
            "of its bare forwards and backwards."
        )
    speeds = ", ".join(f"{speed} or more with {strategy}" for strategy, speed in SPEEDS.items())
    return "\n".join([*lines, f"Aimed at in {LORA}: {speeds}; {MEMORY} or less; {LIMIT} or less."])


def reached(measured: dict[str, list[Measured]]) -> bool:
    """Whether what is aimed at is reached; also where it was not measured."""
    for strategy, aim in SPEEDS.items():
        name = f"{LORA}, {strategy}"
        if name in measured:
            speed, share = to_baseline(measured, name)
            limit = time_to(measured, name, f"{BARE}, {strategy}").middle
            if speed < aim or share > MEMORY or limit > LIMIT:
                return False
    return True


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    default = "sd15" if torch.cuda.is_available() else "sd15-middle"
    parser.add_argument("--model", choices=list(MODELS), default=default, help="what to distil")
    parser.add_argument("--ours", choices=list(OURS), nargs="+", default=list(OURS), help="modes to compare")
    parser.add_argument("--side", type=int, default=0, help=f"pixels of a picture's side; 0: {SIDES}")
    parser.add_argument("--batch", type=int, default=0, help=f"pictures in an iteration; 0: {BATCHES}")
    parser.add_argument("--prompts", type=int, default=200, help="how many different prompts")
    parser.add_argument("--iterations", type=int, default=5, help="timed in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender, 2 or more")
    parser.add_argument("--write", action="store_true", help=f"save the tables in {RESULTS.relative_to(ROOT)}/")
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.side = arguments.side or SIDES[arguments.model]
    arguments.batch = arguments.batch or BATCHES[arguments.model]
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}; expected 2 or more, for the quartiles")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    if arguments.measure:
        measured = measure(arguments.measure, arguments)
        arguments.into.write_text(json.dumps(asdict(measured)), encoding="utf-8")
        return 0
    ways = (PLAIN, BARE, *arguments.ours)
    measured = measure_all([name for name in NAMES if name.split(", ")[0] in ways], arguments)
    report = "\n\n".join(
        [
            setting(arguments),
            comparison(measured),
            "Where the time of an iteration goes, in percent:",
            profile_table(measured),
            encoding(measured, arguments.prompts),
        ]
    )
    print(f"\n{report}\n\n{verdict(measured)}")
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"trainer_{arguments.model}_{arguments.side}px_{datetime.date.today():%Y-%m-%d}.md"
        title = f"# Speed and memory of distillation, {datetime.date.today():%Y-%m-%d}"
        file.write_text(f"{title}\n\n{report}\n\n{verdict(measured)}\n", encoding="utf-8")
        print(f"Saved to {file.relative_to(ROOT)}")
    return int(not reached(measured))


if __name__ == "__main__":
    sys.exit(main())
