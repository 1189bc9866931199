"""What a student's file says of itself."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from sid_pack.sid_core.files.student import StudentInfo, apart, base_signature
from sid_pack.sid_core.files.tensors import NotACheckpointError, read_tensors, write_tensors

INFO = StudentInfo(
    steps=4,
    t_init=625,
    base="SDXL-1680-1a2b3c4d",
    run="cats, 1a2b",
    guidance="lsg 2",
    noise_mode="ddim",
    base_weights=(0.5, -0.01234, 3e-05),
)


def test_a_student_says_the_same_after_a_file(tmp_path):
    write_tensors(tmp_path / "s.safetensors", {"w": torch.ones(1)}, INFO.to_metadata())
    _, metadata = read_tensors(tmp_path / "s.safetensors")
    assert StudentInfo.from_metadata(metadata) == INFO
    assert set(metadata) == {f"sid.{name}" for name in asdict(INFO)}


def test_a_file_from_before_the_base_s_weights_were_written_down_is_read_and_says_none():
    older = {name: value for name, value in INFO.to_metadata().items() if name != "sid.base_weights"}
    info = StudentInfo.from_metadata(older)
    assert info == replace(INFO, base_weights=None)
    assert info.to_metadata() == older


def test_weights_are_as_far_apart_as_their_difference_is_of_the_others():
    assert apart((3.0, 4.0), (3.0, 4.0)) == 0
    assert apart((3.3, 4.4), (3.0, 4.0)) == pytest.approx(0.1)
    assert apart((0.0, 5.0), (3.0, 4.0)) == pytest.approx(10**0.5 / 5)
    assert apart((1.0,), (1.0, 2.0)) == apart((1.0,), (0.0,)) == math.inf


def test_metadata_of_others_is_left_alone():
    assert StudentInfo.from_metadata(INFO.to_metadata() | {"format": "pt", "sid.note": "?"}) == INFO


def test_by_default_a_student_takes_fresh_noise():
    info = StudentInfo(steps=1, t_init=1.0, base="b", run="r", guidance="g")
    assert (info.noise_mode, info.method) == ("fresh", "sid")


def test_a_file_that_is_no_student_says_what_lacks_and_where_it_goes():
    with pytest.raises(NotACheckpointError, match="lacks .*sid.steps.*ComfyUI's own loaders"):
        StudentInfo.from_metadata({"format": "pt"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", json.dumps(0)),
        ("steps", json.dumps(2.5)),
        ("steps", json.dumps("four")),
        ("steps", "four"),
        ("t_init", json.dumps(0)),
        ("t_init", json.dumps("625")),
        ("t_init", json.dumps(None)),
        ("noise_mode", json.dumps("white")),
        ("noise_mode", json.dumps(["fresh"])),
        ("base", "not JSON"),
        ("base_weights", json.dumps([])),
        ("base_weights", json.dumps(0.5)),
        ("base_weights", json.dumps([0.5, "1"])),
        ("base_weights", json.dumps([True])),
        ("base_weights", "[NaN]"),
        ("base_weights", "[Infinity]"),
        ("base_weights", f"[1{'0' * 400}]"),
        ("base_weights", json.dumps([0] * 257)),
    ],
)
def test_values_no_sampler_can_run_are_refused(name, value):
    with pytest.raises(NotACheckpointError, match=f"its sid.{name} is .*, and has to be"):
        StudentInfo.from_metadata(INFO.to_metadata() | {f"sid.{name}": value})


def test_a_signature_tells_architectures_apart_and_not_weights():
    shapes = {"a.weight": (4, 3), "b.bias": (4,)}

    def signature(kind: str = "SD15", change: dict | None = None, fill: float = 0) -> str:
        return base_signature(
            kind, {name: torch.full(shape, fill) for name, shape in (shapes | (change or {})).items()}
        )

    assert signature() == signature(fill=7)
    assert signature() == base_signature("SD15", {n: torch.zeros(s).half() for n, s in reversed(shapes.items())})
    others = {
        signature("SDXL"),
        signature(change={"a.weight": (3, 4)}),
        signature(change={"c": (1,)}),
        signature(change={"b.bias": (4, 1)}),
    }
    assert len(others | {signature()}) == 5
    assert signature().startswith("SD15-2-")
