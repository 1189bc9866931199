"""What the loader takes, and what it says of what it does not."""

import pickle
from pathlib import Path

import pytest
import torch
from adapter_files import Draw, adapter_tensors, clip_vision, flat, style_encoder_tensors, write_adapter
from graphs import demo, node, shown
from safetensors.torch import save_file
from tiny_models import sd3, sd15, sdxl

pytestmark = pytest.mark.usefixtures("comfyui")
WIDTHS, CONTEXT = [32, 64, 64, 64, 32, 32, 64], 16  # of the tiny SD1.5


def load(path, encoder=None):
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    return load_adapter(path, encoder)


def apply(model, adapter, vision=None, image=None, **inputs):
    from sid_pack.nodes.image_prompts.ip_adapter import CleanStyleIPAdapter

    image = torch.rand(1, 40, 40, 3) if image is None else image
    settings = {"weight": 1.0, "blocks": "all", "combine": "average", "start_percent": 0.0, "end_percent": 1.0}
    return CleanStyleIPAdapter.execute(model, adapter, image, **(settings | inputs), clip_vision=vision)


def written(folder, layout="base", name="adapter.safetensors", widths=WIDTHS, context=CONTEXT, **changes):
    """A file's path. changes: tensors set by their flat name, or left out where None."""
    tensors = flat(adapter_tensors(layout, widths, context)) | changes
    path = folder / name
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


@pytest.mark.parametrize(("tokens", "heads", "depth"), [(4, 1, 1), (16, 3, 4), (5, 12, 3)])
def test_sizes_are_read_from_the_file(tmp_path, tokens, heads, depth):
    parts = adapter_tensors("plus", WIDTHS, CONTEXT, tokens=tokens, heads=heads, depth=depth)
    write_adapter(tmp_path / "plus.bin", "plus", parts)
    network = load(tmp_path / "plus.bin").network
    assert network.projection(torch.zeros(2, 9, 32)).shape == (2, tokens, CONTEXT)
    assert (len(network.projection.layers), network.widths) == (depth, WIDTHS)


def test_layers_are_in_the_order_of_their_numbers(tmp_path):
    """As text 11 comes before 3."""
    adapter = load(written(tmp_path, widths=[32 + 4 * n for n in range(16)]))
    assert adapter.network.widths == [32 + 4 * n for n in range(16)]


def test_a_training_programs_names(tmp_path):
    """Of a checkpoint that IP-Adapter's own training program writes, with the UNet beside."""
    parts = adapter_tensors("base", WIDTHS, CONTEXT)
    named = {"image_proj_model": parts["image_proj"], "adapter_modules": parts["ip_adapter"], "unet": {"x": Draw(0)(2)}}
    torch.save(flat(named), tmp_path / "pytorch_model.bin")
    assert load(tmp_path / "pytorch_model.bin").network.widths == WIDTHS


PLACES = [  # of diffusers' attention processors in the order it lists them, where the middle block is the last
    *("down_blocks.0.attentions.0", "down_blocks.1.attentions.0", "up_blocks.0.attentions.0"),
    *("up_blocks.0.attentions.1", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "mid_block.attentions.0"),
]
PROCESSOR = "transformer_blocks.0.attn2.processor"


def placed(parts, prefix="", suffix="weight"):
    """The layers by the names of their places, in the order of the alphabet."""
    layers = {}
    for number, place in enumerate(PLACES):
        for which in ("to_k_ip", "to_v_ip"):
            weight = parts["ip_adapter"][f"{2 * number + 1}.{which}.weight"]
            layers[f"{prefix}{place}.{PROCESSOR}.{which}.{suffix}"] = weight
    return dict(sorted(layers.items()))


def training_names(parts):
    """By the program that writes them: names of the image's part and of the layers."""
    image = {f"image_proj_model.{name}": tensor for name, tensor in parts["image_proj"].items()}
    published = flat(parts)
    numbered = {f"adapter_modules.{name}": tensor for name, tensor in parts["ip_adapter"].items()}
    diffusers = {name.replace("proj.", "image_embeds.", 1): tensor for name, tensor in parts["image_proj"].items()}
    diffusers = {f"encoder_hid_proj.image_projection_layers.0.{name}": tensor for name, tensor in diffusers.items()}
    unet = {"unet.conv_in.weight": Draw(0)(2), "unet.down_blocks.0.attentions.0.proj_in.weight": Draw(0)(2)}
    return {
        "the authors', whole": image | numbered | unet | placed(parts, "unet."),
        "accelerate, without what is there twice": image | unet | placed(parts, "unet."),
        "distributed": {f"module.{name}": tensor for name, tensor in (image | numbered | unet).items()},
        "compiled": {f"_orig_mod.module.{name}": tensor for name, tensor in (image | numbered).items()},
        "diffusers": diffusers | placed(parts, suffix="0.weight"),
        "places in a published file": {n: t for n, t in published.items() if n.startswith("image_proj.")}
        | placed(parts, "ip_adapter."),
        "with gaps": {n.replace("ip_adapter.1.", "ip_adapter.0."): t for n, t in published.items()},
    }


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("program", list(training_names(adapter_tensors("base", WIDTHS, CONTEXT))))
def test_names_of_training_programs(tmp_path, program, suffix):
    parts = adapter_tensors("base", WIDTHS, CONTEXT)
    path, named = tmp_path / f"model.{suffix}", training_names(parts)[program]
    if suffix == "bin":
        torch.save(named, path)
    else:
        save_file({name: tensor.clone() for name, tensor in named.items()}, path)
    write_adapter(tmp_path / "published.bin", "base", parts)
    expected, found = load(tmp_path / "published.bin").network, load(path).network
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)


WEIGHT, BIAS = "ip_adapter.3.to_k_ip.weight", "image_proj.proj.bias"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ip_adapter.03.to_k_ip.weight": torch.zeros(64, 16)}, "layer 3 is there twice"),
        ({"ip_adapter.3.to_v_ip.weight": None}, "layer 3 has to_k_ip alone"),
        ({WEIGHT: torch.full((64, 16), torch.nan)}, "has NaN or infinite values"),
        ({BIAS: torch.full((48,), torch.inf)}, "proj.bias has NaN or infinite values"),
        ({WEIGHT: torch.zeros(64, 16, dtype=torch.int8)}, "is of torch.int8"),
        ({WEIGHT: torch.zeros(64, 12)}, r"keys of shape \(64, 12\) and values of \(64, 16\)"),
        ({WEIGHT: torch.zeros(())}, r"keys of shape \(\)"),
        ({WEIGHT: torch.zeros(0, 16)}, r"keys of shape \(0, 16\)"),
        ({"image_proj.proj.weight": torch.zeros(50, 24)}, "part of a TokenProjection"),
        ({"image_proj.proj.weight": torch.zeros(50, 24), BIAS: torch.zeros(50)}, "sizes don't fit each other"),
        ({"image_proj.proj.weight": torch.zeros(())}, "part of a TokenProjection"),
        ({"image_proj.norm.bias": None}, "part of a TokenProjection"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit(tmp_path, changes, said):
    with pytest.raises(ValueError, match=f"^Download adapter.safetensors again: .*{said}"):
        load(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_proj.layers.1.0.to_q.weight": torch.zeros(100, 16)}, "sizes don't fit each other"),
        ({"image_proj.latents": torch.zeros(1, 3, 20)}, "sizes don't fit each other"),
        ({"image_proj.layers.x.0.to_q.weight": torch.zeros(4, 4)}, "part of a Resampler"),
        ({"image_proj.proj_in.weight": torch.zeros(20, 32)}, "(sizes|part)"),
    ],
    ids=str,
)
def test_resamplers_that_do_not_fit(tmp_path, changes, said):
    with pytest.raises(ValueError, match=f"^Download adapter.safetensors again: .*{said}"):
        load(written(tmp_path, "plus", **changes))


@pytest.mark.parametrize(
    "made",
    [
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    ],
    ids=["complex", "sparse", "meta", "quantized"],
)
@pytest.mark.parametrize("old", [False, True])
def test_tensors_of_other_kinds(tmp_path, made, old):
    parts = adapter_tensors("base", WIDTHS, CONTEXT)
    parts["ip_adapter"]["1.to_k_ip.weight"] = made(parts["ip_adapter"]["1.to_k_ip.weight"])
    torch.save(parts, tmp_path / "kind.bin", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"^Download kind\.bin again"):
        load(tmp_path / "kind.bin")


def test_layers_that_are_called_otherwise(tmp_path):
    layers = {f"ip_adapter.first.to_{which}_ip.weight": torch.zeros(4, 16) for which in "kv"}
    save_file(layers, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="^Choose an IP-Adapter.*text.safetensors has no"):
        load(tmp_path / "text.safetensors")


def test_files_are_loaded_in_their_own_precision(tmp_path):
    parts = {name: tensor.half() for name, tensor in flat(adapter_tensors("plus", WIDTHS, CONTEXT)).items()}
    save_file(parts, tmp_path / "half.safetensors")
    network = load(tmp_path / "half.safetensors").network
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float16}


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmful"),))


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"ip_adapter": Harmful()}, tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(pickle.dumps({"ip_adapter": Harmful()}, protocol=2))
    for name in ("a.bin", "b.bin"):
        with pytest.raises(ValueError, match=rf"^Download {name} again, .*code or other things.*which is not run"):
            load(tmp_path / name)
    assert not (tmp_path / "harmful").exists()


@pytest.mark.parametrize(
    ("content", "as_pickle", "as_safetensors"),
    [
        (b"", "truncated", "truncated"),
        (b"PK\x03\x04 cut", "truncated", "a zip archive"),
        (b"<html>not found</html>", "truncated, damaged or of another kind", "a web page"),
        (bytes(range(256)) * 9, "truncated, damaged or of another kind", "truncated"),
    ],
)
def test_broken_files(tmp_path, content, as_pickle, as_safetensors):
    for suffix, reason in ((".bin", as_pickle), (".safetensors", as_safetensors)):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^Download broken{suffix} again, .*: it is .*{reason}"):
            load(path)


def test_a_cut_file(tmp_path):
    write_adapter(tmp_path / "whole.bin", "base", adapter_tensors("base", WIDTHS, CONTEXT))
    content = (tmp_path / "whole.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"^Download cut\.bin again, .*it is truncated"):
        load(tmp_path / "cut.bin")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_x.lora_up.weight": None}, "^Choose an IP-Adapter for SD1.5 or SDXL.*other.*lora_unet_x"),
        ({"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": None}, "^Choose an IP-Adapter"),
        (
            {"ip_adapter.1.to_k_ip.weight": (32, 16)},
            "^Download other.*layer 1 has to_k_ip alone",
        ),  # keys without values
        ({"ip_adapter.1.to_k_ip.weight": (32, 16), "ip_adapter.1.to_v_ip.weight": (32, 16)}, "image tokens in a way"),
    ],
)
def test_other_files_are_named(tmp_path, tensors, said):
    save_file({name: torch.zeros(shape or (2, 2)) for name, shape in tensors.items()}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"ip_adapter.0.to_q_lora.down.weight": torch.zeros(4, 32)},
        {
            "image_proj.proj.weight": None,
            "image_proj.proj.bias": None,
            "image_proj.proj.0.weight": torch.zeros(64, 512),
            "image_proj.proj.2.weight": torch.zeros(64, 64),
        },
        {"image_proj.perceiver_resampler.proj_in.weight": torch.zeros(16, 32)},
    ],
)
def test_face_adapters_are_refused_by_name(tmp_path, changes):
    with pytest.raises(
        ValueError, match=r"^Use IPAdapter_plus.*ip-adapter-faceid\.safetensors.*FaceID adapter.*InsightFace"
    ):
        load(written(tmp_path, name="ip-adapter-faceid.safetensors", **changes))


def test_a_resampler_of_face_embeddings_is_refused(tmp_path):
    changes = {"image_proj.proj_in.weight": torch.zeros(16, 512)}
    with pytest.raises(ValueError, match="it is a FaceID adapter"):
        load(written(tmp_path, "plus", **changes))


def test_an_incomplete_projection(tmp_path):
    for name in ("image_proj.layers.1.0.to_q.weight", "image_proj.norm_out.bias"):
        with pytest.raises(ValueError, match="only a part of a Resampler"):
            load(written(tmp_path, "plus", **{name: None}))


def test_parts_of_two_files(tmp_path):
    other = {f"image_proj.{n}": t for n, t in adapter_tensors("base", WIDTHS, 24)["image_proj"].items()}
    with pytest.raises(ValueError, match="image tokens have 24 channels, but layer 0 wants 16"):
        load(written(tmp_path, **other))


def test_styleshot_needs_its_encoder_and_others_none(tmp_path):
    ip, encoder = tmp_path / "ip.bin", tmp_path / "style_aware_encoder.bin"
    write_adapter(ip, "styleshot", adapter_tensors("styleshot", WIDTHS, CONTEXT))
    torch.save(style_encoder_tensors(), encoder)
    assert load(ip, encoder).style_encoder is not None
    with pytest.raises(ValueError, match=r"^Set style_encoder to StyleShot's style_aware_encoder\.bin: ip"):
        load(ip)
    with pytest.raises(ValueError, match=r"^Choose style_aware_encoder\.bin as style_encoder"):
        load(encoder)
    with pytest.raises(ValueError, match=r"^Set style_encoder to StyleShot's.*ip\.bin is another file"):
        load(ip, ip)
    with pytest.raises(ValueError, match="^Set style_encoder to 'none'.*has no use for"):
        load(written(tmp_path), encoder)
    cut = style_encoder_tensors()
    del cut["cnn.1.adapter.bias"]
    torch.save(cut, encoder)
    with pytest.raises(ValueError, match="only a part of a StyleEncoder"):
        load(ip, encoder)


def test_a_model_of_another_base(tmp_path):
    adapter, vision = load(written(tmp_path)), clip_vision(tmp_path)
    apply(sd15(), adapter, vision)
    with pytest.raises(ValueError, match=r"for 7 layers with text of 16.*MODEL \(SDXL\) has"):
        apply(sdxl(transformer_depth=[1, 2]), adapter, vision)
    with pytest.raises(ValueError, match=r"this one is SD3.*no cross-attention"):
        apply(sd3(), adapter, vision)
    published = load(written(tmp_path, widths=[320] * 70, context=2048, name="x.safetensors"))
    with pytest.raises(
        ValueError, match="70 layers with text of 2048 channels, as SDXL, and.*7 layers with text of 16"
    ):
        apply(sd15(), published, vision)


@pytest.mark.parametrize(
    ("layout", "sizes", "said"),
    [
        ("base", {"pooled": 28}, "one of width 24, and the connected one gives 28"),
        ("plus", {"hidden": 36}, "one of width 32, and the connected one gives 36"),
        ("full-face", {"hidden": 36}, "one of width 32"),
    ],
)
def test_clip_vision_of_another_width(tmp_path, layout, sizes, said):
    with pytest.raises(ValueError, match=said):
        apply(sd15(), load(written(tmp_path, layout)), clip_vision(tmp_path, **sizes))


def test_known_encoders_are_named(tmp_path):
    """ViT-H gives 1024 pooled and 1280 hidden channels, ViT-bigG 1280 and 1664."""
    from sid_pack.nodes.image_prompts.ip_adapter import _of_width

    assert [_of_width("pooled", width) for width in (1024, 1280, 999)] == [" (ViT-H)", " (ViT-bigG)", ""]
    assert [_of_width("hidden", width) for width in (1280, 1664, 1024)] == [" (ViT-H)", " (ViT-bigG)", " (ViT-L)"]


def test_no_clip_vision(tmp_path):
    with pytest.raises(ValueError, match="^Connect Load CLIP Vision to clip_vision"):
        apply(sd15(), load(written(tmp_path)))


def test_embeddings_that_are_not_numbers(tmp_path):
    adapter, vision, broken = load(written(tmp_path, "plus")), clip_vision(tmp_path), clip_vision(tmp_path)
    next(broken.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="^Download the file of the CLIP vision again.*embeddings.*NaN"):
        apply(sd15(), adapter, broken)
    adapter.network.projection.latents.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"^Download adapter\.safetensors again: it is damaged, and makes NaN"):
        apply(sd15(), adapter, vision)


@pytest.mark.parametrize(("start", "end"), [(0.6, 0.4), (0.5, 0.5)])
def test_an_end_before_the_start(tmp_path, start, end):
    with pytest.raises(ValueError, match="^Set start_percent below end_percent"):
        apply(sd15(), load(written(tmp_path)), clip_vision(tmp_path), start_percent=start, end_percent=end)


@pytest.fixture
def folder(comfyui):
    """models/ipadapter of the running ComfyUI."""
    import folder_paths

    path = Path(folder_paths.get_folder_paths("ipadapter")[0])
    path.mkdir(parents=True, exist_ok=True)
    yield path
    for file in path.iterdir():  # other tests are of a ComfyUI without such files
        file.unlink()


def test_the_folder_is_the_one_that_other_packs_use(comfyui, monkeypatch):
    import folder_paths

    from sid_pack.nodes.image_prompts.ip_adapter_files import register_folder

    registered = folder_paths.folder_names_and_paths
    assert registered["ipadapter"] == (
        [str(Path(folder_paths.models_dir) / "ipadapter")],
        folder_paths.supported_pt_extensions,
    )
    # As extra_model_paths.yaml sets it, without extensions.
    monkeypatch.setitem(registered, "ipadapter", (["/elsewhere", "/more"], set()))
    register_folder()
    assert registered["ipadapter"] == (["/elsewhere", "/more"], folder_paths.supported_pt_extensions)


def test_a_graph_with_the_demo_model(run_graph, folder):
    """Both nodes in ComfyUI's executor, and its own KSampler with CFG and without, on a model with real weights."""
    from sid_pack.nodes.host.unet_layers import cross_attention_layers

    loaded = run_graph(demo() | {"shown": node("PreviewAny", source=["demo", 0])})
    layers = cross_attention_layers(loaded.value("demo"))
    parts = adapter_tensors("styleshot", [layer.width for layer in layers], layers[0].context)
    write_adapter(folder / "ip.bin", "styleshot", parts)
    torch.save(style_encoder_tensors(), folder / "style_aware_encoder.bin")
    image = node("EmptyImage", width=300, height=200, batch_size=2, color=0xFF8800)
    loader = node("CleanStyleIPAdapterLoader", ip_adapter="ip.bin", style_encoder="style_aware_encoder.bin")

    def latents(weight, cfg):
        styled = node("CleanStyleIPAdapter", model=["demo", 0], ip_adapter=["loader", 0], image=["image", 0])
        styled["inputs"] |= {"weight": weight, "blocks": "all", "combine": "concat", "start_percent": 0.0}
        sampler = node("KSampler", model=["styled", 0], seed=3, steps=2, cfg=cfg, sampler_name="euler", denoise=1.0)
        sampler["inputs"] |= {"positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
        sampler["inputs"]["scheduler"] = "normal"
        styled["inputs"]["end_percent"] = 1.0
        graph = {"image": image, "loader": loader, "styled": styled, "sampled": sampler, **shown(["sampled", 0])}
        result = run_graph(demo() | graph)
        assert result.success, result.error
        return result.value("sampled")["samples"]

    for cfg in (1.0, 4.0):
        plain, styled = latents(0.0, cfg), latents(1.0, cfg)
        assert styled.isfinite().all()
        assert (styled - plain).abs().mean() > 1e-3
        torch.testing.assert_close(latents(1.0, cfg), styled, rtol=0, atol=0)


def test_the_demos_adapter_is_offered_after_the_users_own_and_alone_of_the_packs_files(folder):
    from sid_pack.nodes.image_prompts.ip_adapter import CleanStyleIPAdapterLoader

    def offered(name):
        inputs = CleanStyleIPAdapterLoader.INPUT_TYPES()
        return (inputs["required"] | inputs["optional"])[name][1]["options"]

    assert offered("ip_adapter") == ["demo (comes with the pack)"]
    for name in ("zebra.safetensors", "demo.safetensors"):
        written(folder, name=name)
    assert offered("ip_adapter") == ["demo.safetensors", "zebra.safetensors", "demo (comes with the pack)"]
    assert offered("style_encoder") == ["none", "demo.safetensors", "zebra.safetensors"]


def test_the_demos_entry_loads_the_packs_own_file_whatever_the_user_has(run_graph, folder, tmp_path, monkeypatch):
    from sid_pack.nodes.image_prompts import ip_adapter_files

    assert ip_adapter_files.DEMO_FILE.parent.name == "assets"
    monkeypatch.setattr(ip_adapter_files, "DEMO_FILE", written(tmp_path, "plus", "the_packs.safetensors"))
    for name in ("image_prompt.safetensors", "the_packs.safetensors"):
        written(folder, "base", name)
    loader = node("CleanStyleIPAdapterLoader", ip_adapter="demo (comes with the pack)", style_encoder="none")
    graph = {"loader": loader, "shown": node("PreviewAny", source=["loader", 0])}
    result = run_graph(graph)
    assert result.success, result.error
    assert result.value("loader").name == "the_packs.safetensors"
    assert result.value("loader").network.projection.takes == "hidden"
    graph["loader"]["inputs"]["ip_adapter"] = "the_packs.safetensors"
    assert run_graph(graph).value("loader").network.projection.takes == "pooled"


def test_the_demos_own_clip_vision_is_asked_for_by_the_node_that_has_it(tmp_path):
    from sid_pack.nodes.demo.image_encoder import build_image_encoder

    width = build_image_encoder().model.visual_projection.in_features
    parts = flat(adapter_tensors("plus", WIDTHS, CONTEXT))
    rows = len(parts["image_proj.proj_in.weight"])
    adapter = load(written(tmp_path, "plus", **{"image_proj.proj_in.weight": torch.zeros(rows, width)}))
    with pytest.raises(ValueError, match=r"^Connect Load CLIP Vision to clip_vision.*\(the one of SiD Demo Model\)"):
        apply(sd15(), adapter)
    with pytest.raises(ValueError, match=r"of width 160 \(the one of SiD Demo Model\), and the connected one gives 32"):
        apply(sd15(), adapter, clip_vision(tmp_path))


def test_a_missing_file_is_said_with_where_to_put_it(run_graph, folder):
    graph = {
        "loader": node("CleanStyleIPAdapterLoader", ip_adapter="gone.safetensors", style_encoder="none"),
        "shown": node("PreviewAny", source=["loader", 0]),
    }
    result = run_graph(graph)
    assert not result.success
    said = "Put an IP-Adapter into models/ipadapter, press R in the browser, and choose it: there is no file 'gone.s"
    assert result.error.count(said) == 1


def test_a_missing_encoder_is_said_of_that_input(run_graph, folder):
    write_adapter(folder / "ip.bin", "styleshot", adapter_tensors("styleshot", WIDTHS, CONTEXT))
    graph = {
        "loader": node("CleanStyleIPAdapterLoader", ip_adapter="ip.bin", style_encoder="gone.bin"),
        "shown": node("PreviewAny", source=["loader", 0]),
    }
    result = run_graph(graph)
    assert not result.success
    # Newer versions of ComfyUI look before the run.
    by_host, by_node = "style_encoder: 'gone.bin' not in", "Set style_encoder to one of none"
    assert by_host in result.error or by_node in result.error
    assert "input ip_adapter" not in result.error


def test_a_file_is_loaded_again_when_it_has_changed(run_graph, folder):
    seen = []
    for tokens in (3, 5):
        save_file(flat(adapter_tensors("base", WIDTHS, CONTEXT, tokens=tokens)), folder / "changing.safetensors")
        loader = node("CleanStyleIPAdapterLoader", ip_adapter="changing.safetensors", style_encoder="none")
        result = run_graph({"loader": loader, "shown": node("PreviewAny", source=["loader", 0])})
        assert result.success, result.error
        seen.append(result.value("loader").network.projection.proj.out_features)
    assert seen == [3 * CONTEXT, 5 * CONTEXT]
