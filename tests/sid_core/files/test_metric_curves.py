"""Curves of a metrics.jsonl: no more points than can be seen, and each what the rows themselves say."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from sid_pack.sid_core.files import metric_curves
from sid_pack.sid_core.files.metric_curves import MetricCurves, thinned
from sid_pack.sid_core.files.metrics_log import MetricsLog

NAMES = ("loss", "spread")


def write(path: Path, first: int, last: int, seed: int = 0) -> None:
    draw = random.Random(seed + first)
    with path.open("a") as file:
        for i in range(first, last + 1):
            row = {"iteration": i, "loss": draw.gauss(0, 1)} | ({"spread": draw.random()} if i % 7 == 0 else {})
            file.write(json.dumps(row) + "\n")


def read(path: Path, curves: MetricCurves | None = None) -> MetricCurves:
    curves = curves or MetricCurves(path, NAMES)
    while curves.read_on():
        pass
    return curves


def expected(path: Path, name: str, width: int) -> list[list[float]]:
    """By another way: all values of a row's point, looked at one by one."""
    groups: dict[int, list[float]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        if name in row:
            groups.setdefault(row["iteration"] // width * width, []).append(row[name])
    return [[first, np.mean(values), min(values), max(values)] for first, values in groups.items()]


@pytest.mark.parametrize(("iterations", "width"), [(1, 1), (511, 1), (512, 2), (1023, 2), (1024, 4), (20_000, 64)])
def test_points_are_the_mean_and_the_range_of_their_iterations(tmp_path, iterations, width):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, iterations)
    curves = read(path)
    assert curves.iteration == iterations and curves.width == width
    for name, points in curves.points().items():
        assert len(points) <= 512
        np.testing.assert_allclose(points, expected(path, name, width), rtol=1e-3)


def test_what_is_read_on_is_what_is_read_at_once(tmp_path):
    """In pieces of any size, also where the width doubles between, and a line is half written."""
    path = tmp_path / "metrics.jsonl"
    path.touch()
    curves, done = read(path), 0
    for more in (1, 300, 299, 1, 1500):
        write(path, done + 1, done + more)
        done += more
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"iteration": 1, "lo')  # torn
        read(path, curves)
        path.write_bytes(whole)
        assert read(path, curves).points() == read(path).points()
        assert curves.iteration == done


def test_only_what_is_new_since_an_iteration(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 600)
    curves = read(path)
    assert curves.width == 2
    new = curves.points(since=595)["loss"]
    assert [point[0] for point in new] == [594, 596, 598, 600]  # from the point that has it: it may have got more
    assert new == curves.points()["loss"][-4:]
    assert not curves.is_wider_than_at(600) and curves.is_wider_than_at(511)


def test_a_log_that_was_rewound_is_read_anew(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for i in range(1, 10):
        log.append({"iteration": i, "loss": 1.0})
    curves = read(log.path)
    generation = curves.generation
    log.rewind(4)
    for i in range(5, 30):
        log.append({"iteration": i, "loss": 3.0})
    read(log.path, curves)
    assert curves.generation != generation and curves.iteration == 29
    assert [point[1] for point in curves.points()["loss"]] == [1.0] * 4 + [3.0] * 25


ODD = [
    b"",
    b"null",
    b"[1]",
    b"{",
    b"\0\0\0",
    b"\xff\xfe",
    b"[" * 2000,
    b'{"iteration": true, "loss": 1}',
    b'{"iteration": -1, "loss": 1}',
    b'{"iteration": 1e999, "loss": 1}',
    b'{"iteration": "2", "loss": 1}',
    b'{"iteration": 3, "loss": "1"}',
    b'{"iteration": 3, "loss": true}',
    b'{"iteration": 3, "loss": NaN}',
    b'{"iteration": 3, "loss": Infinity}',
    b'{"iteration": 3, "loss": 1e300}',
    b'{"iteration": 3, "loss": ' + b"9" * 5000 + b"}",
    b'{"iteration": 3, "loss": [[[]]]}',
    b'{"iteration": 3, "message": {"a": 1}}',
    b'{"iteration": 3}, {"iteration": 4, "spread": null}',
]


@pytest.mark.parametrize("odd", ODD, ids=lambda line: line[:40].decode("latin-1").replace("\0", "0"))
def test_whatever_is_no_row_is_passed_over(tmp_path, odd):
    path = tmp_path / "metrics.jsonl"
    rows = [b'{"iteration": %d, "loss": 0.5}' % i for i in (1, 2)]
    path.write_bytes(b"\n".join([rows[0], odd, rows[1], b""]))
    assert read(path).points() == {"loss": [[1, 0.5, 0.5, 0.5], [2, 0.5, 0.5, 0.5]]}


def test_a_line_without_end_costs_no_more_than_a_block_at_a_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * (3 * metric_curves.BLOCK) + b'\n{"iteration": 1, "loss": 2}\n')
    assert read(path).points() == {"loss": [[1, 2.0, 2.0, 2.0]]}


def test_a_run_of_absurd_length_has_no_more_points(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 100)
    with path.open("a") as file:
        file.write(json.dumps({"iteration": 2**62, "loss": 7}) + "\n")
    points = read(path).points()["loss"]
    assert [point[0] for point in points][0] == 0 and len(points) == 2 and points[-1][1] == 7.0


def test_warnings_are_few_and_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"iteration": i, "message": "m" * 3000}) + "\n" for i in range(1, 90)))
    warnings = read(path).warnings
    assert [iteration for iteration, _ in warnings] == list(range(1, 51))
    assert {message for _, message in warnings} == {"m" * 1000}


def test_no_link_and_no_pipe_is_read(tmp_path):
    import os

    write(tmp_path / "real.jsonl", 1, 3)
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "real.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert read(tmp_path / "real.jsonl").points()
    assert not read(tmp_path / "linked.jsonl").points() and not read(tmp_path / "pipe.jsonl").points()


def test_thinned_keeps_both_ends_and_the_order():
    values = list(range(0, 100_000, 7))
    few = thinned(values)
    assert len(few) == 512 and few[0] == values[0] and few[-1] == values[-1]
    assert few == sorted(set(few)) and max(np.diff(few)) <= 7 * (len(values) // 511 + 1)
    assert thinned([1, 2, 3]) == [1, 2, 3]
