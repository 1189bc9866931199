"""Templates in prompts, {a|b} and __wildcard__, by the package dynamicprompts: loaded only where a line has them."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

WILDCARD = re.compile(r"__[^\s_{}|](?:[^\s{}|]*?[^\s_{}|])??__")


def is_template(prompt: str) -> bool:
    """Whether it has {a|b} or __wildcard__ in it; other braces, bars and underscores are ordinary text."""
    if "{" in prompt and "|" in prompt:
        bars: list[bool] = []
        for letter in prompt:
            if letter == "{":
                bars.append(False)
            elif letter == "|" and bars:
                bars[-1] = True
            elif letter == "}" and bars and bars.pop():
                return True
    return WILDCARD.search(prompt) is not None


class Templates:
    """Draws prompts out of templates. Each is drawn by its own text and the seed, whatever other lines there are."""

    def __init__(self, wildcards: Path, seed: int, variants: int):
        """wildcards: the folder of files that __name__ stands for. variants: prompts drawn from a template, ≥ 1."""
        self.wildcards, self.seed, self.variants = wildcards, seed, variants
        self.library = None

    def expand(self, prompts: Iterable[str]) -> Iterator[str]:
        """The prompts, in the place of each template those that were drawn from it. Repeats of these are left out.

        Raises ValueError that quotes the template: bad syntax, a wildcard without a file, no package.
        """
        for prompt in prompts:
            if is_template(prompt):
                yield from self._draw(prompt)
            else:
                yield prompt

    def _draw(self, template: str) -> list[str]:
        self.library = self.library or _Library(self.wildcards, template)
        number = hashlib.sha256(f"{self.seed} {template}".encode()).digest()[:8]
        drawn = self.library.draw(template, int.from_bytes(number, "little"), self.variants)
        for prompt in drawn:
            if unknown := WILDCARD.search(prompt):
                raise ValueError(
                    f"there is nothing for {unknown[0]} in the prompt {template!r}; looked for such a file in "
                    f"{self.wildcards}, {self.library.known()}. Set 'variants' to 0 if it is no wildcard."
                )
        return list(dict.fromkeys(filter(None, (prompt.strip() for prompt in drawn))))


class _Library:
    """The package, once it is needed."""

    def __init__(self, wildcards: Path, template: str):
        try:
            from dynamicprompts.generators import RandomPromptGenerator
            from dynamicprompts.wildcards import WildcardManager
            from pyparsing import ParseException
        except ImportError as error:
            raise ImportError(
                f"the prompt {template!r} has {{a|b}} or __wildcard__ in it, which takes the package dynamicprompts "
                f"({error}). Install it with ComfyUI's Python: python -m pip install dynamicprompts. Or set "
                "'variants' to 0, and such prompts are taken as they are."
            ) from error
        self.generator, self.syntax_error = RandomPromptGenerator, ParseException
        self.files = WildcardManager(wildcards if wildcards.is_dir() else None)

    def draw(self, template: str, seed: int, count: int) -> list[str]:
        try:
            return self.generator(self.files, seed=seed).generate(template, count)
        except self.syntax_error as error:
            raise ValueError(
                f"the prompt {template!r} can't be read as a template: {error}. Set 'variants' to 0 to take such "
                "prompts as they are."
            ) from error
        except RecursionError as error:
            raise ValueError(f"the wildcards of the prompt {template!r} stand for themselves, on and on") from error

    def known(self) -> str:
        names = sorted(self.files.get_collection_names())
        more = f" and {len(names) - 10} more" * (len(names) > 10)
        return f"where there are {', '.join(names[:10])}{more}" if names else "where there are none"
