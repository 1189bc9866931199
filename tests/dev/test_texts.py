"""What users read in nodes: the names that nodes show, and no path that only this machine has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [file.relative_to(ROOT) for folder in ("nodes", "sid_core") for file in (ROOT / folder).rglob("*.py")]


def named_nodes(tree: ast.AST) -> list[ast.Constant]:
    """The ids that schemas give to nodes."""
    return [word.value for word in ast.walk(tree) if isinstance(word, ast.keyword) and word.arg == "node_id"]


def parsed(file: Path) -> ast.AST:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


IDS = {name.value for file in FILES for name in named_nodes(parsed(file)) if isinstance(name, ast.Constant)}
NODE_ID = re.compile(rf"\b({'|'.join(sorted(IDS - {'CleanStyle'}))})\b")


def texts(file: Path) -> list[str]:
    """All string literals of a file but docstrings, and the ids in schemas."""
    tree = parsed(file)
    documented = [each for each in ast.walk(tree) if isinstance(each, ast.Module | ast.ClassDef | ast.FunctionDef)]
    left_out = {id(first.value) for each in documented for first in each.body[:1] if isinstance(first, ast.Expr)}
    left_out |= set(map(id, named_nodes(tree)))
    constants = (each for each in ast.walk(tree) if isinstance(each, ast.Constant) and id(each) not in left_out)
    return [constant.value for constant in constants if isinstance(constant.value, str)]


def test_the_nodes_are_found():
    assert {"SiDDistill", "CleanStyleIPAdapter"} <= IDS


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nodes_are_called_what_they_show(file):
    """A user sees 'SiD Load Student' on the node, and not the id that graphs have for it; sid_core looks for that."""
    looked_for = set(IDS) if file.parts[0] == "sid_core" else set()
    assert [text for text in texts(file) if NODE_ID.search(text) and text not in looked_for] == []
