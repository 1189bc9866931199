"""The help pages of web/docs and their translations, which ComfyUI looks for in web/docs/<node>/<language>.md first."""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "web" / "docs"


def english() -> dict[str, str]:
    """By node."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}


def translation(node: str, language: str) -> str:
    return (FOLDER / node / f"{language}.md").read_text(encoding="utf-8")


def mark_of(page: str) -> str:
    """What stands at the end of a translation: which English page it is one of. The editor does not show it."""
    return f"<!-- of {hashlib.sha256(page.encode()).hexdigest()[:12]} -->\n"
