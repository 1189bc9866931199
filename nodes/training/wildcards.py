"""Draws prompts out of templates, by the package dynamicprompts: loaded only where a line has one."""

import hashlib
import importlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ...sid_core.data.prompt_sources import Prompt
from ...sid_core.data.templates import Template, TemplateError, UnknownWildcardError, plain, read_template
from ...sid_core.data.wildcard_files import wildcards_in

if TYPE_CHECKING:
    from .drawing import Library

PACKAGE = "dynamicprompts"
NEEDED = "0.31.0"
BOX = "the text box"
AS_THEY_ARE = "Set variants to 0 to take such prompts as they are."


@dataclass
class Templates:
    """Draws prompts out of templates. Each is drawn by its own text and the seed, whatever other lines there are.

    wildcards: the folder of files that __name__ stands for; it need not be there. variants: prompts drawn from a
    template, ≥ 1. visit: called with each file and folder in there before it is used, check: called all the while; both
    may raise. quoted: whether a message may say what names there are.
    """

    wildcards: Path
    seed: int
    variants: int
    visit: Callable[[Path], None]
    check: Callable[[], None]
    quoted: bool = True
    library: "Library | None" = field(default=None, init=False)

    def expand(self, prompts: Iterable[Prompt]) -> Iterator[str]:
        """The prompts, in the place of each template those that were drawn from it. Repeats of these are left out.

        Raises ValueError that names the template's place: bad syntax, a wildcard without a file; ImportError where the
        package is not there.
        """
        for text, place in prompts:
            with self._named(text, place):
                template = read_template(text)
            if template.draws:
                yield from self._draw(text, template, place)
            else:
                yield text

    def _draw(self, text: str, template: Template, place: str) -> Iterator[str]:
        self.library = self.library or _library(self, place)
        number = hashlib.sha256(f"{self.seed} {text}".encode()).digest()[:8]
        seen = set()
        with self._named(text, place):
            for drawn in self.library.draw(template, int.from_bytes(number, "little"), self.variants, self.check):
                prompt = plain(drawn).strip()
                digest = hashlib.sha256(prompt.encode()).digest()[:16]
                if prompt and digest not in seen:
                    seen.add(digest)
                    yield prompt

    @contextmanager
    def _named(self, text: str, place: str) -> Iterator[None]:
        """Says where the template is that something is wrong with.

        Nothing of the package's own errors is kept: they have the text in them, which may come out of a file.
        """
        try:
            yield
        except UnknownWildcardError as error:
            named = self.quoted or (place.endswith(BOX) and error.name in text)
            name = f"__{error.name:.80}__" if named else "a wildcard"
            there = f"; there are {self.library.known()}" * self.quoted
            raise ValueError(
                f"Put a file for {name} into the folder that wildcards names: there is none for {place}{there}. "
                "Set variants to 0 if it is no wildcard."
            ) from None
        except TemplateError as error:
            raise ValueError(f"{error}: {error.place or f'the template in {place}'}. {AS_THEY_ARE}") from None


def _library(templates: Templates, place: str) -> "Library":
    """The package, once it is needed. Raises ImportError that says which version is there and which is needed."""
    there = _version()
    try:
        if there is None or _numbers(there) < _numbers(NEEDED):
            raise ImportError
        from .drawing import Library
    except ImportError as error:
        needed_for = f"The template in {place} takes it. {AS_THEY_ARE}"
        raise ImportError(f"{_how_to_install(there, str(error))} {needed_for}") from None
    folder = templates.wildcards
    return Library(wildcards_in(folder, templates.visit, templates.check) if folder.is_dir() else {})


def _version() -> str | None:
    """Of the package that would be imported, which another pack may have brought; None: there is none."""
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError:
        return None
    try:
        return getattr(package, "__version__", None) or metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "0"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _how_to_install(there: str | None, error: str) -> str:
    if there is None:
        return f"Install the package {PACKAGE} with ComfyUI's Python: python -m pip install {PACKAGE}."
    if _numbers(there) < _numbers(NEEDED):
        return (
            f"Update the package {PACKAGE} with ComfyUI's Python: python -m pip install --upgrade {PACKAGE}. Version "
            f"{there} is there, and {NEEDED} or newer is needed."
        )
    return (
        f"Install version {NEEDED} of the package {PACKAGE} with ComfyUI's Python: python -m pip install "
        f"{PACKAGE}=={NEEDED}. Version {there} is there, which lacks what is needed ({error})."
    )
