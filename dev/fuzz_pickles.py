"""`python -m dev.fuzz_pickles --minutes 10 --seed 1`: damages pickles at random, to find one that isn't refused well.

Needs the environment of `python dev/test.py`. What is wanted of each file: the network or one ForeignFileError, no
audit event but the reading itself, no more memory than twice the file and a constant, and where PyTorch's own reader of
plain tensors takes the file as well, the same tensors. What fails is written to a folder, by the numbers that make it.
"""

import argparse
import io
import os
import pickletools
import random
import re
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import hostile_containers  # noqa: E402
import hostile_pickles  # noqa: E402
from pickle_parts import zip_parts, zipped  # noqa: E402

from sid_core.convert.errors import ForeignFileError  # noqa: E402
from sid_core.convert.pickles import read_pickle  # noqa: E402
from sid_core.words import printable  # noqa: E402

LONGEST = 5_000  # bytes of the files that are begun with
SLOWEST = 10  # seconds of the processor
NUMBERS = [
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    *(2**power + more for power in (31, 32, 62, 63) for more in (-1, 0)),
]

_events: list[str] | None = None
_allowed = ""


def _note(event: str, arguments: tuple) -> None:
    if _events is None or event in ("mmap.__new__", "builtins.id"):
        return
    is_reading = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not (is_reading and str(arguments[0]) == _allowed):
        _events.append(f"{event} {arguments!r:.200}")


def seeds() -> list[bytes]:
    """Whole files of each form, and all small hostile ones."""
    good = list(hostile_containers.CUT.values())
    cases = (hostile_pickles.CASES | hostile_containers.CASES).values()
    return [*good * 40, *(case.content for case in cases if len(case.content) <= LONGEST)]


def damaged(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """One to six random changes. A zip file's parts are changed and packed again as often as the file itself is."""
    if content.startswith(b"PK") and draw.random() < 0.5:
        try:
            parts = zip_parts(content)
        except Exception:  # noqa: BLE001  it was no whole zip file
            parts = {}
        if parts:
            part = draw.choice([name for name in parts if name.endswith(".pkl")] or list(parts))
            return zipped(parts | {part: damaged(parts[part], others, draw)})
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        _change(changed, others, draw)
    return bytes(changed)


def _change(content: bytearray, others: list[bytes], draw: random.Random) -> None:
    at, length = draw.choice(_places(bytes(content))), draw.choice((1, 1, 2, 4, 8, 40))
    how = draw.randrange(8)
    if how == 0 and at < len(content):
        content[at] ^= 1 << draw.randrange(8)
    elif how == 1 and at < len(content):
        content[at] = draw.choice(OPERATIONS)
    elif how == 2:
        content[at:at] = bytes(draw.choice(OPERATIONS) for _ in range(length // 8 + 1))
    elif how == 3:
        del content[at : at + length]
    elif how == 4:
        content[at:at] = content[at : at + length] * draw.choice((1, 2, 100))
    elif how == 5:
        width, form = draw.choice(((1, "<B"), (2, "<H"), (4, "<I"), (8, "<Q")))
        content[at : at + width] = struct.pack(form, draw.choice(NUMBERS) & (1 << 8 * width) - 1)
    elif how == 6:
        other = draw.choice(others)
        start = draw.randrange(len(other) + 1)
        content[at : at + draw.choice((0, length))] = other[start : start + 4 * length]
    else:
        other = draw.choice(others)
        content[at:] = other[draw.randrange(len(other) + 1) :]


def _places(content: bytes) -> list[int]:
    """Where to change: before any operation of a pickle, or at any byte, each half of the time where both are."""
    anywhere = list(range(len(content) + 1))
    between = []
    try:
        between.extend(place for _, _, place in pickletools.genops(content))
    except Exception:  # noqa: BLE001  damaged before: those until there
        between = between or [0]
    return anywhere + between * (len(anywhere) // max(len(between), 1))


OPERATIONS = b"(.012FIJKLMNPQRSTUVXabcde}ghijl]oprst)uGBC" + bytes(range(0x80, 0x99))


def look(path: Path, content: bytes) -> tuple[str, str]:
    """(what came of it, what is wrong with that, if anything)"""
    global _events
    path.write_bytes(content)
    started = time.process_time()
    tensors = {}
    _events = events = []
    try:
        tensors = dict(read_pickle(path).tensors)
        outcome = "read"
    except ForeignFileError as error:
        outcome = str(error)
        wrong = "" if outcome.isprintable() and path.name in outcome and ": it" in outcome else "odd words"
    except Exception as error:  # noqa: BLE001  that is what is looked for
        outcome = wrong = f"{type(error).__name__}: {error}"
    finally:
        _events = None
    if outcome == "read":
        wrong = (
            "" if sum(t.nbytes for t in tensors.values()) <= 2 * len(content) + (1 << 20) else "larger than the file"
        )
        wrong = wrong or _differs(path, tensors)
    if time.process_time() - started > SLOWEST:
        wrong = f"took {time.process_time() - started:.0f} s"
    return outcome, wrong or "; ".join(events)


def _differs(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    """What PyTorch's reader of plain tensors reads otherwise."""
    for tensor in tensors.values():
        tensor.clone()
    try:
        expected = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  it takes less: no calls that nothing comes of, no plain pickles
        return ""
    if not isinstance(expected, dict):
        return ""
    for name, tensor in expected.items():
        if name in tensors and isinstance(tensor, torch.Tensor):
            same = tensor.dtype == tensors[name].dtype and tensor.shape == tensors[name].shape
            if not same or not torch.equal(tensor.nan_to_num(), tensors[name].nan_to_num()):
                return f"PyTorch has another {name}"
    return ""


def main() -> int:
    """Look for so many minutes; the exit code says whether anything was found."""
    global _allowed
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz_found"), help="a folder for files that fail")
    asked = parser.parse_args()
    begun_with, outcomes, number, found = seeds(), Counter(), 0, 0
    end = time.monotonic() + 60 * asked.minutes
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed"
        _allowed = str(path)
        for content in hostile_containers.CUT.values():  # all that is imported once
            look(path, content)
        printable("\0")
        sys.addaudithook(_note)
        while time.monotonic() < end:
            number += 1
            draw = random.Random(f"{asked.seed} {number}")
            content = damaged(draw.choice(begun_with), begun_with, draw)
            outcome, wrong = look(path, content)
            outcomes[re.sub(r"'.*'|0x..|[\d,]+", "…", outcome)[:80]] += 1
            if wrong:
                found += 1
                asked.found.mkdir(exist_ok=True)
                (asked.found / f"{asked.seed}_{number}").write_bytes(content)
                print(f"{asked.seed} {number}: {wrong:.300}", flush=True)
    print(f"{number:,} files, {outcomes['read']:,} of them read, {found} found; {peak_mb():.0f} MB at most.")
    for outcome, count in outcomes.most_common(60):
        print(f"{count:9,}  {outcome}")
    return found > 0


def peak_mb() -> float:
    """This process's largest memory so far, PyTorch itself included; 0 where that isn't told."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return 0.0
    return getrusage(RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    sys.exit(main())
