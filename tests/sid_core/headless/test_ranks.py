"""What one of many processes is, and its share of the graph and of the machine."""

import pytest
from headless_runs import IMAGE, SAVE

from sid_pack.sid_core.headless import HeadlessError, host
from sid_pack.sid_core.headless.ranks import Rank, device_of, marked, share_of, this_rank

LAUNCHED = {
    "TORCHELASTIC_RUN_ID": "run",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
}
PROMPTS = {"class_type": "SiDPrompts", "inputs": {"text": "a"}}
DISTILL = {"class_type": "SiDDistill", "inputs": {"prompts": ["p", 0], "iterations": 5}}
DRAW = {"class_type": "SiDGenerate", "inputs": {"model": ["d", 0]}}
GRAPH = {"1": IMAGE, "2": SAVE, "p": PROMPTS, "d": DISTILL, "g": DRAW, "s": SAVE | {"inputs": {"images": ["g", 0]}}}


def rank(number: int, count: int = 16, local_number: int = 1, local_count: int = 8) -> Rank:
    return Rank(number, count, local_number, local_count, attempt=0, run="run", folder=None)


def test_a_rank_is_what_the_launcher_says():
    assert this_rank({}) is None
    assert this_rank({"RANK": "3", "WORLD_SIZE": "4"}) is None  # some clusters set these for anything they start
    assert this_rank(LAUNCHED) == Rank(9, 16, 1, 8, attempt=2, run="run", folder=None)


def test_the_first_rank_runs_the_graph_and_the_others_what_they_train_and_that_needs():
    assert share_of(GRAPH, None) == share_of(GRAPH, rank(0, count=1)) == GRAPH
    # Without an output that needs it, ComfyUI would not run it, here or there.
    end = {"d run folder": {"class_type": "PreviewAny", "inputs": {"source": ["d", 1]}}}
    assert share_of(GRAPH, rank(0)) == GRAPH | end
    assert share_of(GRAPH, rank(9)) == {"p": PROMPTS, "d": DISTILL} | end


def test_students_of_students_are_trained_by_all():
    second = {"class_type": "SiDDistill", "inputs": {"student": ["d", 0]}}
    share = share_of(GRAPH | {"e": second}, rank(1))
    assert set(share) == {"p", "d", "e", "d run folder", "e run folder"}


def test_students_that_could_be_trained_in_any_order_are_refused():
    with pytest.raises(
        HeadlessError, match=r"^Run node d \(SiDDistill\) and node e \(SiDDistill\) one after the other"
    ):
        share_of(GRAPH | {"e": DISTILL}, rank(0))


def test_a_graph_without_anything_to_share_is_refused():
    with pytest.raises(HeadlessError, match="^Run this graph in one process: it has no SiD Distill"):
        share_of({"1": IMAGE, "2": SAVE}, rank(0))
    assert share_of({"1": IMAGE, "2": SAVE}, rank(0, count=1)) == {"1": IMAGE, "2": SAVE}


def test_each_local_rank_sees_its_own_gpu_alone():
    assert device_of(rank(9), gpus=8, environment={}) == {"CUDA_VISIBLE_DEVICES": "1"}
    given = {"CUDA_VISIBLE_DEVICES": "6, GPU-8932f937"}
    assert device_of(rank(9), gpus=2, environment=given) == {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}
    assert device_of(rank(9), gpus=2, environment={"HIP_VISIBLE_DEVICES": "3,5"}) == {"HIP_VISIBLE_DEVICES": "5"}


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(HeadlessError, match=r"^Start no more than 1 processes .* how many GPUs there are for 8"):
        device_of(rank(9), gpus=1, environment={})


def test_what_other_ranks_say_is_marked_on_each_line():
    assert marked(0, "one\ntwo") == "one\ntwo"
    assert marked(12, "one\ntwo") == "[rank 12] one\n[rank 12] two"


def test_ranks_that_look_for_a_port_at_the_same_time_never_find_the_same():
    for local_number in range(3):
        assert host._free_port(rank(0, local_number=local_number, local_count=3)) % 3 == local_number
