"""Templates in prompts, {a|b} and __wildcard__: what of a text they are, so that all the rest of it stays as it is.

The package dynamicprompts, which draws from them, takes any # $ % { } _ of a text for its own and fails, or drops what
follows. Here they are told apart, and what is ordinary text is written in letters that no text has.
"""

import re
from dataclasses import dataclass, field

SPECIAL = "#$%/_{}|()\t"
# Unicode's noncharacters, which are kept for such uses and are in no file.
LITERAL = {ord(letter): chr(0xFDD0 + place) for place, letter in enumerate(SPECIAL)}
PLAIN = {ord(literal): chr(letter) for letter, literal in LITERAL.items()}
FOREIGN = re.compile("[\ufdd0-\ufdef]")

LONGEST = 20_000  # letters; the package reads some 10,000 a second
# {~2-3$$ and $$a|b}: how to draw, how many, and what to put between.
HEAD = re.compile(r"\s*([~!@]?)\s*((?:\d+\s*-\s*\d+|\d+\s*-|-\s*\d+|\d+)\s*\$\$(?:[^${}]+\$\$)?)?")
VARIABLE = re.compile(r"\s*[A-Za-z_-][\w-]*\s*(?:\?\s*=\s*!?|=\s*!?|:|(?=\}))", re.ASCII)
ARGUMENTS = re.compile(r"\([^()]*=[^()]*\)$")


class TemplateError(ValueError):
    """A text can't be read or drawn as the template it seems to be; says what to do. place: where it is, if known."""

    def __init__(self, advice: str, place: str = ""):
        super().__init__(advice)
        self.place = place


class UnknownWildcardError(ValueError):
    """There is nothing for a wildcard."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


@dataclass
class Template:
    """A text as the package is to read it. draws: whether {a|b} or __wildcard__ is in it, else it is ordinary text."""

    source: str
    draws: bool
    variables: bool


def plain(text: str) -> str:
    """What was drawn, with its ordinary letters again."""
    return text.translate(PLAIN)


def read_template(text: str) -> Template:
    """What of a text is a template. Raises TemplateError for one that is too long, too deep or not closed."""
    if not ("__" in text or "{" in text):
        return Template(text, draws=False, variables=False)
    reader = _Reader(text)
    try:
        source = reader.read(0, len(text), within=False)
    except RecursionError:
        raise TemplateError("Nest it less deeply") from None
    if reader.draws:
        if len(text) > LONGEST:
            raise TemplateError(f"Shorten it to {LONGEST:,} letters or less")
        if FOREIGN.search(text):
            raise TemplateError("Leave out the letters U+FDD0 to U+FDEF")
        if reader.is_unclosed():
            raise TemplateError("Close the { in it")
    return Template(source, reader.draws, reader.variables)


def is_template(prompt: str) -> bool:
    """Whether it has {a|b} or __wildcard__ in it; other braces, bars and underscores are ordinary text."""
    return read_template(prompt).draws


@dataclass
class _Reader:
    text: str
    pairs: dict[int, int] = field(default_factory=dict)  # { → its }
    unclosed: list[int] = field(default_factory=list)
    draws: bool = False
    variables: bool = False

    def __post_init__(self) -> None:
        for place, letter in enumerate(self.text):
            if letter == "{":
                self.unclosed.append(place)
            elif letter == "}" and self.unclosed:
                self.pairs[self.unclosed.pop()] = place

    def is_unclosed(self) -> bool:
        """Whether a { without its } has choices behind it."""
        return any(self._bars(place + 1, len(self.text)) for place in self.unclosed)

    def read(self, first: int, last: int, within: bool) -> str:
        """Letters first to last-1. within: in braces of the package's, where $$ has a meaning."""
        pieces, place = [], first
        while place < last:
            piece, place = self._piece(place, last, within)
            pieces.append(piece)
        return "".join(pieces)

    def _piece(self, place: int, last: int, within: bool) -> tuple[str, int]:
        letter = self.text[place]
        if letter == "{" and place in self.pairs:
            return self._braces(place, within)
        if letter in "$%" and place + 1 in self.pairs and (found := self._command(place)):
            return found
        if self.text.startswith("__", place) and (found := self._wildcard(place, last)):
            return found
        if within and self.text.startswith("$$", place):
            return "$$", place + 2  # no number before it: the package refuses it
        return letter.translate(LITERAL), place + 1

    def _braces(self, place: int, within: bool) -> tuple[str, int]:
        end = self.pairs[place]
        head = HEAD.match(self.text, place + 1, end)
        first = head.end() if head[2] else head.end(1)
        bars = self._bars(first, end)
        if not (bars or head[2]):
            inner = self.read(place + 1, end, within)
            return f"{'{'.translate(LITERAL)}{inner}{'}'.translate(LITERAL)}", end + 1
        self.draws |= bool(bars)
        options = zip([first, *(bar + 1 for bar in bars)], [*bars, end], strict=True)
        read = "|".join(self.read(*option, within=True) for option in options)
        # All combinations are no way to draw at random: the package would do without, and warn each time.
        return f"{{{head[1].replace('!', '')}{head[2] or ''}{read}}}", end + 1

    def _command(self, place: int) -> tuple[str, int] | None:
        """${name}, ${name=value}, ${name:default} or %{around ... it$$it}."""
        end = self.pairs[place + 1]
        if self.text[place] == "$":
            if name := VARIABLE.match(self.text, place + 2, end + 1):
                self.variables = True
                return f"${{{name[0]}{self.read(name.end(), end, within=True)}}}", end + 1
        elif middle := self._at_top("$$", place + 2, end):
            self.variables = True
            around = self.read(place + 2, middle[0], within=True)
            return f"%{{{around}$${self.read(middle[0] + 2, end, within=True)}}}", end + 1
        return None

    def _wildcard(self, place: int, last: int) -> tuple[str, int] | None:
        """__name__, where a name has no spaces or underscores at its ends, and may have {a|b} and ${x} in it."""
        end = self._wildcard_end(place + 2, last)
        name = self.text[place + 2 : end]
        if not name or name[0] in "_ \t" or name[-1].isspace():
            return None
        first = place + 2 + (name[0] in "~@!")
        arguments = ARGUMENTS.search(name)
        read = self.read(first, place + 2 + arguments.start() if arguments else end, within=True)
        if "{" in name and "{" not in read:
            return None  # braces that are ordinary text
        self.draws = True
        return f"__{name[0] if name[0] in '~@' else ''}{read}{arguments[0] if arguments else ''}__", end + 2

    def _wildcard_end(self, place: int, last: int) -> int:
        """Where the __ that ends a name is; `place` where none does."""
        first = place
        while place < last and self.text[place] not in "}|\n\r":
            if place > first and self.text.startswith("__", place):
                return place
            if self.text[place] == "{":
                if place not in self.pairs:
                    return first
                place = self.pairs[place]
            place += 1
        return first

    def _bars(self, first: int, last: int) -> list[int]:
        return self._at_top("|", first, last)

    def _at_top(self, sought: str, first: int, last: int) -> list[int]:
        """Where it is, outside of any braces in between."""
        places = []
        while first < last:
            if self.text.startswith(sought, first):
                places.append(first)
            first = self.pairs.get(first, first) + 1
        return places
