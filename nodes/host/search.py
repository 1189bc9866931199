"""The words that people type to find a node, beside its name."""

from dataclasses import fields

from comfy_api.latest import io


def found_by(*words: str) -> dict[str, list[str]]:
    """What a schema is given so that the node is found by these; nothing on a ComfyUI that has no such words yet."""
    return {"search_aliases": list(words)} if "search_aliases" in {each.name for each in fields(io.Schema)} else {}
