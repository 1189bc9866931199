"""What a real server answers to the panel, and to whoever sends it something else."""

import gzip
import http.client
import io
import json
import os
import random
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from headless_runs import wait_until
from PIL import Image

RUNS = "/sid/runs"
NAME = "a run_1-Ü"
SCRIPT = '<img src=x onerror="alert(1)">\u202e'


@pytest.fixture(scope="module")
def server(comfyui_server):
    """Its folder of runs has one run in it, whose words are hostile; beside it lies what nobody is to read."""
    runs = comfyui_server.output_directory / "sid_runs"
    make_run(runs / NAME, iterations=40)
    (comfyui_server.output_directory / "secret").mkdir()
    make_run(comfyui_server.output_directory / "secret" / "run", iterations=3)
    return comfyui_server


def make_run(folder: Path, iterations: int) -> None:
    (folder / "previews").mkdir(parents=True)
    draw = random.Random(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for i in range(1, iterations + 1):
            row = {"iteration": i, "images": 4 * i, "step": 1 + i % 4, "skipped": 0, "images_per_second": 12.345}
            row |= {name: draw.gauss(0.1, 0.05) for name in ("student_loss", "fake_loss", "spread", "magnitude")}
            file.write(json.dumps(row) + "\n")
            if i % 100 == 0:
                file.write(json.dumps({"iteration": i, "seed_spread": draw.random()}) + "\n")
        file.write(json.dumps({"iteration": iterations, "warning": SCRIPT, "message": SCRIPT}) + "\n")
    described = {"iteration": iterations, "images": 1, "schedule": {"iterations": iterations}, "started": SCRIPT}
    (folder / "run.json").write_text(json.dumps(described))
    Image.new("RGB", (3000, 2000), "navy").save(folder / "previews" / "preview_0000020.png")
    Image.new("RGB", (768, 200), "red").save(folder / "previews" / "teacher.png")


class Answer:
    def __init__(self, response: http.client.HTTPResponse):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server, target: str | bytes, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """The very bytes, which no client's library has made better."""
    host, port = urllib.parse.urlsplit(server.url).netloc.split(":")
    target = target.encode() if isinstance(target, str) else target
    lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"Host: %s:%s" % (host.encode(), port.encode())]
    lines += [f"{name.replace('_', '-')}: {value}".encode() for name, value in headers.items()]
    lines += [b"Content-Length: %d" % len(body)] if body is not None else []
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    connection.connect()
    connection.sock.sendall(b"\r\n".join([*lines, b"Connection: close", b"", body or b""]))
    response = http.client.HTTPResponse(connection.sock, method=method)
    response.begin()
    return Answer(response)


def query(**parameters: str) -> str:
    return f"{RUNS}?{urllib.parse.urlencode(parameters)}"


def log_of(server) -> str:
    from sid_pack.sid_core.headless import keeper

    return (server.scratch / keeper.LOG).read_text(encoding="utf-8", errors="replace")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_a_run_is_shown_as_json_that_no_browser_takes_for_a_page(server, prefix):
    answer = ask(server, prefix + query(run=NAME))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-cache"
    told = answer.json
    assert told["run"] == NAME and told["folder"] == f"sid_runs/{NAME}"
    assert not told["running"] and told["here"] is None and told["saved"] == told["iterations"] == 40
    assert told["previews"] == [20] and told["teacher"] and told["warnings"] == [[40, SCRIPT]]
    rows = [json.loads(line) for line in (server.output_directory / "sid_runs" / NAME / "metrics.jsonl").open()]
    losses = [row["student_loss"] for row in rows if "student_loss" in row]
    assert [point[1] for point in told["curves"]["student_loss"]] == pytest.approx(losses, rel=1e-3)
    assert told["titles"]["student_loss"].startswith("student's loss")
    assert str(server.base_directory) not in answer.body.decode()


def test_only_what_is_new_comes_after_a_cursor(server):
    folder = server.output_directory / "sid_runs" / "growing"
    make_run(folder, iterations=1000)
    first = ask(server, query(run="growing"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 1001, "student_loss": 0.5}) + "\n")
    new = ask(server, query(run="growing", cursor=first.json["cursor"]))
    assert not new.json["whole"] and "titles" not in new.json and new.json["warnings"] == []
    assert [point[0] for point in new.json["curves"]["student_loss"]] == [1000]
    assert len(new.body) < 1000 < 20_000 < len(first.body)


def test_the_runs_there_are_are_listed_the_latest_first(server):
    runs = server.output_directory / "sid_runs"
    make_run(runs / "older", iterations=2)
    os.utime(runs / "older" / "run.json", (1, 1))
    (runs / "no run").mkdir()
    (runs / "linked").symlink_to(server.output_directory / "secret" / "run")
    (runs / "<b>").mkdir()
    (runs / "<b>" / "run.json").write_text("{}")
    names = [each["run"] for each in ask(server, RUNS).json["runs"]]
    assert NAME in names and names[-1] == "older"
    assert not {"no run", "linked", "<b>"} & set(names)


def test_previews_come_small_as_pictures_and_once(server):
    answer = ask(server, query(run=NAME, preview="20"))
    assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    picture = Image.open(io.BytesIO(answer.body))
    assert picture.format == "JPEG" and picture.width == 1024
    red, green, blue = picture.getpixel((500, 300))
    assert red < 10 and green < 10 and abs(blue - 128) < 10
    again = ask(server, query(run=NAME, preview="20"), If_None_Match=answer.headers["ETag"])
    assert again.status == 304 and not again.body
    assert Image.open(io.BytesIO(ask(server, query(run=NAME, preview="teacher")).body)).size == (768, 200)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_route_is_read_only(server, method):
    before = tree(server.output_directory)
    assert ask(server, query(run=NAME), method, b"").status == 405
    assert ask(server, query(run=NAME), "HEAD").status == 200
    assert ask(server, query(run=NAME)).status == 200
    assert tree(server.output_directory) == before


OUTSIDE = [
    "../secret/run",
    "..%2fsecret%2frun",
    "..%252fsecret%252frun",
    "..%5csecret%5crun",
    "%2e%2e/secret/run",
    "..",
    ".",
    "",
    "%20",
    "a%20run_1-%C3%9C%20",
    "/etc",
    "%2Fetc%2Fpasswd",
    "C:%5CWindows",
    "a%20run_1-%C3%9C%00",
    "%00",
    "a%20run_1-%C3%9C%0a",
    "%ff%fe",
    "%ed%a0%80",
    "%F0%9F%98%80",
    "con",
    "NUL.txt",
    "previews/..",
    "x" * 101,
    "x" * 7000,
    "%3Cscript%3Ealert(1)%3C/script%3E",
]


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: name[:30] or "nothing")
@pytest.mark.parametrize("more", ["", "&preview=20", "&cursor=00000000.1.0"], ids=["curves", "preview", "cursor"])
def test_a_name_that_no_run_has_is_refused(server, name, more):
    answer = ask(server, f"{RUNS}?run={name}{more}")
    assert answer.status == 400 and answer.body == b""


@pytest.mark.parametrize(
    "target",
    [
        b"/sid/runs?run=a&run=b",
        b"/sid/runs?file=/etc/passwd",
        b"/sid/runs?run=a&path=x",
        b"/sid/runs?run=a&preview=../../run.json",
        b"/sid/runs?run=a&preview=20.png",
        b"/sid/runs?run=a&preview=-1",
        b"/sid/runs?run=a&preview=%D9%A2",
        b"/sid/runs?run=a&preview=99999999999999999999",
        b"/sid/runs?run=a&preview=",
        b"/sid/runs?run=a&cursor=" + b"0" * 5000,
    ],
    ids=lambda target: target[:40].decode("latin-1"),
)
def test_what_the_panel_does_not_ask_is_refused(server, target):
    answer = ask(server, target)
    assert answer.status == 400 and answer.body == b""


@pytest.mark.parametrize(
    "target",
    [
        "/sid/runs/../../secret/run/run.json",
        "/sid/runs/%2e%2e/secret/run/run.json",
        "/sid/runs/a%20run_1-%C3%9C/run.json",
        "/sid/runs//etc/passwd",
        "/extensions/panel/../../nodes/panel/routes.py",
    ],
)
def test_there_is_nothing_below_the_route(server, target):
    answer = ask(server, target)
    assert answer.status in (403, 404) and b"iteration" not in answer.body and b"import" not in answer.body


@pytest.mark.parametrize("name", [b"x" * 100_000, b"\xff\xfe", b"a\0b"], ids=["huge", "not encoded", "NUL"])
def test_what_is_no_request_at_all_ends_at_the_server(server, name):
    answer = ask(server, f"{RUNS}?run=".encode() + name)
    assert answer.status == 400 and answer.headers["Content-Type"].startswith("text/plain")
    assert ask(server, RUNS).status == 200


def test_a_refusal_is_told_in_the_log_once(server):
    target = f"{RUNS}?run=told%20once%2f%0a%1b[31m"
    for _ in range(5):
        assert ask(server, target).status == 400
    told = [line for line in log_of(server).splitlines() if "told once" in line]
    assert len(told) == 1
    _, said, why = told[0].partition("SiD: ")  # newer hosts colour what is before
    assert said and why.startswith("refused GET /sid/runs: no run is called 'told once/") and "\x1b" not in why


def test_links_out_are_not_followed(server, tmp_path):
    runs = server.output_directory / "sid_runs"
    make_run(tmp_path / "outside", iterations=3)
    (runs / "link").symlink_to(tmp_path / "outside")
    assert ask(server, query(run="link")).json is None
    assert ask(server, query(run="link", preview="20")).status == 404

    make_run(runs / "with links", iterations=3)
    folder = runs / "with links"
    for name in ("metrics.jsonl", "previews/preview_0000020.png"):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "outside" / name)
    told = ask(server, query(run="with links")).json
    assert told["curves"] == {} and told["trained"] == 0
    assert ask(server, query(run="with links", preview="20")).status == 404


@pytest.mark.parametrize(
    "content",
    [
        b"<html><script>alert(1)</script>",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        gzip.compress(b"0" * 1000),
    ],
    ids=["html", "torn", "gif", "gzip"],
)
def test_a_file_that_is_no_picture_is_not_served(server, content):
    make_run(server.output_directory / "sid_runs" / "odd pictures", 1) if not (
        server.output_directory / "sid_runs" / "odd pictures"
    ).exists() else None
    (server.output_directory / "sid_runs" / "odd pictures" / "previews" / "preview_0000020.png").write_bytes(content)
    answer = ask(server, query(run="odd pictures", preview="20"))
    assert answer.status == 404 and answer.body == b""


def test_a_run_of_100_000_iterations_is_sent_in_less_than_two_megabytes(server):
    """Opened once, and then looked at while it trains on for as long again."""
    folder = server.output_directory / "sid_runs" / "long"
    make_run(folder, iterations=1000)
    for i in range(100, 100_001, 100):
        (folder / "previews" / f"preview_{i:07}.png").touch()
    rows = (folder / "metrics.jsonl").read_text().splitlines()[:999]
    with (folder / "metrics.jsonl").open("a") as file:
        for i in range(1001, 100_001):
            file.write(json.dumps(json.loads(rows[i % 999]) | {"iteration": i}) + "\n")
    sent, answer = 0, None
    while answer is None or answer["more"]:
        got = ask(server, query(run="long", **({"cursor": answer["cursor"]} if answer else {})))
        assert got.status == 200 and len(got.body) < 200_000
        sent, answer = sent + len(got.body), got.json
    assert answer["trained"] == 100_000 and answer["width"] == 256
    for preview in ("teacher", "100000"):
        if preview == "100000":
            os.replace(folder / "previews" / "preview_0000020.png", folder / "previews" / "preview_0100000.png")
        sent += len(ask(server, query(run="long", preview=preview)).body)
    with (folder / "metrics.jsonl").open("a") as file:
        for i in range(100_001, 102_001):
            file.write(json.dumps(json.loads(rows[i % 999]) | {"iteration": i}) + "\n")
            if i % answer["width"] == 0:
                file.flush()
                got = ask(server, query(run="long", cursor=answer["cursor"]))
                assert len(got.body) < 2000
                sent, answer = sent + len(got.body), got.json
    assert sent < 2_000_000


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"run": "a"}', {"Content_Type": "text/plain"}),
        (b"run=a", {"Content_Type": "application/x-www-form-urlencoded"}),
        (b"", {"Content_Type": "application/json"}),
        (b"{", {"Content_Type": "application/json"}),
        (b"[" * 900, {"Content_Type": "application/json"}),
        (b'{"run": ["a"]}', {"Content_Type": "application/json"}),
        (b'{"run": "../a"}', {"Content_Type": "application/json"}),
        (b'{"run": "\\ud800"}', {"Content_Type": "application/json"}),
        (b'{"run": "\xff"}', {"Content_Type": "application/json"}),
        (b'{"run": "' + b"a" * 5000 + b'"}', {"Content_Type": "application/json"}),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_nothing_but_the_panels_own_post_stops_a_run(server, body, headers):
    assert ask(server, "/sid/stop", "POST", body, **headers).status == 400


def test_stopping_is_no_get_and_no_page_of_another_site_can_do_it(server):
    assert ask(server, f"/sid/stop?{urllib.parse.urlencode({'run': NAME})}").status in (404, 405)
    body, json_type = json.dumps({"run": NAME}).encode(), "application/json"
    assert ask(server, "/sid/stop", "POST", body, Content_Type=json_type).status == 404  # it does not train
    assert ask(server, "/sid/stop", "POST", body, Content_Type=json_type, Origin="http://evil.test").status == 403


def test_the_server_is_well_after_all_that(server):
    wait_until(lambda: ask(server, "/queue").status == 200)
    assert "routes.py" not in log_of(server)  # in no traceback
