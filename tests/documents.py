"""The README and the pages beside it, and what is found in their text."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
STRONG = re.compile(r"\*\*([^*]+)\*\*")
EMPHASIS = re.compile(r"(?<!\*)\*([^*\s](?:[^*]*[^*\s])?)\*(?!\*)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def unfenced(page: str) -> str:
    """Without blocks of code."""
    return FENCED.sub("", text_of(page))


def codes(page: str) -> list[str]:
    """What stands in backquotes within lines."""
    return CODE.findall(unfenced(page))


def prose(page: str) -> str:
    """Without any code, on one line."""
    return " ".join(CODE.sub("", unfenced(page)).split())


def links(page: str) -> list[tuple[bool, str, str]]:
    """(whether it is a picture, its words, where it leads)."""
    return [(bool(mark), words, target) for mark, words, target in LINK.findall(unfenced(page))]


def place_of(page: str, target: str) -> Path:
    """The file that a relative link on a page leads to."""
    file = target.partition("#")[0]
    return (ROOT / page).parent.joinpath(file).resolve() if file else ROOT / page


def anchors(page: str) -> set[str]:
    """The names that its headings get where Markdown is shown: their letters, numbers, and hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", unfenced(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: str) -> list[str]:
    """All that is to be typed into a shell."""
    lines = [line for block in FENCED.findall(text_of(page)) for line in block.splitlines()]
    return [text for text in [*lines, *codes(page)] if text.startswith("python")]


def schemas() -> dict[str, dict]:
    """Of each node, by its id; tests/nodes hold them against the nodes."""
    return json.loads((ROOT / "tests" / "data" / "schemas.json").read_text(encoding="utf-8"))


def shown_names() -> dict[str, dict]:
    """What each node shows in English, by its id; tests/words hold it against the nodes."""
    return json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


def bare(name: str) -> str:
    """Without what some names have in brackets: a unit, or what 0 means."""
    return re.sub(r" \(.*\)$", "", name)


def node_titles() -> set[str]:
    return {bare(node["display_name"]) for node in shown_names().values()}


def words_of_nodes() -> set[str]:
    """The names and choices of all inputs and outputs, as nodes show them and as graphs have them."""
    names = set()
    for node in shown_names().values():
        for entries in (node.get("inputs", {}), node.get("outputs", {})):
            names |= {entry["name"] for entry in entries.values()}
    for node in schemas().values():
        for name, _kind, *rest in node["required"] + node["optional"]:
            names |= {name, *(choice for choices in rest if isinstance(choices, list) for choice in choices)}
        names |= {name for name, _kind in node["outputs"]}
    return names | {bare(name) for name in names}
