"""What distilling on many GPUs may gain: a calculation from sizes and nominal speeds. Nothing here was measured.

    python benchmarks/scaling.py [--seconds 1] [--nvlink 450] [--network 400] [--gpus-per-machine 8]

An iteration takes the seconds that it takes on one GPU, at the same pictures per GPU, and besides the time in which
gradients and weights are sent. These go round in a ring: summing B bytes over N GPUs sends 2 (N-1)/N · B from each, and
putting them together or apart (N-1)/N · B. The slowest link sets the pace: NVLink within a machine, the network between
machines. Counted against many GPUs: nothing is sent while something is computed, though torch does both at once. Left
out: the time until a first byte arrives, which grows with N and counts where there is little to send.
"""

import argparse
from dataclasses import dataclass

STUDENT_RANK, FAKE_RANK = 64, 32  # SiD Distill's defaults
STEPS = 4
GRADIENT_BYTES, WEIGHT_BYTES = 4, 2  # averaged in float32; put together in the 16 bits that are computed in
# How often a network's weights are put together in an iteration, each forward and each backward being one. The student:
# the steps before the one that is trained, of which each is as likely, that one, and its backward. The fake score: both
# in its own update and in the student's. The teacher: both in the student's.
GATHERS = (STEPS + 1) / 2 + 1 + 4 + 2
COUNTS = (8, 16, 64, 512)
MODES = ("LoRA", "full")


@dataclass(frozen=True)
class Network:
    """parameters: of the whole network; lora: of a LoRA of rank 1 on the layers that have one by default."""

    name: str
    parameters: int
    lora: int


# Counted on ComfyUI's own classes without weights: tests/benchmarks/test_scaling.py does it again.
NETWORKS = (
    Network("SD1.5", 859_520_964, 423_936),
    Network("SDXL", 2_567_463_684, 2_659_840),
    Network("FLUX.1 dev", 11_901_408_320, 3_502_080),
)


@dataclass(frozen=True)
class Links:
    """Nominal bytes a second: of one GPU within a machine, and of one machine."""

    within: float
    between: float
    gpus_per_machine: int = 8

    def bytes_per_second(self, gpus: int) -> float:
        return self.within if gpus <= self.gpus_per_machine else self.between


def sent(network: Network, mode: str, gpus: int) -> float:
    """Bytes that each GPU sends in an iteration."""
    part = (gpus - 1) / gpus
    if mode == "LoRA":  # DDP: the gradients of both sets are summed
        return 2 * part * GRADIENT_BYTES * network.lora * (STUDENT_RANK + FAKE_RANK)
    # FSDP2: those of student and fake score go apart, and all three networks' weights are put together as needed.
    return part * network.parameters * (2 * GRADIENT_BYTES + GATHERS * WEIGHT_BYTES)


def speed_up(network: Network, mode: str, gpus: int, links: Links, seconds: float) -> float:
    """How many times as many pictures a second as one GPU trains on. seconds: an iteration's on one GPU."""
    sending = sent(network, mode, gpus) / links.bytes_per_second(gpus) if gpus > 1 else 0.0
    return gpus * seconds / (seconds + sending)


def table(links: Links, seconds: float) -> list[str]:
    """Lines of Markdown."""
    heads = ["", "GB sent", *(f"{count} GPUs" for count in COUNTS)]
    lines = [f"| {' | '.join(heads)} |".replace("|  |", "| |"), "|:--|" + "--:|" * (len(heads) - 1)]
    for network in NETWORKS:
        for mode in MODES:
            gains = [f"{speed_up(network, mode, count, links, seconds):.3g}" for count in COUNTS]
            gigabytes = f"{sent(network, mode, COUNTS[-1]) / 1e9:.3g}"
            lines.append(f"| {' | '.join([f'{network.name}, {mode}', gigabytes, *gains])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Calculate what many GPUs may gain.")
    parser.add_argument("--seconds", type=float, default=1.0, help="of an iteration on one GPU (default: 1)")
    parser.add_argument("--nvlink", type=float, default=450.0, help="GB/s that a GPU sends within a machine")
    parser.add_argument("--network", type=float, default=400.0, help="Gb/s that a machine sends (10: 10 GbE)")
    parser.add_argument("--gpus-per-machine", type=int, default=8)
    options = parser.parse_args()
    links = Links(options.nvlink * 1e9, options.network * 1e9 / 8, options.gpus_per_machine)
    print(
        f"Calculated, not measured: times the pictures of one GPU with an iteration of {options.seconds:g} s; "
        f"{options.gpus_per_machine} GPUs a machine, {options.nvlink:g} GB/s in it, {options.network:g} Gb/s between.\n"
    )
    print("\n".join(table(links, options.seconds)))


if __name__ == "__main__":
    main()
