"""Pairs out of folders, lists and wires: what is found, what is named where it is of no use, what is never read."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from sid_pack.sid_core.data.image_sources import entries
from sid_pack.sid_core.data.picture_set import Gathering


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def put(place, seed: int, caption: str | bytes | None = None, **options):
    place.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(place, **options)
    if caption is not None:
        beside = place.with_suffix(".txt")
        beside.write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    return place


def gathered(place, common: str = "", column: str = "caption") -> Gathering:
    gathering = Gathering(common)
    for entry in entries(place, column, lambda path: None, True):
        if entry.problem:
            gathering.skip(entry.file.name, entry.problem)
        else:
            gathering.add_file(entry.file, entry.caption, entry.origin)
    return gathering


def found(gathering: Gathering) -> list[tuple[bytes, str]]:
    """The values and the caption of each pair."""
    pairs = gathering.finish(scale_up=False)
    return [(pairs.pictures[i].image().tobytes(), pairs.captions[j]) for i, j in pairs.pairs.tolist()]


def shown(*seeds_and_captions: tuple[int, str]) -> list[tuple[bytes, str]]:
    return [(picture(seed).tobytes(), caption) for seed, caption in seeds_and_captions]


def described(text: str) -> dict:
    info = PngImagePlugin.PngInfo()
    info.add_text("Description", text)
    return {"pnginfo": info}


def test_a_folder_s_captions_are_beside_the_pictures_then_listed_then_within_them_then_common(tmp_path):
    put(tmp_path / "a.png", 1, "\ufeffbeside \n", **described("within"))
    put(tmp_path / "more" / "b.PNG", 2, **described("within"))
    put(tmp_path / "more" / "c.png", 3, **described("within"))
    put(tmp_path / "more" / "d.png", 4, " \n")
    (tmp_path / "more" / "metadata.csv").write_text('file_name,caption\nb.PNG,"listed, here"\nmissing.png,none\n')
    (tmp_path / "metadata.jsonl").write_text('{"other": 1}\n')  # of something else
    gathering = gathered(tmp_path, "common")
    assert found(gathering) == shown((1, "beside"), (2, "listed, here"), (3, "within"), (4, "common"))
    assert sum(gathering.origins.values()) == 4 and not gathering.skipped
    without = gathered(tmp_path)
    assert len(without) == 3
    assert without.skipped == [(f"{tmp_path.name}/more/d.png", "it has no caption")]


def test_two_captions_of_one_content_are_two_pairs_of_one_picture_and_repeats_are_counted(tmp_path):
    for name, caption in (("a", "one"), ("b", "two"), ("c", "one")):
        put(tmp_path / f"{name}.png", 1, caption)
    gathering = gathered(tmp_path)
    pairs = gathering.finish(False)
    assert found(gathering) == shown((1, "one"), (1, "two"))
    assert len(pairs.pictures) == 1 and gathering.repeated == 1
    assert str(pairs) == "2 text-image pairs"


@pytest.mark.parametrize("name", ["list.jsonl", "list.json", "list.csv", "list.tsv"])
def test_a_list_names_pictures_of_its_folder_alone(name, tmp_path):
    folder = tmp_path / "set"
    put(folder / "a.png", 1)
    put(folder / "more" / "b.png", 2)
    put(folder / "more" / "c.png", 3)
    put(tmp_path / "secret.png", 9)
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.symlink(tmp_path, folder / "up")
    rows = [
        ("a.png", " one "), ("more\\b.png", "two"), (str(folder / "more" / "c.png"), "three"), ("../secret.png", "x"),
        (str(tmp_path / "secret.png"), "x"), ("link.png", "x"), ("up/secret.png", "x"), ("more/../../secret.png", "x"),
        ("gone.png", "x"), ("", "x"), ("a.png", ""), ("a" * 5000, "x"), ("more", "x"),
    ]  # fmt: skip
    file = folder / name
    if name.endswith("json"):
        file.write_text(json.dumps([{"file_name": path, "caption": text} for path, text in rows]))
    elif name.endswith("jsonl"):
        file.write_text("\n".join(json.dumps({"file_name": path, "caption": text}) for path, text in rows))
    else:
        mark = "," if name.endswith("csv") else "\t"
        file.write_text("\n".join([mark.join(("file_name", "caption")), *map(mark.join, rows)]))
    gathering = gathered(file)
    assert found(gathering) == shown((1, "one"), (2, "two"), (3, "three"))
    assert len(gathering.skipped) == 10
    reasons = [why for _, why in gathering.skipped]
    assert reasons.count("its path is missing, or leads out of the list's folder") == 6
    assert all(f" of {name}" in who and "secret" not in who + why for who, why in gathering.skipped)


@pytest.mark.parametrize("path", ["\\ud800.png", "a\\u0000.png", 7, None, ["a.png"]])
def test_paths_that_are_none(path, tmp_path):
    put(tmp_path / "a.png", 1)
    text = f'"{path}"' if isinstance(path, str) else json.dumps(path)
    (tmp_path / "list.jsonl").write_text(
        f'{{"file": "a.png", "caption": "x"}}\n{{"file": {text}, "caption": "y"}}\n'
        '{"file": "a.png", "caption": ["z"]}\n{"file": "a.png", "caption": "\\ud800"}\n'
    )
    gathering = gathered(tmp_path / "list.jsonl")
    assert found(gathering) == shown((1, "x")) and len(gathering.skipped) == 3


def test_a_list_without_the_columns_says_which_it_has(tmp_path):
    (tmp_path / "list.csv").write_text("name,text\na.png,x\n")
    with pytest.raises(ValueError, match=r"paths file_name: line 1 of list.csv has none of .*; there are 'name', 'te"):
        gathered(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(ValueError, match="Name in column where the captions are: line 1 of list.csv has no 'caption'"):
        gathered(tmp_path / "list.csv")
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(ValueError, match="Name a folder of pictures instead of list.txt"):
        gathered(tmp_path / "list.txt")


def test_broken_files_and_captions_are_skipped_and_named(tmp_path):
    put(tmp_path / "a.png", 1, "fine")
    put(tmp_path / "b.png", 2, b"\xff\xfeb\0a\0d\0")
    whole = put(tmp_path / "c.jpg", 3, "cut").read_bytes()
    (tmp_path / "c.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.webp").write_bytes(b"not an image")
    (tmp_path / "d.txt").write_text("x")
    (tmp_path / "e.gif").write_bytes(b"")
    (tmp_path / "e.txt").write_text("x")
    os.mkfifo(tmp_path / "f.png")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    gathering = gathered(tmp_path)
    assert found(gathering) == shown((1, "fine"))
    skipped = {name.rpartition("/")[2]: why for name, why in gathering.skipped}
    assert skipped.keys() == {"b.png", "c.jpg", "d.webp", "e.gif"}
    assert "UTF-8" in skipped["b.png"] and "cut short" in skipped["c.jpg"]


def test_a_folder_of_broken_files_alone_an_empty_one_and_one_without_captions(tmp_path):
    with pytest.raises(FileNotFoundError, match="Put pictures into the folder"):
        gathered(tmp_path)
    (tmp_path / "a.png").write_bytes(b"broken")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match="Give pictures that can be used: there are none .*2x it is damaged"):
        gathered(tmp_path, "x").finish(False)
    put(tmp_path / "a.png", 1)
    with pytest.raises(ValueError, match=r"Put a .txt with a caption beside each picture"):
        gathered(tmp_path).finish(False)


def test_a_file_that_changes_after_it_was_looked_at_is_not_taken_for_what_it_was(tmp_path):
    file = put(tmp_path / "a.png", 1, "x")
    pairs = gathered(tmp_path).finish(False)
    put(file, 2)
    with pytest.raises(ValueError, match=r"Queue again, .*a.png is not what it was \(it has changed\)"):
        pairs.pictures[0].image()
    file.unlink()
    with pytest.raises(ValueError, match="a.png is not what it was"):
        pairs.pictures[0].image()


def test_the_digest_is_of_contents_captions_and_order_and_not_of_places(tmp_path):
    def digest(place, *contents: tuple[int, str], scale_up: bool = False) -> str:
        for i, (seed, caption) in enumerate(contents):
            put(tmp_path / place / f"{i}.png", seed, caption)
        return gathered(tmp_path / place).finish(scale_up).digest

    plain = digest("a", (1, "x"), (2, "y"))
    assert digest("elsewhere", (1, "x"), (2, "y")) == plain
    others = {digest("b", (1, "y"), (2, "x")), digest("c", (2, "y"), (1, "x")), digest("d", (1, "x"), (3, "y"))}
    others |= {digest("e", (1, "x")), digest("f", (1, "x"), (2, "y"), scale_up=True), digest("g", (1, "x"), (2, "y "))}
    assert others & {plain} == {plain} and len(others) == 6  # the last one's caption is the same, but for a space


def test_latents_and_pictures_of_wires():
    gathering = Gathering()
    latent = torch.randn(4, 3, 2)
    gathering.add_latent("latent 1", latent, "one")
    gathering.add_latent("latent 2", latent.clone(), "two")
    gathering.add_latent("latent 3", torch.full((4, 3, 2), float("nan")), "three")
    gathering.add_image("picture 1", torch.rand(4, 5, 3), "one")
    gathering.add_image("picture 2", torch.full((4, 5, 3), float("inf")), "one")
    pairs = gathering.finish(False)
    assert [tuple(pair) for pair in pairs.pairs.tolist()] == [(0, 0), (0, 1), (1, 0)]
    assert torch.equal(pairs.pictures[0].latent, latent) and pairs.pictures[0].size is None
    assert pairs.pictures[1].size == (5, 4)
    assert [name for name, _ in gathering.skipped] == ["latent 3", "picture 2"]
