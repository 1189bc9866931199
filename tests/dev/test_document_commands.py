"""The README and the pages beside it: commands are understood, and numbers that the code has are the code's."""

import ast
import math
import re
import shlex

import pytest
from documents import PAGES, ROOT, codes, commands, schemas, text_of

from sid_pack.sid_core.headless.command import EXIT_CODES, parse
from sid_pack.sid_core.headless.graph import read_graph
from sid_pack.sid_core.headless.settings import find_setting
from sid_pack.sid_core.method.cleanstyle import suppression
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP
from sid_pack.sid_core.method.sampling import step_times

# They make an environment first: what they pass their arguments on to says what these may be. None is pytest.
PASSED_ON = {"dev/demo.py": "demo/run.py", "dev/test.py": None}
PORTABLE = r"python_embeded\python.exe -s ComfyUI\custom_nodes\sid-few-step\sid_core run …"
API = ROOT / "workflows" / "api"


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    for command in commands(page):
        if command == PORTABLE:
            continue
        program, *words = shlex.split(command)
        assert program == "python"
        if words[:3] == ["-m", "pip", "install"]:
            required = (ROOT / "requirements.txt").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(words[3])}\b", required, re.MULTILINE) and not words[4:], command
        elif words[0] in ("sid_core", "path/to/sid-few-step/sid_core"):
            check_headless(words[1:])
        else:
            check_program(words)


def check_headless(arguments: list[str]) -> None:
    """By the client's own parser, and by the graph that it names; one of the pack's stands for a user's own."""
    if arguments == ["run"]:  # what the command is called
        return
    options = parse(arguments)
    if arguments[0] == "convert":  # its files are a user's own
        return
    file = API / options.graph.name
    graph = read_graph(API / "demo_distil.json" if options.graph.name == "my_graph.json" else file)
    for setting in options.set:
        found = find_setting(graph, setting)
        assert any(name in graph[node]["inputs"] for node, name in found.candidates), setting


def check_program(words: list[str]) -> None:
    """Its file is there, it has the options, and so are the files that are given to it, but for what it writes."""
    script, *arguments = [f"{words[1].replace('.', '/')}.py", *words[2:]] if words[0] == "-m" else words
    assert (ROOT / script).is_file(), script
    asked = PASSED_ON.get(script, script)
    if asked:
        assert {word for word in arguments if word.startswith("--")} <= options_of(asked), words
    assert all((ROOT / word).exists() for word in arguments if "/" in word), words


def options_of(script: str) -> set[str]:
    """Those that a program adds to its parser: read, as its imports take long."""
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)]
    first = [call.args[0] for call in calls if call.func.attr == "add_argument" and call.args]
    return {word.value for word in first if isinstance(word, ast.Constant) and word.value.startswith("-")}


def test_the_two_commands_are_there():
    assert commands("README.md")[:2] == ["python dev/demo.py", "python dev/test.py"]


def test_options_that_are_told_are_those_there_are(capsys):
    with pytest.raises(SystemExit):
        parse(["run", "--help"])
    has = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert {text.split()[0] for text in codes("docs/headless.md") if text.startswith("--")} == has
    demo = {text for text in codes("README.md") if text.startswith("--")} - {"--listen"}
    assert demo and demo <= options_of("demo/run.py")
    measuring = {text for text in codes("docs/evaluate.md") if text.startswith("--")}
    assert measuring and measuring <= options_of("demo/evaluate.py")


def test_exit_codes_are_the_client_s():
    told = re.findall(r"^\| (\d+) \|", text_of("docs/headless.md"), re.MULTILINE)
    assert told == re.findall(r"\b\d+\b", EXIT_CODES)


def test_times_and_sigmas_are_the_scheduler_s():
    process = VP.stable_diffusion()
    rows = re.findall(r"^\| (\d) \| ([\d, ]+) \| ([\d., ]+) \|$", text_of("docs/generate.md"), re.MULTILINE)
    assert [steps for steps, *_ in rows] == ["1", "2", "4"]
    for steps, times, sigmas in rows:
        t = step_times(int(steps), process=process)
        alpha, sigma = process.coefficients(t)
        assert times == ", ".join(map(str, t.tolist()))
        assert sigmas == ", ".join(f"{value:.3f}" for value in (sigma / alpha).tolist())


def test_a_student_begins_where_the_questions_say():
    (told,) = re.findall(r"a student begins at (\d+) % of it", text_of("docs/faq.md"))
    assert math.floor(100 * (1 - VP.stable_diffusion().default_t_init / 1000)) == int(told)


def test_strategies_are_those_of_the_guiders():
    rows = dict(re.findall(r"^\| (LSG|Zero-CFG|Anti-CFG) \| (.+) \|$", text_of("docs/method.md"), re.MULTILINE))
    made = {"LSG": Guidance.lsg(2.0), "Zero-CFG": Guidance.zero_cfg(), "Anti-CFG": Guidance.anti_cfg()}
    for name, guidance in made.items():
        scales = (guidance.fake_train, guidance.fake_score, guidance.teacher)
        for told, scale in zip(rows[name].split(" | "), scales, strict=True):
            assert {"κ": scale == 2.0, "below 0": scale < 0}.get(told, told == f"{scale:g}"), name


def test_cleanstyle_has_the_defaults_and_the_formula_of_its_page():
    row = re.search(r"^\| the authors', and the defaults \|(.+)\|$", text_of("docs/method.md"), re.MULTILINE)[1]
    names = ("top_k", "alpha", "beta", "gamma", "center", "negative_alpha")
    told = dict(zip(names, map(float, row.split("|")), strict=True))
    node = {name: rest[0] for name, _, *rest in schemas()["CleanStyle"]["required"] if rest}
    assert told == {name: node[name] for name in names}
    for p in (0.0, 0.3, 0.5):
        s = 1 / (1 + math.exp(-told["gamma"] * (p - told["center"])))
        assert suppression(p) == pytest.approx(told["alpha"] * (1 - s))


def test_systems_that_nothing_ran_on_are_named():
    """What the CI file lists need not have run, and does not hold a release up before it has."""
    lines = re.findall(
        r"os: (ubuntu|windows|macos)-.*?(untried: true)?( })?$", text_of(".github/workflows/ci.yml"), re.M
    )
    assert {system for system, untried, _ in lines if untried} == {"windows", "macos"}
    assert "The CI file names both, and what fails there holds nothing up." in " ".join(text_of("docs/faq.md").split())
