"""Gather the pictures that the demo model learns: the same subjects in nine styles, drawn from icon sets on npm.

    pip install resvg-py==0.5.0
    python demo/gather_pictures.py

Needs npm on the PATH. Every package is pinned and checked by its SHA-256; what is there already is not fetched or drawn
again. Writes `.sid/pictures/pictures.safetensors` (135 MB), which the scripts that train and measure read with
`pictures.load_pictures`. demo/PICTURES.md names the sets, their authors and licences.
"""

import argparse
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pictures import FILE, STYLES, TILE, choose_held_out, notes_of
from PIL import Image
from safetensors.torch import save_file

FEWEST_STYLES = 4  # a subject in fewer tells little about style, and its caption has too few right answers
TONE = "(?:medium-)?(?:light|medium|dark)"
SKIN_TONE = re.compile(f"skin-tone|-{TONE}(?:-{TONE})*$")
NO_SKIN_TONE = ("police-car-light",)


@dataclass(frozen=True)
class IconSet:
    """One npm package of `@iconify-json`, and the word by which captions call its style."""

    style: str
    package: str
    sha256: str

    @property
    def tarball(self) -> str:
        return f"iconify-json-{self.package.replace('@', '-')}.tgz"


SETS = (
    IconSet("shaded", "noto@1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    IconSet("retro", "noto-v1@1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    IconSet("flat", "twemoji@1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    IconSet("modern", "fluent-emoji-flat@1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
    IconSet(
        "inked", "fluent-emoji-high-contrast@1.2.6", "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"
    ),
    IconSet("glossy", "emojione@1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    IconSet("woodcut", "emojione-monotone@1.2.1", "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"),
    IconSet("simple", "fxemoji@1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    IconSet("cartoon", "streamline-emojis@1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"),
)


class Icons:
    """What a package holds: SVG bodies by name, other names of the same, and the names of what is no subject."""

    def __init__(self, tarball: Path):
        with tarfile.open(tarball) as package:
            files = {name: json.load(package.extractfile(f"package/{name}.json")) for name in ("icons", "metadata")}
        self._icons = files["icons"]
        flags = set(files["metadata"]["categories"].get("Flags", ()))
        self.bodies = {
            name: icon for name, icon in self._icons["icons"].items() if is_subject(name) and name not in flags
        }
        # A mirrored picture is another picture, so that its name is not another name of this one.
        self.aliases = {
            name: alias["parent"]
            for name, alias in self._icons.get("aliases", {}).items()
            if set(alias) == {"parent"} and is_subject(name) and alias["parent"] in self.bodies
        }

    def svg(self, name: str) -> str:
        icon = {side: self._icons.get(side, 16) for side in ("width", "height")} | self.bodies[name]
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon['width']} {icon['height']}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
            f'width="{icon["width"]}" height="{icon["height"]}">{icon["body"]}</svg>'
        )


def is_subject(name: str) -> bool:
    return not name.startswith("flag-") and (name in NO_SKIN_TONE or not SKIN_TONE.search(name))


def letters(name: str) -> str:
    """A name as all sets would spell it: one of them writes 'hotairballoon'."""
    return re.sub("[^a-z0-9]", "", name.lower())


class Subjects:
    """Which names of which set mean the same subject: those spelt alike, and those that a set calls aliases."""

    def __init__(self, sets: dict[str, Icons]):
        self.sets = sets
        self._parents: dict[str, str] = {}
        apart = [{letters(name) for name in icons.bodies} for icons in sets.values()]
        for icons in sets.values():
            for alias, name in icons.aliases.items():
                pair = {letters(alias), letters(name)}
                # "rabbit" is not "rabbit face" where a set has both.
                if len(pair) == 2 and not any(pair <= drawn for drawn in apart):
                    self._join(*sorted(pair))

    def _join(self, a: str, b: str) -> None:
        a, b = self._root(a), self._root(b)
        if a != b:
            self._parents[a] = b

    def _root(self, key: str) -> str:
        while key in self._parents:
            key = self._parents[key]
        return key

    @cached_property
    def pictures(self) -> dict[str, dict[str, str]]:
        """Caption → {style: the set's name of it}, for subjects in FEWEST_STYLES or more."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        spelt: dict[str, Counter] = defaultdict(Counter)
        for style, icons in self.sets.items():
            for name in icons.bodies:
                root = self._root(letters(name))
                found[root].setdefault(style, name)
                spelt[root][name] += 1 + name.count("-") / 100  # of two as frequent, the one that parts its words
        kept = {root: styles for root, styles in found.items() if len(styles) >= FEWEST_STYLES}
        captions = {root: spelt[root].most_common(1)[0][0].replace("-", " ") for root in kept}
        return {captions[root]: styles for root, styles in sorted(kept.items(), key=lambda item: captions[item[0]])}


def fetch(sets: tuple[IconSet, ...], folder: Path) -> dict[str, Icons]:
    """The packages, by style. Raises SystemExit where npm is missing or a file is not the one that is pinned."""
    folder.mkdir(parents=True, exist_ok=True)
    if not shutil.which("npm") and any(not (folder / s.tarball).exists() for s in sets):
        raise SystemExit("Install Node.js, whose npm fetches the icon sets, and run this again.")
    read = {}
    for icon_set in sets:
        file = folder / icon_set.tarball
        if not file.exists():
            print(f"fetching {icon_set.package}", flush=True)
            line = ["npm", "pack", f"@iconify-json/{icon_set.package}", "--silent", "--pack-destination", str(folder)]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != icon_set.sha256:
            raise SystemExit(f"Delete {file} and run this again: its SHA-256 is {digest}, not {icon_set.sha256}.")
        read[icon_set.style] = Icons(file)
    return read


def draw(svg: str) -> np.ndarray:
    """(64, 64, 3) in bytes, on white, in the middle where it is not square."""
    import resvg_py

    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * TILE, height=2 * TILE))))
    drawn = drawn.convert("RGBA")
    canvas = Image.new("RGBA", (2 * TILE, 2 * TILE), "white")
    canvas.alpha_composite(drawn, ((2 * TILE - drawn.width) // 2, (2 * TILE - drawn.height) // 2))
    return np.asarray(canvas.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    if args.out.exists():
        print(f"{args.out} is there already. Delete it to draw it again.")
        return
    sets = fetch(SETS, args.out.parent / "packages")
    assert tuple(sets) == STYLES
    captions = Subjects(sets).pictures
    drawings = [
        (subject, style, name) for subject, styles in enumerate(captions.values()) for style, name in styles.items()
    ]
    subjects = torch.tensor([subject for subject, _, _ in drawings])
    styles = torch.tensor([STYLES.index(style) for _, style, _ in drawings])
    images = []
    for count, (_, style, name) in enumerate(drawings):
        images.append(draw(sets[style].svg(name)))
        if count % 1000 == 0:
            print(f"{count} of {len(drawings)} drawn", flush=True)
    tensors = {
        "images": torch.from_numpy(np.stack(images)),
        "subjects": subjects,
        "styles": styles,
        "held_out": choose_held_out(list(captions), subjects, styles),
    }
    unfinished = args.out.with_suffix(".tmp")
    save_file(tensors, unfinished, notes_of(list(captions)))
    unfinished.replace(args.out)
    print(f"{len(captions)} subjects, {len(images)} pictures in {args.out}")


if __name__ == "__main__":
    main()
