"""The rooms of the house and the imports between them: none runs upward, and none goes in circles.

ROOMS is the plan: what a room may import besides itself. It is read from the code alone, imports within functions and
for type checkers included, so that nothing escapes it.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

METHOD = {"sid_core/method"}
WORDS = {"sid_core/words"}
CORE = METHOD | WORDS | {"sid_core/files", "sid_core/data", "sid_core/training", "sid_core/convert"}
SHARED = CORE | {"nodes/host", "nodes/pictures"}
ROOMS = {
    "sid_core/method": set(),
    "sid_core/words": set(),
    "sid_core/evaluation": METHOD | WORDS | {"sid_core/files"},
    "sid_core/files": METHOD | WORDS,
    "sid_core/data": METHOD | WORDS | {"sid_core/files"},
    "sid_core/training": METHOD | WORDS | {"sid_core/files", "sid_core/data"},
    "sid_core/convert": WORDS | {"sid_core/files"},
    "sid_core/headless": WORDS | {"sid_core/convert"},
    "sid_core/__main__": WORDS | {"sid_core/headless"},
    "nodes/pictures": set(),
    "nodes/host": CORE,
    "nodes/image_prompts": SHARED,
    "nodes/sampling": SHARED,
    "nodes/cleanstyle": SHARED | {"nodes/image_prompts"},
    "nodes/training": SHARED | {"nodes/sampling", "sid_core/evaluation"},
    "nodes/panel": SHARED | {"nodes/training"},
    "nodes/evaluation": SHARED | {"nodes/sampling", "nodes/training", "sid_core/evaluation"},
    "nodes/demo": SHARED | {"nodes/sampling"},
    "nodes/extension": {
        f"nodes/{room}"
        for room in ("sampling", "training", "panel", "evaluation", "image_prompts", "cleanstyle", "demo")
    },
    "__init__": {"nodes/extension"},
}
# What else a room may reach: ComfyUI, and other packages than Python's own.
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "comfyui_version", "folder_paths", "nodes", "server"}


def files() -> list[Path]:
    """All of the pack's own Python: what a user's ComfyUI imports, and the headless client."""
    found = [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "sid_core").rglob("*.py")]
    return sorted(file.relative_to(ROOT) for file in found)


def room_of(file: Path) -> str:
    """'nodes/host' for all files in it; a file that lies beside the rooms is one by itself."""
    parts = file.with_suffix("").parts
    return "/".join(parts[:2])


def imports(file: Path) -> Iterator[tuple[str, Path | None]]:
    """(top-level package, None) for others' modules, ('', file) for the pack's own."""
    for statement in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from ((name.name.partition(".")[0], None) for name in statement.names)
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            yield statement.module.partition(".")[0], None
        elif isinstance(statement, ast.ImportFrom):
            base = file.parents[statement.level - 1].joinpath(*(statement.module or "").split("."))
            for name in statement.names:
                yield "", next(place for place in candidates(base, name.name) if (ROOT / place).is_file())


def candidates(base: Path, name: str) -> tuple[Path, ...]:
    return (base / f"{name}.py", base / name / "__init__.py", base.with_suffix(".py"), base / "__init__.py")


def arrows() -> Iterator[tuple[Path, Path]]:
    """(importing file, imported file) within the pack; packages' empty __init__ apart."""
    for file in files():
        for package, target in imports(file):
            if not package and target != file:
                yield file, target


def test_every_file_is_in_a_room_that_is_planned():
    rooms = {room_of(file) for file in files() if (ROOT / file).stat().st_size > 0}
    assert rooms - ROOMS.keys() <= {"sid_core/__init__"}  # a docstring alone
    assert rooms >= ROOMS.keys()


def test_the_plan_itself_has_no_circle():
    list(TopologicalSorter(ROOMS).static_order())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_lies_below_it_alone(room):
    across = {
        f"{file} imports {target}"
        for file, target in arrows()
        if room_of(file) == room and room_of(target) not in {room, *ROOMS[room]}
    }
    assert not across


def test_no_files_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for file, target in arrows():
        graph.setdefault(str(file), set()).add(str(target))
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("file", [file for file in files() if file.parts[0] == "sid_core"], ids=str)
def test_the_core_reaches_neither_the_host_nor_anything_but_torch(file):
    packages = {package for package, target in imports(file) if package}
    assert not packages & HOST
    if room_of(file) == "sid_core/method":
        assert packages - sys.stdlib_module_names <= {"torch"}
