"""What users read in nodes: the names that nodes show, and no path that only this machine has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [file.relative_to(ROOT) for folder in ("nodes", "sid_core") for file in (ROOT / folder).rglob("*.py")]
NODE_ID = re.compile(r"\b(SiD(?!_)[A-Z][A-Za-z]+|CleanStyle[A-Z][A-Za-z]+)\b")


def texts(file: Path) -> list[str]:
    """All string literals of a file but docstrings, and the ids that schemas and wires are named by."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    documented = [each for each in ast.walk(tree) if isinstance(each, ast.Module | ast.ClassDef | ast.FunctionDef)]
    left_out = {id(first.value) for each in documented for first in each.body[:1] if isinstance(first, ast.Expr)}
    left_out |= {id(word.value) for word in ast.walk(tree) if isinstance(word, ast.keyword) and word.arg == "node_id"}
    constants = (each for each in ast.walk(tree) if isinstance(each, ast.Constant) and id(each) not in left_out)
    return [constant.value for constant in constants if isinstance(constant.value, str)]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nodes_are_called_what_they_show(file):
    """A user sees 'SiD Load Student' on the node, and not the id that graphs have for it."""
    assert [text for text in texts(file) if NODE_ID.search(text)] == []
