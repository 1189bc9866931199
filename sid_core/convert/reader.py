"""Numbers, names and bytes out of a pickle, one after the other: never beyond its end, and no bytes are copied."""

from .errors import damaged

LONGEST_LINE = 1_000  # bytes of a name or number written as text
LARGEST_PIECE = 1 << 20
FIRST_PIECE = 256  # bytes in which a line's end is looked for, then twice as many


class Reader:
    """A position in bytes. What it gives are views on them."""

    def __init__(self, view: memoryview):
        self.view = view
        self.position = 0

    def take(self, count: int) -> memoryview:
        """The next bytes. Raises UnusableError where there are fewer."""
        if not 0 <= count <= len(self.view) - self.position:
            raise damaged("it ends in the middle, or claims to hold more than it does")
        self.position += count
        return self.view[self.position - count : self.position]

    def byte(self) -> int:
        """The next one as a number."""
        if self.position >= len(self.view):
            raise damaged("it ends in the middle")
        self.position += 1
        return self.view[self.position - 1]

    def number(self, width: int, signed: bool = False) -> int:
        """A whole number of so many bytes, the least first."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> memoryview:
        """Up to the next line feed, without it."""
        start = begin = self.position
        piece = FIRST_PIECE
        while begin < len(self.view):
            found = bytes(self.view[begin : begin + piece]).find(b"\n")
            if found >= 0:
                self.position = begin + found + 1
                return self.view[start : begin + found]
            begin += piece
            piece = min(2 * piece, LARGEST_PIECE)
        raise damaged("it ends in the middle of a line")

    def word(self) -> str:
        """A line that is a name or a number."""
        line = self.line()
        if len(line) > LONGEST_LINE:
            raise damaged(f"it has a name of {len(line):,} bytes")
        return decoded(line)


def decoded(view: memoryview) -> str:
    """Text in UTF-8, in which lone half characters are let through, as pickles do."""
    try:
        return str(view, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise damaged("it has a text that is none") from error
