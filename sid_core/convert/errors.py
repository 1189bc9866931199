"""What is said of a file from elsewhere that can't be used."""

from ..words import printable


class ForeignFileError(ValueError):
    """A file that can't be taken. The text: first what to do, then what was found."""


class UnusableError(Exception):
    """Why, as 'it …', where the file's name isn't known. advice: what to do instead, with {name} for the file."""

    def __init__(self, why: str, advice: str = "Use another file than {name}"):
        super().__init__(why)
        self.why = why
        self.advice = advice

    def about(self, name: str) -> ForeignFileError:
        """The error for the user. name: of the file, without its folder."""
        said = f"{self.advice.format(name=name)}: {self.why}."
        return ForeignFileError(printable(" ".join(said.split())))


def damaged(why: str) -> UnusableError:
    """The error for a file that only another copy of it can help."""
    return UnusableError(why, "Copy or download {name} again")
