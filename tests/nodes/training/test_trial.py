"""Nothing is found out after hours that could have been known before the first prompt was encoded."""

import sys

import pytest
import torch
from fakes import text_encoder, tiny_nodes
from graphs import distilled, node, training_options

LORA = {"mode": "lora", "student_rank": 4, "fake_rank": 2}


@pytest.fixture
def tiny(comfyui, monkeypatch) -> list[str]:
    """Tiny models as nodes; → the prompts that were given to their text encoder."""
    import nodes

    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", nodes.NODE_CLASS_MAPPINGS | tiny_nodes.NODE_CLASS_MAPPINGS)
    seen, plain = [], text_encoder.FakeCLIP.tokenize
    monkeypatch.setattr(text_encoder.FakeCLIP, "tokenize", lambda clip, text: seen.append(text) or plain(clip, text))
    return seen


def of_tiny(kind: str, **changes) -> dict:
    """The short distillation of `distilled`, of another model."""
    graph = distilled(**({"iterations": 2, "student_learning_rate": 1e-2, "ema_half_life": 0.0} | changes))
    graph["demo"] = node("FakeTinyModel", kind=kind)
    graph["generated"]["inputs"] |= {"noise_mode": "fresh"}
    del graph["decoded"]
    graph["shown"] = node("SaveLatent", samples=["generated", 0], filename_prefix="latent")
    return graph


def texts(result) -> str:
    """All that was said on nodes."""
    return b"\n".join(bytes(data) for _, data in result.events if isinstance(data, bytes | bytearray)).decode()


@pytest.mark.parametrize("targets", ["attention", "all linear and convolution layers"])
def test_an_sd3_lora_student_is_the_same_by_the_stock_loader(run_graph, tiny, targets):
    """Its attention's weights are known to LoRA files in parts as well, by other tools."""
    import folder_paths

    folder_paths.add_model_folder_path("loras", f"{folder_paths.get_output_directory()}/loras")
    graph = of_tiny("sd3", **LORA, lora_targets=targets, run_name=f"sd3 {targets}")
    graph["saved"] = node(
        "SiDSaveStudent", model=["distilled", 0], filename_prefix="sd3", precision="float32", save_as="as trained"
    )
    result = run_graph(graph)
    assert result.success, result.error
    live = result.value("generated")["samples"]
    name = result.value("saved").rpartition("/")[2]
    folder_paths.filename_list_cache.clear()
    graph["generated"]["inputs"] |= {"model": ["stock", 0], "steps": 2}
    graph["stock"] = node("LoraLoaderModelOnly", model=["demo", 0], lora_name=name, strength_model=1.0)
    kept = ("demo", "positive", "stock", "generated", "shown")
    stock = run_graph({key: graph[key] for key in kept})
    assert stock.success, stock.error
    torch.testing.assert_close(stock.value("generated")["samples"], live, rtol=0, atol=1e-5)
    graph["generated"]["inputs"]["model"] = ["demo", 0]
    plain = run_graph({key: graph[key] for key in kept})
    assert (plain.value("generated")["samples"] - live).abs().max() > 1e-3


@pytest.mark.parametrize("mode", [LORA, {"mode": "full"}])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("changes in place", "is not supported for training yet, as its backward pass fails: one of the variables"),
        ("no gradients", "is not supported for training yet, as its backward pass fails: element 0"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_prompts_are_encoded(run_graph, tiny, kind, named, mode):
    """Also where gradient checkpointing would hide it, and make wrong gradients."""
    result = run_graph(of_tiny(kind, **mode, gradient_checkpointing=True, run_name="refused"))
    assert "Choose a model of another family" in result.error and named in result.error
    assert named in texts(result)
    assert set(tiny) == {"red apple", ""}  # by the nodes before


@pytest.mark.parametrize("mode", [LORA, {"mode": "full"}])
@pytest.mark.parametrize("kind", ["sd15", "sdxl", "sd3", "flux"])
def test_what_can_be_trained_is_left_as_it_was(comfyui, kind, mode):
    from sid_pack.nodes.host.model import process_of, signature_of
    from sid_pack.nodes.host.weights import with_gradients
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider
    from sid_pack.nodes.training.roles import LoRAOptions
    from sid_pack.nodes.training.trial import try_out
    from sid_pack.sid_core.files.student import StudentInfo
    from sid_pack.sid_core.training.settings import Settings

    with torch.inference_mode():
        model = tiny_nodes.MODELS[kind]()
        before = {key: value.clone() for key, value in model.model.state_dict().items()}
        empty = tiny_nodes.tiny_models.conditioning(1)
        guider = SiDLSGGuider.execute(model, empty, empty, 1.5).result[0]
        shape = (model.get_model_object("latent_format").latent_channels, 8, 8)
        info = StudentInfo(4, 1.0, signature_of(model), "run", "lsg")
        with with_gradients():
            lora = LoRAOptions(4, 2) if mode is LORA else None
            settings = Settings(guider.guidance)
            try_out(guider, model, process_of(model), lora, [shape], settings, info)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())
    for parameter in model.model.parameters():
        assert parameter.is_inference() and parameter.grad is None
    assert model.get_attachment("sid_student") is None and not model.patches


def test_a_lora_that_has_no_names_in_files_is_refused_before_prompts_are_encoded(run_graph, tiny, monkeypatch):
    """A host that knows fewer of the layers."""
    import comfy.lora

    plain = comfy.lora.model_lora_keys_unet
    monkeypatch.setattr(
        comfy.lora, "model_lora_keys_unet", lambda *a: {k: v for k, v in plain(*a).items() if "proj_in" not in str(v)}
    )
    result = run_graph(of_tiny("sd15", **LORA, run_name="nameless"))
    assert "Choose mode full" in result.error and "proj_in" in result.error
    assert set(tiny) == {"red apple", ""}


def test_a_size_that_the_model_cannot_draw_is_refused_before_prompts_are_encoded(run_graph, tiny):
    """SD3's positions end somewhere."""
    result = run_graph(of_tiny("sd3", **LORA, more_sizes="64x64, 512x64", run_name="too wide"))
    assert "latent of a size that it can draw" in result.error and "16x8x64" in result.error
    assert set(tiny) == {"red apple", ""}


def test_an_empty_prompt_of_another_text_encoder_is_refused_before_prompts_are_encoded(run_graph, tiny):
    graph = of_tiny("sd15", **LORA, run_name="other words") | {"other": node("SiDDemoModel", weights="teacher")}
    graph["negative"]["inputs"]["clip"] = ["other", 1]
    result = run_graph(graph)
    assert "Connect the text encoder that belongs to this model" in result.error
    assert set(tiny) == {"red apple"}


@pytest.mark.parametrize(
    ("kind", "t_init", "within"),
    [("sd15", 1.0, "from 2 to 999: it is 1"), ("sd3", 625.0, "up to 1: it is 625")],
)
def test_a_first_time_of_another_kind_of_model_is_refused_before_prompts_are_encoded(
    run_graph, tiny, kind, t_init, within
):
    result = run_graph(of_tiny(kind, **LORA, t_init=t_init, run_name="other time"))
    assert "Set t_init to a time" in result.error and within in result.error
    assert set(tiny) == {"red apple", ""}


def test_an_optimizer_that_is_not_installed_is_told_of_before_prompts_are_encoded(run_graph, tiny, monkeypatch):
    for name in ("bitsandbytes", "bitsandbytes.optim"):  # which another test may have imported
        monkeypatch.setitem(sys.modules, name, None)
    graph = of_tiny("sd15", **LORA, options=["options", 0], run_name="8 bits")
    graph["options"] = training_options(optimizer="Adam, 8 bits")
    result = run_graph(graph)
    assert "bitsandbytes" in result.error
    assert set(tiny) == {"red apple", ""}


def test_a_disk_without_room_for_a_checkpoint_is_told_of_before_the_first_iteration(run_graph, comfyui, monkeypatch):
    """And one without room for all that are to be kept is a notice. The true size of a checkpoint is the measure."""
    import shutil

    trained = run_graph(distilled(**LORA, iterations=1, run_name="roomy"))
    folder = comfyui.base_directory / "output" / "sid_runs"
    size = (folder / "roomy" / "state_0000001.safetensors").stat().st_size
    for share, enough in ((0.9, False), (1.5, True)):
        usage = shutil.disk_usage(folder)._replace(free=int(share * size))
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        result = run_graph(distilled(**LORA, iterations=1, run_name=f"room {enough}", existing_run="continue it"))
        assert result.success == (trained.success and enough), result.error
        assert "Free some space" in texts(result)
        monkeypatch.undo()
        assert (folder / f"room {enough}" / "state_0000001.safetensors").exists() == enough


@pytest.mark.parametrize(
    ("kind", "says"), [("pictures", "latents of 32x8x8"), ("videos", "its latents have 3 dimensions")]
)
def test_a_vae_of_another_model_is_refused_before_prompts_are_encoded(run_graph, tiny, kind, says):
    graph = distilled(run_name="other vae", vae=["vae", 0]) | {"vae": node("FakeVAE", kind=kind)}
    result = run_graph(graph)
    assert "Connect the VAE that belongs to the model, or none" in result.error and says in result.error


def test_a_preview_that_fails_later_is_a_notice_and_training_goes_on(run_graph, comfyui, monkeypatch, caplog):
    from sid_pack.nodes.demo.model import PatchCodec

    calls, plain = [], PatchCodec.decode

    def decode(codec, latent):
        calls.append(len(latent))
        if len(latent) > 1:
            raise RuntimeError("no kernel for so many")
        return plain(codec, latent)

    monkeypatch.setattr(PatchCodec, "decode", decode)
    graph = distilled(iterations=3, preview_every=1, run_name="dark", vae=["demo", 2])
    result = run_graph({key: value for key, value in graph.items() if key not in ("decoded", "shown")} | shown_folder())
    assert result.success, result.error
    said = "for previews; training goes on without: no kernel for so many"
    assert caplog.text.count(said) == 1 and said in texts(result)
    folder = comfyui.base_directory / "output" / "sid_runs" / "dark"
    assert (folder / "state_0000003.safetensors").exists() and not list(folder.glob("previews/*"))


def shown_folder() -> dict:
    return {"folder": node("PreviewAny", source=["distilled", 1])}


def test_a_disk_without_room_for_pictures_does_not_end_a_run(run_graph, comfyui, monkeypatch, caplog):
    from PIL import Image

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    graph = distilled(iterations=2, preview_every=1, save_every=1, run_name="crowded", vae=["demo", 2])
    del graph["decoded"], graph["shown"]
    result = run_graph(graph | shown_folder())
    assert result.success, result.error
    folder = comfyui.base_directory / "output" / "sid_runs" / "crowded"
    assert (folder / "state_0000002.safetensors").exists()
    assert "Free some space for curves.png; training goes on without" in texts(result)


def test_previews_of_a_video_are_its_beginning(comfyui):
    from sid_pack.nodes.training.previews import first_frames

    videos = torch.rand(2, 5, 4, 6, 3)
    assert torch.equal(first_frames(videos), videos[:, 0]) and first_frames(videos[:, 1]).shape == (2, 4, 6, 3)
