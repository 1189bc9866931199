"""The archive that the Registry would publish: what is in it, and that a clean ComfyUI runs it."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST = 25_000_000  # bytes
# What ComfyUI tells of a copy of the pack, started by the copy's own headless client from a folder that is not its own.
LOOK = """
import json, sys, urllib.request
from pathlib import Path
comfyui, base, pack = map(Path, sys.argv[1:])
sys.path.insert(0, str(pack))
from sid_core.headless.host import serve

def get(path):
    with urllib.request.urlopen(host.url + path) as answer:
        return answer.read().decode()

with serve(comfyui, base_directory=base) as host:
    nodes = json.loads(get("/object_info"))
    print(json.dumps({
        "nodes": {name: node["python_module"] for name, node in nodes.items()},
        "help": get(f"/extensions/{pack.name}/docs/SiDDistill.md"),
        "chinese": json.loads(get("/i18n"))["zh"]["nodeDefs"]["SiDDistill"]["display_name"],
        "templates": json.loads(get("/workflow_templates"))[pack.name],
        "log": host.log_tail(),
    }))
"""


@pytest.fixture(scope="module")
def archive() -> zipfile.ZipFile:
    from sid_pack.dev.archive import files, write

    if not (ROOT / ".git").exists():
        pytest.skip("what is published is what git tracks, and this is no clone of the repository")
    packed = io.BytesIO()
    write(packed, files())
    return zipfile.ZipFile(packed)


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory) -> Path:
    """Where the Manager puts it: a folder of the pack's name, in the custom_nodes of a ComfyUI that has no other."""
    pack = tmp_path_factory.mktemp("base") / "custom_nodes" / "sid-few-step"
    archive.extractall(pack)
    return pack


def test_it_is_small_and_has_what_users_need_alone(archive):
    names = set(archive.namelist())
    assert sum(entry.compress_size for entry in archive.infolist()) < MOST
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {"tests", "dev", "benchmarks", ".github", ".ci", ".gitignore", ".comfyignore", ".sid"}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert {"demo/PICTURES.md", "demo/assets/teacher.safetensors", "web/docs/SiDDistill/zh.md"} <= names
    assert not [name for name in names if name.startswith("demo/") and name.endswith(".py")]
    for folder in ("nodes", "sid_core", "locales", "workflows", "web"):
        tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True).stdout.split(
            "\n"
        )
        assert set(filter(None, tracked)) == {name for name in names if name.startswith(f"{folder}/")}


def test_a_clean_comfyui_has_all_its_nodes(installed, comfyui_path, tmp_path):
    line = [sys.executable, "-I", "-c", LOOK, str(comfyui_path), str(installed.parents[1]), str(installed)]
    looked = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert looked.returncode == 0, looked.stderr
    told = json.loads(looked.stdout)
    module = f"custom_nodes.{installed.name}"
    ours = {name for name, of in told["nodes"].items() if of == module}
    assert ours == {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}, told["log"]
    assert told["help"].startswith("# SiD Distill")
    assert told["chinese"].startswith("SiD Distill ")
    assert {f"{name}.json" for name in told["templates"]} == {file.name for file in (ROOT / "workflows").glob("*.json")}
    assert len([of for of in told["nodes"].values() if of.startswith("custom_nodes.")]) == len(ours)


def test_its_first_workflow_draws_pictures_without_the_repository(installed, comfyui_path, tmp_path):
    first = installed / "workflows/api/demo_sample_student.json"
    graph = json.loads(first.read_text(encoding="utf-8"))
    (generate,) = (node for node in graph.values() if node["class_type"] == "SiDGenerate")
    out = tmp_path / "out"
    places = ["--comfyui", comfyui_path, "--base-directory", installed.parents[1], "--output-directory", out]
    line = [sys.executable, "-s", installed / "sid_core", "run", first, *places]
    ran = subprocess.run(list(map(str, line)), cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(list(out.rglob("*.png"))) == generate["inputs"]["batch_size"]
