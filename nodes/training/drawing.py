"""What the package dynamicprompts is used for, and where it is held back: it is slow, and has no bounds of its own."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from dynamicprompts.commands import Command, LiteralCommand, WrapCommand
from dynamicprompts.commands.wrap_command import WRAP_MARKER_RE
from dynamicprompts.enums import SamplingMethod
from dynamicprompts.parser.parse import parse
from dynamicprompts.samplers.cycle import CyclicalSampler
from dynamicprompts.samplers.random import RandomSampler
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.collection import WildcardCollection
from dynamicprompts.wildcards.item import WildcardItem
from dynamicprompts.wildcards.values import WildcardValues
from pyparsing import ParseBaseException

from ...sid_core.data.templates import LITERAL, Template, TemplateError, UnknownWildcardError, plain, read_template
from ...sid_core.data.wildcard_files import Line, Source

MOST_PARTS = 100_000  # of one prompt: wildcards may stand for wildcards
NAMES_SHOWN = 10


class Library:
    """Draws from templates, with what the wildcards stand for."""

    def __init__(self, sources: dict[str, Source]):
        self.names = sorted(sources)
        self.commands: dict[str, Command] = {}  # of those texts of wildcards that are templates themselves
        self.check: Callable[[], None] = lambda: None
        self.parts = 0
        collections = {name: _Collection(self, name, source) for name, source in sources.items()}
        self.files = _Files(self, collections)

    def known(self) -> str:
        more = f" and {len(self.names) - NAMES_SHOWN:,} more" * (len(self.names) > NAMES_SHOWN)
        return f"{', '.join(self.names[:NAMES_SHOWN])}{more}" if self.names else "none"

    def draw(self, template: Template, seed: int, count: int, check: Callable[[], None]) -> Iterator[str]:
        """`count` prompts, some of them equal. check: called all the while; it may raise. Raises TemplateError."""
        self.check = check
        samplers = {SamplingMethod.RANDOM: _Random(self), SamplingMethod.CYCLICAL: _Cyclical(self)}
        context = SamplingContext(SamplingMethod.RANDOM, self.files, samplers=samplers, rand=Random(seed))
        command = self.parsed(template.source, "")
        drawn = self._guarded(lambda: iter(context.sample_prompts(command, count)))
        while (prompt := self._guarded(lambda: next(drawn, None))) is not None:
            yield str(prompt)

    def _guarded(self, draws: Callable[[], Any]) -> Any:
        """The next prompt, or a TemplateError in the place of one of the package's many."""
        self.parts = 0
        try:
            return draws()
        except RecursionError:
            raise TemplateError("Let no wildcard or variable stand for itself, on and on") from None
        except KeyError:
            raise TemplateError("Give each ${variable} a value, as in ${name=a text}") from None
        except (LookupError, RuntimeError, OverflowError, AssertionError, TypeError) as error:
            raise TemplateError(f"Write it another way, for it can't be drawn ({type(error).__name__})") from None

    def part(self) -> None:
        """One more part of a prompt is drawn."""
        self.check()
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise TemplateError(f"Use fewer wildcards or variables: a prompt has more than {MOST_PARTS:,} parts")

    def taken(self, line: Line) -> str:
        """A wildcard's text as the package is to read it. One that it can't read is found here, whatever is drawn."""
        self.check()
        try:
            template = read_template(line.text)
        except TemplateError as error:
            raise TemplateError(str(error), line.place) from None
        if not (template.draws or template.variables):
            return line.text.translate(LITERAL)
        self.commands[template.source] = self.parsed(template.source, line.place)
        return template.source

    def command(self, text: str) -> Command:
        """What a wildcard's text is for the package."""
        self.check()
        return self.commands.get(text) or LiteralCommand(text)

    def parsed(self, source: str, place: str) -> Command:
        try:
            return parse(source)
        except ParseBaseException as error:
            raise TemplateError(f"Mend what begins at letter {error.loc + 1}, which can't be read", place) from None
        except (ValueError, LookupError, AssertionError, OverflowError):
            raise TemplateError("Write it another way, for it can't be read", place) from None
        except RecursionError:
            raise TemplateError("Nest it less deeply", place) from None


class _Random(RandomSampler):
    def __init__(self, library: Library):
        self.library = library

    def generator_from_command(self, command: Command, context: SamplingContext):
        self.library.part()
        return super().generator_from_command(command, context)

    def _get_variant_choices(self, values: list[Command], weights: list[float], num_choices: int, rand: Random):
        if sum(0 < weight < math.inf for weight in weights) < num_choices:
            raise TemplateError("Give as many options a weight above 0 as are to be drawn")
        return super()._get_variant_choices(values, weights, num_choices, rand)

    def _get_wrap(self, command: WrapCommand, context: SamplingContext):
        around = context.generator_from_command(command.wrapper)
        for wrapper, inner in zip(around, context.generator_from_command(command.inner), strict=False):
            if not WRAP_MARKER_RE.search(wrapper.text):  # the package would log each of them
                raise TemplateError("Put ... where the text inside goes, as in %{before ... behind$$text inside}")
            yield wrapper.as_wrapper()(inner)


class _Cyclical(CyclicalSampler):
    def __init__(self, library: Library):
        self.library = library

    def generator_from_command(self, command: Command, context: SamplingContext):
        self.library.part()
        return super().generator_from_command(command, context)


class _Collection(WildcardCollection):
    """A name's texts, read when they are drawn from for the first time."""

    def __init__(self, library: Library, name: str, source: Source):
        self.library, self.name, self.source = library, name, source

    def __repr__(self) -> str:
        return self.name

    def get_values(self) -> list[WildcardItem]:
        return [WildcardItem(self.library.taken(line), line.weight) for line in self.source()]


class _Files(WildcardManager):
    def __init__(self, library: Library, collections: dict[str, _Collection]):
        super().__init__(root_map={"": [collections]})
        self.library = library
        self.known: dict[str, _Values] = {}

    def get_values(self, wildcard: str) -> "_Values":
        """Raises UnknownWildcardError where the package would leave the wildcard as it stands."""
        name = plain(wildcard)
        if name not in self.known:
            # The package takes no name at all for all names, and logs names with .. at length.
            is_name = name.strip("/\\ ") and ".." not in name
            items = super().get_values(name).items if is_name else ()
            if not items:
                raise UnknownWildcardError(name)
            self.known[name] = _Values(items, self.library)
        return self.known[name]


@dataclass(frozen=True)
class _Values(WildcardValues):
    """The texts of a wildcard, which the package would parse anew for each prompt."""

    library: Library

    def get_weighted_random_generator(self, rng: Random) -> Iterator[Command]:
        return map(self.library.command, super().get_weighted_random_generator(rng))

    def iterate_string_values_weighted(self) -> Iterator[str]:
        for item in self.items:
            self.library.command(item.content)
            for _ in range(max(1, round(item.weight))):
                yield item.content
