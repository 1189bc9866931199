"""SiD Images in a real ComfyUI, and the real pictures that SiD Distill makes of them."""

import zlib

import numpy as np
import pytest
import torch
from graphs import distilled, node, training_options
from PIL import Image


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def folder_of(place, count: int, width: int = 64, height: int = 64):
    """Pictures that no folder of another name has: what is encoded is kept from one test to the next."""
    place.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(zlib.crc32(place.name.encode()) + i, width, height).save(place / f"{i:02}.png")
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
    changes = {"vae": ["demo", 2], "images": ["images", 0], "options": ["weight", 0], "iterations": 1} | changes
    weight = training_options(adversarial_weight=1e-3)
    return {**distilled(run_name=name, **changes), "images": images(folder, **(options or {})), "weight": weight}


def test_a_folder_is_given_to_the_training_as_its_vae_encodes_it(run_graph, used, tmp_path):
    folder = folder_of(tmp_path / "a", 3)
    result = run_graph(trained(folder, "real"))
    assert result.success, result.error
    (bucket,) = used[0]
    assert len(bucket.images) == 3
    latents, cond = bucket.images.batch(torch.tensor([2, 0]))
    vae, clip, model = result.value("demo", 2), result.value("demo", 1), result.value("demo")
    for row, i in enumerate((2, 0)):
        with Image.open(folder / f"{i:02}.png") as stored:
            pixels = torch.from_numpy(np.asarray(stored).astype(np.float32) / 255)[None]
        with torch.inference_mode():
            alone = model.model.process_latent_in(vae.encode(pixels))
            text = clip.encode_from_tokens_scheduled(clip.tokenize(f"picture {i}"))[0][0]
        assert torch.equal(latents[row], alone[0])
        assert torch.equal(cond["c_crossattn"][row], text[0])


def test_pictures_are_encoded_once_and_a_damaged_shard_is_made_again(run_graph, used, encoded, tmp_path, comfyui):
    folder = folder_of(tmp_path / "once", 5)
    first = run_graph(trained(folder, "once"))
    assert first.success, first.error
    assert len(encoded) == 5
    assert run_graph(trained(folder, "once more")).success
    assert len(encoded) == 5
    picture(50).save(folder / "03a.png")  # in the middle of the list: the others keep what they have
    (folder / "03a.txt").write_text("another")
    assert run_graph(trained(folder, "grown")).success
    assert len(encoded) == 6
    latents = used[0][0].images.latents
    file = latents.files._places[latents.digests[2]][0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    rows = torch.arange(5)
    mended = used[0][0].images.batch(rows)[0]
    assert len(encoded) == 11
    assert torch.equal(mended, used[2][0].images.batch(torch.tensor([0, 1, 2, 3, 5]))[0])


def test_each_picture_goes_to_the_size_of_its_aspect_and_small_ones_are_left_out(run_graph, used, tmp_path, caplog):
    folder_of(tmp_path / "sizes", 2, 64, 64)
    folder_of(tmp_path / "sizes" / "wide", 3, 200, 100)
    folder_of(tmp_path / "sizes" / "small", 1, 30, 60)
    result = run_graph(trained(tmp_path / "sizes", "sizes", more_sizes="96x48, 48x96"))
    assert result.success, result.error
    square, wide, tall = used[0]
    assert len(square.images) == 2 and len(wide.images) == 3 and tall.images is None
    assert wide.images.batch(torch.tensor([0, 2]))[0].shape == (2, *wide.latent_shape)
    assert "1 of 6 pictures of SiD Images are left out" in caplog.text
    assert "pictures of about the shape of 48x96" in caplog.text
    options = {"small_pictures": "scale up"}
    assert run_graph(trained(tmp_path / "sizes", "up", more_sizes="96x48, 48x96", options=options)).success
    assert len(used[1][2].images) == 1


def test_what_can_t_be_trained_on_is_said_before_anything_is_encoded(run_graph, encoded, tmp_path):
    folder = folder_of(tmp_path / "a", 2, 40, 40)
    small = run_graph(trained(folder, "small"))
    assert not small.success and "small_pictures to 'scale up'" in small.error and "64x64" in small.error
    folder_of(tmp_path / "b", 2)
    graph = trained(tmp_path / "b", "no vae")
    del graph["distilled"]["inputs"]["vae"]
    result = run_graph(graph)
    assert not result.success and "Connect the model's VAE to vae" in result.error
    assert not encoded


def test_what_was_found_is_said_on_the_node_and_all_that_was_left_out_in_the_log(run_graph, tmp_path, caplog):
    folder = folder_of(tmp_path / "told", 3)
    for name in "abcd":
        (folder / f"{name}.png").write_bytes(b"broken")
    result = run_graph(looked_at(images=images(folder)))
    assert result.value("images", 2) == 3 and list(result.value("images", 1)) == [f"picture {i}" for i in range(3)]
    first, second = result.outputs["images"]["text"]
    assert first == "3 text-image pairs: 3 pictures, 3 captions (3 from a .txt beside them)"
    assert second.startswith("⚠ 4 left out: told/a.png (it is damaged") and second.endswith("; the log names all")
    assert all(f"told/{name}.png" in caplog.text for name in "abcd")
    (folder / "new.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "new.txt").write_text("once more")
    assert len(pairs_of(run_graph(looked_at(images=images(folder))))) == 4


def test_comfyui_s_own_dataset_nodes_give_pictures_latents_and_texts(run_graph, used, encoded, comfyui):
    folder_of(comfyui.base_directory / "input" / "own", 3)
    nodes = {
        "loaded": node("LoadImageTextDataSetFromFolder", folder="own"),
        "made": node("MakeTrainingDataset", images=["loaded", 0], vae=["demo", 2], clip=["demo", 1]),
        "images": images(images=["loaded", 0], latents=["made", 0], texts=["loaded", 1]),
    }
    graph = trained("", "own") | nodes
    refused = run_graph(graph)
    assert not refused.success and "as many texts or conditioning as pictures" in refused.error
    del graph["images"]["inputs"]["latents"]
    result = run_graph(graph)
    assert result.success, result.error
    pictures = used[0][0].images
    assert sorted(result.value("images", 1)) == [f"picture {i}" for i in range(3)]  # in any order, as the host lists
    graph["images"]["inputs"]["latents"] = ["made", 0]
    del graph["images"]["inputs"]["images"]
    encoded.clear()
    result = run_graph(graph)
    assert result.success, result.error
    rows = torch.arange(3)
    assert torch.equal(used[1][0].images.batch(rows)[0], pictures.batch(rows)[0])
    assert torch.equal(used[1][0].images.batch(rows)[1]["c_crossattn"], pictures.batch(rows)[1]["c_crossattn"])


def test_captions_that_are_encoded_already_are_those_of_their_pictures_beside_texts_of_a_folder(
    run_graph, used, comfyui, tmp_path
):
    folder_of(comfyui.base_directory / "input" / "encoded", 3)
    folder_of(tmp_path, 2)
    nodes = {
        "loaded": node("LoadImageTextDataSetFromFolder", folder="encoded"),
        "made": node(
            "MakeTrainingDataset", images=["loaded", 0], vae=["demo", 2], clip=["demo", 1], texts=["loaded", 1]
        ),
        "images": images(tmp_path, images=["loaded", 0], conditioning=["made", 1]),
    }
    graph = trained("", "encoded") | nodes
    result = run_graph(graph)
    assert result.success, result.error
    pairs = used[0][0].images
    del graph["images"]["inputs"]["conditioning"]
    graph["images"]["inputs"]["texts"] = ["loaded", 1]
    result = run_graph(graph)
    assert result.success, result.error
    expected, rows = used[1][0].images, torch.tensor([4, 0, 3, 1, 2])
    assert len(pairs) == len(expected) == 5
    assert torch.equal(pairs.batch(rows)[0], expected.batch(rows)[0])
    assert torch.equal(pairs.batch(rows)[1]["c_crossattn"], expected.batch(rows)[1]["c_crossattn"])
    graph["images"]["inputs"]["conditioning"] = ["made", 1]
    refused = run_graph(graph)
    assert not refused.success and "texts or conditioning, not both" in refused.error


def test_latents_of_another_model_are_refused(run_graph):
    graph = trained("", "channels")
    graph["images"]["inputs"] |= {"latents": ["latent", 0], "common_caption": "a face"}
    result = run_graph(graph)  # the stock empty latent has 4 channels, and the demo's have 32
    assert not result.success and "4 channels" in result.error and "latents of the model's own VAE" in result.error


def test_a_run_goes_on_with_the_same_pictures_alone(run_graph, tmp_path):
    folder = folder_of(tmp_path / "same", 3)
    assert run_graph(trained(folder, "identity")).success
    folder.rename(tmp_path / "moved")
    on = {"existing_run": "continue it", "iterations": 2}
    assert run_graph(trained(tmp_path / "moved", "identity", **on)).success
    (tmp_path / "moved" / "01.txt").write_text("otherwise")
    other = run_graph(trained(tmp_path / "moved", "identity", **on | {"iterations": 3}))
    assert not other.success and "images: " in other.error


def test_cancel_keeps_the_pictures_that_were_encoded(run_graph, encoded, tmp_path, monkeypatch):
    import comfy.model_management

    folder = folder_of(tmp_path / "cancel", 6)
    plain = comfy.model_management.throw_exception_if_processing_interrupted

    def cancel_late():
        if len(encoded) == 4:
            comfy.model_management.interrupt_current_processing()
        plain()

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancel_late)
    assert not run_graph(trained(folder, "cancelled pictures")).success
    assert len(encoded) == 4
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", plain)
    assert run_graph(trained(folder, "cancelled pictures")).success
    assert len(encoded) == 6


def test_too_small_a_disk_is_said_before_a_picture_is_encoded(run_graph, encoded, tmp_path, monkeypatch):
    from sid_pack.nodes.training import real_pictures

    folder = folder_of(tmp_path / "full", 2)
    monkeypatch.setattr(real_pictures.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    result = run_graph(trained(folder, "full of pictures"))
    assert not result.success and "pictures of 64x64 take" in result.error and not encoded


def test_other_machines_get_nothing_from_outside_of_the_input_folder(run_graph, comfyui, tmp_path, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "listen", "0.0.0.0")
    outside = folder_of(tmp_path / "outside", 1)
    for name in (str(outside), "../outside"):
        result = run_graph(looked_at(images=images(name)))
        assert not result.success and "into ComfyUI's input folder" in result.error
    inside = folder_of(comfyui.base_directory / "input" / "inside", 1)
    (inside / "link").symlink_to(outside)
    result = run_graph(looked_at(images=images("inside")))
    assert not result.success and str(tmp_path) not in result.error
    (inside / "link").unlink()
    assert len(pairs_of(run_graph(looked_at(images=images("inside"))))) == 1


def test_what_a_list_names_is_looked_at_again_whatever_it_is_called(run_graph, tmp_path):
    """As `.jfif`, which browsers save as, or without an ending: a change of it is a change of the node."""
    from sid_pack.nodes.training.images import SiDImages

    picture(1).save(tmp_path / "a.jfif", "JPEG")
    (tmp_path / "list.jsonl").write_text('{"file_name": "a.jfif", "caption": "one"}\n')
    asked = {"folder": [str(tmp_path / "list.jsonl")], "column": ["caption"]}
    before = SiDImages.fingerprint_inputs(**asked)
    assert SiDImages.fingerprint_inputs(**asked) == before
    picture(2, 96).save(tmp_path / "a.jfif", "JPEG")
    assert SiDImages.fingerprint_inputs(**asked) != before


def test_a_picture_has_all_captions_that_a_folders_list_has_of_it(run_graph, tmp_path):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "caption": "red"}\n{"file_name": "a.png", "caption": "round"}\n'
    )
    for place in (tmp_path, tmp_path / "metadata.jsonl"):
        found = pairs_of(run_graph(looked_at(images=images(place))))
        assert sorted(caption for _, caption in found) == ["red", "round"]


def test_pictures_are_not_learnt_as_a_video(comfyui):
    from tiny_families import FAMILIES

    from sid_pack.nodes.training.real_pictures import shares_of

    with torch.inference_mode():
        model = FAMILIES["Wan 2.1"].model()
    pictures = type("Pictures", (), {"pictures": [type("Picture", (), {"image": True})]})
    with pytest.raises(ValueError, match="^Connect a latent of one frame"):
        shares_of(pictures, model, [(16, 2, 8, 8)], None)
