"""SiD Images in a real ComfyUI, and the real pictures that SiD Distill makes of them."""

import numpy as np
import pytest
import torch
from graphs import distilled, node
from PIL import Image


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def folder_of(place, count: int, width: int = 64, height: int = 64, kind: str = "png"):
    place.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(i, width, height).save(place / f"{i:02}.{kind}")
        (place / f"{i:02}.txt").write_text(f"picture {i}\n")
    return place


def images(folder="", **changes) -> dict:
    return node(
        "SiDImages",
        **({"folder": str(folder), "column": "caption", "common_caption": "", "small_pictures": "leave out"} | changes),
    )


def looked_at(**nodes) -> dict:
    return {**nodes, "shown": node("PreviewAny", source=["images", 2])}


def pairs_of(result) -> list[tuple[bytes, str]]:
    """(digest, caption) of each pair."""
    assert result.success, result.error
    found = result.value("images")
    return [(found.pictures[i].digest, found.captions[j]) for i, j in found.pairs.tolist()]


@pytest.fixture
def used(monkeypatch, comfyui):
    """The buckets that distillations have trained on."""
    from sid_pack.nodes.training import distill

    given, plain = [], distill.Training

    def training(**facts):
        given.append(facts["buckets"])
        return plain(**facts)

    monkeypatch.setattr(distill, "Training", training)
    return given


@pytest.fixture
def encoded(monkeypatch, comfyui):
    """How many pictures have gone through a VAE's encoder."""
    import comfy.sd

    seen, plain = [], comfy.sd.VAE.encode

    def encode(vae, pixels):
        seen.append(pixels.clone())
        return plain(vae, pixels)

    monkeypatch.setattr(comfy.sd.VAE, "encode", encode)
    return seen


def trained(folder, name: str, *, options: dict | None = None, **changes) -> dict:
    changes = {"vae": ["demo", 2], "images": ["images", 0], "iterations": 1} | changes
    return {**distilled(run_name=name, **changes), "images": images(folder, **(options or {}))}


def test_a_folder_is_given_to_the_training_as_its_vae_encodes_it(run_graph, used, tmp_path):
    folder = folder_of(tmp_path / "a", 3)
    result = run_graph(trained(folder, "real"))
    assert result.success, result.error
    (bucket,) = used[0]
    assert len(bucket.images) == 3
    latents, cond = bucket.images.batch(torch.tensor([2, 0]))
    vae, clip, model = result.value("demo", 2), result.value("demo", 1), result.value("demo")
    for row, i in enumerate((2, 0)):
        pixels = torch.from_numpy(np.asarray(picture(i)).astype(np.float32) / 255)[None]
        with torch.inference_mode():
            alone = model.model.process_latent_in(vae.encode(pixels))
            text = clip.encode_from_tokens_scheduled(clip.tokenize(f"picture {i}"))[0][0]
        assert torch.equal(latents[row], alone[0])
        assert torch.equal(cond["c_crossattn"][row], text[0])
