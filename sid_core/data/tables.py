"""Rows of CSV and TSV files, each with the line it begins in; quotes that don't fit are refused, not guessed."""

import csv
from collections.abc import Iterator

from .text_files import TextFile, text_lines

RECORD_CHARACTERS = 4 << 20


def rows(file: TextFile, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) for each row that is not blank. Raises ValueError that names the line a quote was opened in."""
    lines = _Lines(file, delimiter)
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_record()
        try:
            row = next(table, None)
        except csv.Error as error:
            raise ValueError(lines.advice(str(error))) from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield lines.first, row


class _Lines:
    """The lines of a file, one after the other, and those of the row that is being read."""

    def __init__(self, file: TextFile, delimiter: str):
        self.name, self.delimiter = file.name, delimiter
        self.lines = text_lines(file)
        self.number = 0

    def begin_record(self) -> None:
        self.record: list[str] = []
        self.first, self.characters = self.number + 1, 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        self.record.append(line)
        self.characters += len(line)
        if self.characters > RECORD_CHARACTERS:  # other packs lift the limit that the csv module has
            raise csv.Error("field larger than field limit")
        return line

    def advice(self, error: str) -> str:
        opened = self._quote_opened()
        if opened and ("unexpected end" in error or "field larger" in error):
            return f'Close the " that opens a cell in line {opened} of {self.name}: the cell does not end.'
        if opened or len(self.record) > 1:
            return (
                f'Check the " from line {self.first} to line {self.number} of {self.name}: one is not closed, or text '
                'follows a closing one. Within quotes, " is written "".'
            )
        if "field larger" in error:
            return f"Shorten line {self.first} of {self.name}: a cell has more than {csv.field_size_limit():,} letters."
        return f'Mend line {self.first} of {self.name}: text follows a closing ", or the line ends in an unknown way.'

    def _quote_opened(self) -> int:
        """The line of the quote that the record's last open cell begins with; 0: no cell is open."""
        opened, at_start, inside = 0, True, False
        for number, line in enumerate(self.record, self.first):
            for letter in line:
                if inside:
                    inside = letter != '"'
                elif letter == '"' and (at_start or opened):
                    # A second quote goes on with the cell that the first one seemed to end.
                    inside, opened = True, number if at_start else opened
                else:
                    opened = 0
                at_start = not inside and letter in (self.delimiter, "\n", "\r")
        return opened if inside else 0
