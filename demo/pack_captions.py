"""Write `assets/emoji_names.txt`, the prompts that students are distilled on: captions of the training.

    python demo/pack_captions.py

Of each subject the plain caption and two with a style, so that a third is without one, as in the teacher's training.
"""

import random

from pictures import ASSETS, TRAINING, Pictures, load_pictures

FILE = ASSETS / "emoji_names.txt"
STYLED = 2
HEADER = "# What the demo model knows: emoji by their Unicode names, with a style or without.\n"


def training_captions(pictures: Pictures) -> list[str]:
    """In alphabetical order; the same ones every time."""
    drawn = random.Random(0)
    of_subject: dict[int, list[int]] = {}
    for index in pictures.where(TRAINING).tolist():
        of_subject.setdefault(int(pictures.subjects[index]), []).append(index)
    captions = []
    for indices in of_subject.values():
        captions.append(pictures.caption(indices[0], styled=False))
        captions += [pictures.caption(index) for index in drawn.sample(indices, min(STYLED, len(indices)))]
    return sorted(captions)


def main() -> None:
    captions = training_captions(load_pictures())
    FILE.write_text(HEADER + "\n".join(captions) + "\n", encoding="utf-8")
    print(f"{len(captions)} captions in {FILE}")


if __name__ == "__main__":
    main()
