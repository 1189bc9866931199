"""Write the archive that the Registry publishes, and say what is in it. From the repository's root:

    python dev/archive.py              says what would be in it
    python dev/archive.py PACK.zip     writes it

As the Registry's own program does, it takes what git tracks and leaves out what .comfyignore names.
"""

import argparse
import io
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IGNORED = ".comfyignore"


def files(root: Path = ROOT) -> list[Path]:
    """Those of the archive, from `root` on. Raises RuntimeError where git does not answer."""
    left_out = _listed(root, "--ignored", f"--exclude-from={IGNORED}")
    return sorted(_listed(root) - left_out)


def write(archive: io.BufferedIOBase, names: list[Path], root: Path = ROOT) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.write(root / name, name.as_posix())


def _listed(root: Path, *options: str) -> set[Path]:
    line = ["git", "-C", str(root), "ls-files", "-z", "--cached", *options]
    answer = subprocess.run(line, capture_output=True, text=True, encoding="utf-8")
    if answer.returncode:
        raise RuntimeError(f"Run this in a clone of the repository, with git installed: {answer.stderr.strip()}")
    return {Path(name) for name in answer.stdout.split("\0") if name and (root / name).is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?", metavar="PACK.zip")
    options = parser.parse_args()
    names, packed = files(), io.BytesIO()
    write(packed, names)
    sizes = Counter()
    for name in names:
        sizes[name.parts[0]] += (ROOT / name).stat().st_size
    for part, size in sizes.most_common():
        print(f"{size / 1e6:8.2f} MB  {part}")
    print(f"{sizes.total() / 1e6:8.2f} MB  in {len(names)} files; {len(packed.getvalue()) / 1e6:.2f} MB as an archive")
    if options.archive:
        options.archive.write_bytes(packed.getvalue())


if __name__ == "__main__":
    sys.exit(main())
