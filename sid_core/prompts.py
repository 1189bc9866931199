"""Prompt lists as people write them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PromptList:
    """prompts: in their order, each once; duplicates: how many repeats were dropped."""

    prompts: tuple[str, ...]
    duplicates: int


def parse_prompts(text: str) -> PromptList:
    """One prompt a line; blank lines and lines that begin with # are skipped, repeats dropped and counted."""
    stripped = (line.strip() for line in text.splitlines())
    lines = [line for line in stripped if line and not line.startswith("#")]
    prompts = tuple(dict.fromkeys(lines))
    return PromptList(prompts, len(lines) - len(prompts))
