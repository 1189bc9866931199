"""What a file is, by its first and last bytes, whatever its name says; and what its user is to do with it."""

import re
from pathlib import Path

from .errors import ForeignFileError
from .zip_entries import TAIL, find_end

SAFETENSORS = "safetensors"
SAFETENSORS_CUT = "safetensors, cut short"
TORCH_ZIP = "torch zip"
TORCH_LEGACY = "torch legacy"
TORCH_TAR = "torch tar"
PICKLE = "pickle"
ZIP = "zip"
ZIP_CUT = "zip, cut short"
GGUF = "gguf"
HTML = "web page"
LFS_POINTER = "git lfs pointer"
ARCHIVE = "archive"
JSON = "json"
EMPTY = "empty"
FOLDER = "folder"
MISSING = "missing"
NO_FILE = "no file"
UNKNOWN = "unknown"

# What read_pickle reads.
PICKLES = (TORCH_ZIP, TORCH_LEGACY, PICKLE)

ADVICE = {
    SAFETENSORS: "Open {name} as safetensors: it is that, whatever its name says.",
    SAFETENSORS_CUT: "Download {name} again: it is a safetensors file that is cut short.",
    TORCH_ZIP: "Convert {name} to safetensors: it is a file of torch.save, which may hold code.",
    TORCH_LEGACY: "Convert {name} to safetensors: it is a file of torch.save before PyTorch 1.6, which may hold code.",
    TORCH_TAR: "Save {name} again with a newer PyTorch: it is in the tar form of before 0.1.10, which isn't read here.",
    PICKLE: "Convert {name} to safetensors: it is a pickle, which may hold code.",
    ZIP: "Unpack {name} first: it is a zip archive that PyTorch has not written.",
    ZIP_CUT: "Download {name} again: it is a zip archive, as torch.save writes, that is cut short.",
    GGUF: "Choose another file than {name}: it is quantized (GGUF), which can be neither converted nor trained.",
    HTML: "Download {name} again, from the link to the file itself: it is a web page.",
    LFS_POINTER: "Get the file itself with `git lfs pull`: {name} is a Git LFS pointer to it.",
    ARCHIVE: "Unpack {name} first: it is a compressed archive.",
    JSON: "Choose the file of the weights instead of {name}: it is JSON, as a description or a server's error is.",
    EMPTY: "Download {name} again: it is empty.",
    FOLDER: "Choose a file in the folder {name}, or a folder in diffusers' layout: it is a folder.",
    MISSING: "Choose another file than {name}: there is none of this name.",
    NO_FILE: "Choose a file instead of {name}: it is a device or a pipe.",
    UNKNOWN: "Choose another file than {name}: it is none of safetensors, torch.save's or a pickle.",
}

FIRST = 1024  # bytes that are looked at
CONTENT = b"data.pkl"  # in torch.save's zip files, nearly always the first part
TAR_PARTS = (b"sys_info", b"pickle", b"tensors", b"storages")
PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
HEADER_LENGTH = 8  # bytes before a safetensors header
LONGEST_HEADER = 100_000_000  # bytes, by the format
OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*\d{1,20}\s*,\s*(\d{1,20})\s*\]')
# A pickle of the number that torch_files.LEGACY is.
LEGACY_START = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.", re.S)
# Protocols before the second begin with what they hold: a dict, a list, or the name of a class.
OLD_PICKLE = re.compile(rb"(\(|[\]}]q|\(?[dl](p\d+)?\n|\(?c[A-Za-z_][\w.]*\n[\w.]+\n|\(?i[A-Za-z_][\w.]*\n[\w.]+\n)")
STARTS = (
    (b"version https://git-lfs", LFS_POINTER),
    (b"GGUF", GGUF),
    (b"\x1f\x8b", ARCHIVE),
    (b"BZh", ARCHIVE),
    (b"\xfd7zXZ\x00", ARCHIVE),
    (b"\x28\xb5\x2f\xfd", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"Rar!", ARCHIVE),
    (b"<", HTML),
    (b"{", JSON),
    (b"[", JSON),
)


def kind_of(path: Path) -> str:
    """One of the kinds above. Raises ForeignFileError where the file can't be read."""
    if path.is_dir():
        return FOLDER
    if not path.is_file():  # a pipe would be waited for
        return NO_FILE if path.exists() else MISSING
    try:
        with path.open("rb") as file:
            start = file.read(FIRST)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(size - TAIL, 0))
            return _kind(start, file.read(TAIL), size, path)
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise ForeignFileError(f"Choose a file that can be read instead of {path.name}: {said}.") from error


def advice(path: Path, kind: str) -> str:
    """What the user is to do with a file of this kind, and what it is: one sentence, with the file's name."""
    return ADVICE[kind].format(name=path.name)


def _kind(start: bytes, tail: bytes, size: int, path: Path) -> str:
    if not start:
        return EMPTY
    if start[4:8] == bytes(4) and start[8:9] == b"{":
        return _safetensors(start, size, path)
    if start.startswith(b"PK"):
        return _zip(start, tail)
    if LEGACY_START.match(start):
        return TORCH_LEGACY
    if start[257:262] == b"ustar":
        first_name = start[:100].partition(b"\0")[0].removeprefix(b"./").strip(b"/")
        return TORCH_TAR if first_name in TAR_PARTS else ARCHIVE
    if start[:1] == b"\x80" and start[1:2] in PROTOCOLS:
        return PICKLE
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
    known = (kind for first, kind in STARTS if text.startswith(first))
    return next(known, PICKLE if OLD_PICKLE.match(start) else UNKNOWN)


def _safetensors(start: bytes, size: int, path: Path) -> str:
    end = HEADER_LENGTH + int.from_bytes(start[:HEADER_LENGTH], "little")
    if end > size:
        return SAFETENSORS_CUT
    if end > LONGEST_HEADER:
        return UNKNOWN
    with path.open("rb") as file:
        header = file.read(end)
    claimed = max((int(found[1]) for found in OFFSETS.finditer(header)), default=0)
    return SAFETENSORS_CUT if end + claimed > size else SAFETENSORS


def _zip(start: bytes, tail: bytes) -> str:
    if find_end(tail) < 0:
        return ZIP_CUT
    return TORCH_ZIP if CONTENT in start or CONTENT in tail else ZIP
