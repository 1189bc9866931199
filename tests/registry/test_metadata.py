"""What pyproject.toml tells the Registry and the Manager, by ComfyUI's own reader of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
IMAGES = "https://raw.githubusercontent.com/sid-comfy/sid-few-step/main/"


@pytest.fixture(scope="module")
def read(comfyui):
    """As ComfyUI reads it for its nodes' pages: the project and its [tool.comfy]."""
    from comfy_config.config_parser import extract_node_configuration, load_pyproject_settings

    return extract_node_configuration(str(ROOT)), load_pyproject_settings(ROOT / "pyproject.toml")


def test_the_name_is_one_that_the_registry_takes(read):
    project = read[0].project
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,98}[a-z0-9]", project.name)
    assert "comfy" not in project.name
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert project.description and project.license.text == "Apache-2.0"


def test_no_classifier_is_voided(read):
    """ComfyUI's reader gives none at all where it does not know one of them."""
    given, (project, settings) = None, read
    given = [each for each in settings.project["classifiers"] if each.startswith("Operating System :: ")]
    assert [f"Operating System :: {system}" for system in project.project.supported_os] == given
    assert given
    accelerators = [each for each in settings.project["classifiers"] if each.startswith("Environment :: ")]
    assert [f"Environment :: {each}" for each in project.project.supported_accelerators] == accelerators


def test_it_says_which_comfyui_and_where_it_comes_from(read):
    project = read[0].project
    assert project.supported_comfyui_version == ">=0.3.75"
    assert project.urls.repository == "https://github.com/sid-comfy/sid-few-step"
    assert read[0].tool_comfy.publisher_id and read[0].tool_comfy.display_name
    assert read[0].tool_comfy.web is None  # WEB_DIRECTORY says it; both would load every script twice


def test_icon_and_banner_are_of_the_registry_s_sizes(read):
    comfy = read[1].tool["comfy"]
    assert comfy["Icon"].startswith(IMAGES) and comfy["Banner"].startswith(IMAGES)
    icon = Image.open(ROOT / comfy["Icon"].removeprefix(IMAGES))
    assert icon.width == icon.height <= 400
    banner = Image.open(ROOT / comfy["Banner"].removeprefix(IMAGES))
    assert banner.width * 9 == banner.height * 21


def test_requirements_are_the_same_for_managers_and_pip(read):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == read[0].project.dependencies


def test_workflows_name_the_pack(read):
    from sid_pack.dev.workflows.ui_format import PACK

    assert read[0].project.name == PACK


def test_the_version_is_in_the_changelog(read):
    versions = re.findall(r"^## .*?(\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert read[0].project.version in versions
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert numbers == sorted(numbers, reverse=True)


def test_the_registry_s_own_rules_find_nothing():
    """exec, eval, and statements behind a semicolon; without the repository's exceptions."""
    rules = ["--isolated", "--ignore-noqa", "--select", "S102,S307,E702"]
    line = [sys.executable, "-I", "-m", "ruff", "check", "--no-cache", "--exclude", ".sid", *rules, "."]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_nothing_is_published_but_behind_the_tests():
    """The job that publishes waits for the workflow that tests, and runs for tags alone."""
    workflows = ROOT / ".github" / "workflows"
    yaml = pytest.importorskip("yaml")
    publish = yaml.safe_load((workflows / "publish.yml").read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    assert publish[True] == {"push": {"tags": ["v*.*.*"]}}
    assert publish["jobs"]["test"] == {"uses": "./.github/workflows/ci.yml"}
    assert publish["jobs"]["publish"]["needs"] == "test"
    tests = yaml.safe_load((workflows / "ci.yml").read_text(encoding="utf-8"))
    assert "workflow_call" in tests[True]
    assert [step for step in tests["jobs"]["test"]["steps"] if step.get("run") == "python dev/test.py"]
