"""Words between the pack and its users: what it says, in a form that anything can show, and the one log that it is said
in; and paths as people write them."""

import logging
import sys

LONGEST = 2_000  # characters; a browser's dialog shows some 20 lines of them
LONGEST_PATH = 80


def printable(text: object, encoding: str = "utf-8") -> str:
    """The text with what can't be shown written as an escape, and the middle left out where it is long.

    Half characters, as file names of another encoding have, can't be sent as UTF-8, and control characters do things to
    a terminal. encoding: also what this one lacks is replaced.
    """
    shown = "".join(letter if letter.isprintable() or letter in "\n\t" else _escaped(letter) for letter in str(text))
    shown = shown.encode(encoding, "replace").decode(encoding)
    if len(shown) <= LONGEST:
        return shown
    half = (LONGEST - 3) // 2
    return f"{shown[:half]} … {shown[-half:]}".encode(encoding, "replace").decode(encoding)


def quoted(path: str) -> str:
    """A path in quotes; of a long one the end, where the file is."""
    return repr(path if len(path) <= LONGEST_PATH else f"…{path[-LONGEST_PATH:]}")


def unquoted(text: str) -> str:
    """A path as it was meant: without the quotes that Windows' "Copy as path" sets, and the spaces around."""
    text = text.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


class _Printable(logging.Filter):
    """Makes each record printable on the console that ComfyUI's log goes to, and says whose it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        record.msg, record.args = printable(f"SiD: {record.getMessage()}", encoding), ()
        return True


log = logging.getLogger("sid")
log.addFilter(_Printable())
