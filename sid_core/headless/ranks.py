"""One of the processes that torch's launcher has started for the same graph: which one it is, and its share.

The launcher is torch.distributed.run, or torchrun, and what it says is in the environment.
"""

import hashlib
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import HeadlessError
from .graph import Graph, is_link, title

# Where a process leaves word for `run --processes`, which sets it; without it, the launcher was started by the user.
FOLDER = "SID_RANKS_FOLDER"
SHARED = "SiDDistill"  # the class of the nodes that all ranks run together
RUN_FOLDER = 1  # its output
CHOSEN = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Rank:
    """Its number among all, on all machines, and among those on this one; how often they were started again before."""

    number: int
    count: int
    local_number: int
    local_count: int
    attempt: int
    run: str
    folder: Path | None

    @property
    def is_first(self) -> bool:
        """It speaks for all, and writes."""
        return self.number == 0

    def scratch_prefix(self) -> str:
        """The same for each attempt of one place on this machine, so that one can wait for the one before to end."""
        place = f"{self.run}/{os.getppid()}/{self.local_number}"
        return f"sid-{hashlib.sha256(place.encode()).hexdigest()[:12]}-"


def marked(number: int, text: str) -> str:
    """The text with each line marked as that rank's; the first one speaks for all."""
    return "\n".join(f"[rank {number}] {line}" for line in text.split("\n")) if number else text


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Which one this process is; None where torch's launcher did not start it."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    folder = environment.get(FOLDER)
    return Rank(
        number=int(environment["RANK"]),
        count=int(environment["WORLD_SIZE"]),
        local_number=int(environment["LOCAL_RANK"]),
        local_count=int(environment["LOCAL_WORLD_SIZE"]),
        attempt=int(environment["TORCHELASTIC_RESTART_COUNT"]),
        run=environment["TORCHELASTIC_RUN_ID"],
        folder=Path(folder) if folder else None,
    )


def share_of(graph: Graph, rank: Rank | None) -> Graph:
    """What this process runs of the graph: the first one all, the others what they train together and it needs."""
    if rank is None or rank.count == 1:
        return graph
    shared = shared_in(graph)
    share = {node_id: graph[node_id] for node_id in (graph if rank.is_first else _with_needed(graph, shared))}
    for node_id in shared:
        # ComfyUI runs what an output node needs, and nothing else: without this one, which writes no file, a node may
        # be run by some ranks alone, which would wait for the others.
        share[f"{node_id} run folder"] = {"class_type": "PreviewAny", "inputs": {"source": [node_id, RUN_FOLDER]}}
    return share


def shared_in(graph: Graph) -> list[str]:
    """The nodes that all ranks run together, in the order in which they do.

    Refused where there is none, as each process would do, and write, the same; and where the order is ComfyUI's to
    choose, for it may choose another in each process.
    """
    shared = [node_id for node_id, node in graph.items() if node["class_type"] == SHARED]
    if not shared:
        raise HeadlessError(
            "Run this graph in one process: it has no SiD Distill, which is what many processes share the work of."
        )
    needed = {node_id: _with_needed(graph, [node_id]) for node_id in shared}
    shared.sort(key=lambda node_id: len(needed[node_id]))
    for before, after in itertools.pairwise(shared):
        if before not in needed[after]:
            raise HeadlessError(
                f"Run {title(graph, before)} and {title(graph, after)} one after the other, each in a graph of its own:"
                f" none needs the other, and many processes would not begin with the same one."
            )
    return shared


def _with_needed(graph: Graph, wanted: list[str]) -> set[str]:
    """These nodes and all that they need."""
    needed: set[str] = set()
    waiting = list(wanted)
    while waiting:
        node_id = waiting.pop()
        if node_id in needed or node_id not in graph:  # a link to nowhere is ComfyUI's to refuse
            continue
        needed.add(node_id)
        waiting += [value[0] for value in graph[node_id]["inputs"].values() if is_link(value)]
    return needed


def device_of(rank: Rank, gpus: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that show a process its own GPU alone, of the `gpus` that it sees now.

    Variables, as ComfyUI's --cuda-device takes a number and a list given in them may hold names.
    """
    if rank.local_number >= gpus:
        raise HeadlessError(
            f"Start no more than {gpus} processes on this machine, by --processes or torchrun's --nproc-per-node: "
            f"that is how many GPUs there are for {rank.local_count} processes, which need one each."
        )
    lists = {name: environment[name].split(",") for name in CHOSEN if environment.get(name)}
    if not lists:
        return {CHOSEN[0]: str(rank.local_number)}
    return {name: given[rank.local_number].strip() for name, given in lists.items() if rank.local_number < len(given)}
