"""Students that begin with a picture: to change it, to paint a part of it anew, to draw it larger; and its previews."""

import pytest
import torch
from graphs import demo, node, sampled, shown

WAYS = ["generate", "nodes"]


def pictures() -> dict:
    """Two pictures of one colour, encoded, and the student's prompt."""
    return {
        **demo("student, 4 steps"),
        "blue": node("EmptyImage", width=64, height=64, batch_size=2, color=0x4080C0),
        "encoded": node("VAEEncode", pixels=["blue", 0], vae=["demo", 2]),
        **looked_at("encoded"),
    }


def looked_at(name: str) -> dict:
    """Have a latent made that nothing else asks for."""
    return {
        f"picture_{name}": node("VAEDecode", samples=[name, 0], vae=["demo", 2]),
        f"shown_{name}": node("PreviewImage", images=[f"picture_{name}", 0]),
    }


def changed(way: str, latent: list, positive: list | None = None, *, denoise: float, mode: str = "as trained") -> dict:
    """The nodes that draw from a latent, by SiD Generate or by stock "nodes"."""
    positive = positive or ["positive", 0]
    if way == "generate":
        inputs = {"model": ["demo", 0], "positive": positive, "seed": 7, "width": 512, "height": 512, "batch_size": 1}
        inputs |= {"steps": 0, "t_init": 0.0, "noise_mode": mode, "latent_image": latent, "denoise": denoise}
        return {"sampled": node("SiDGenerate", **inputs), **shown(["sampled", 0])}
    graph = {
        "sampler": node("SiDSampler", noise_mode=mode),
        "sigmas": node("SiDScheduler", model=["demo", 0], steps=0, t_init=0.0, denoise=denoise),
        **sampled(["sampler", 0], ["sigmas", 0], latent=latent),
    }
    graph["basic"]["inputs"]["conditioning"] = positive
    return graph


def run(run_graph, graph: dict):
    result = run_graph(graph)
    assert result.success, result.error
    return result


def latent_of(result, name: str = "sampled") -> torch.Tensor:
    return result.value(name)["samples"]


def test_a_picture_is_changed_in_the_last_of_the_students_times(run_graph):
    """Against a loop of our own: the picture is noised to 312, and denoised there and at 156."""
    import comfy.k_diffusion.sampling

    result = run(run_graph, pictures() | changed("generate", ["encoded", 0], denoise=0.5))
    network, levels = result.value("demo").model, result.value("demo").model.model_sampling.sigmas
    context, clean = result.value("positive")[0][0].expand(2, -1, -1), latent_of(result, "encoded")
    noise = torch.randn(clean.shape, generator=torch.manual_seed(7))
    draw = comfy.k_diffusion.sampling.default_noise_sampler(clean, seed=7)
    with torch.inference_mode():
        import comfy.model_management

        comfy.model_management.load_models_gpu([result.value("demo")])
        for t in (312, 156):
            sigma = levels[t].expand(2)
            clean = network.apply_model(clean + levels[t] * noise, sigma, c_crossattn=context)
            noise = draw(None, None)
    torch.testing.assert_close(latent_of(result), clean, rtol=0, atol=1e-4)


@pytest.mark.parametrize("denoise", [0.0, 0.5, 0.6, 1.0])
def test_both_ways_change_it_alike(run_graph, denoise):
    one, other = (latent_of(run(run_graph, pictures() | changed(way, ["encoded", 0], denoise=denoise))) for way in WAYS)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_more_denoise_the_farther_from_the_picture(run_graph):
    far = []
    for denoise in (0.0, 0.1, 0.25, 0.6, 1.0):
        result = run(run_graph, pictures() | changed("generate", ["encoded", 0], denoise=denoise))
        far.append((latent_of(result) - latent_of(result, "encoded")).square().mean().sqrt().item())
    assert far[0] < 1e-6
    assert far == sorted(far) and far[1] < 0.3 * far[-1]


def test_the_node_says_which_times_are_left(run_graph):
    events = run(run_graph, pictures() | changed("generate", ["encoded", 0], denoise=0.5)).events
    said = b" ".join(bytes(data) for _, data in events if isinstance(data, bytes | bytearray)).decode()
    assert "denoise 0.5: 2 steps at 312, 156" in said


def left_half() -> dict:
    return {
        "all": node("SolidMask", value=0.0, width=64, height=64),
        "left": node("SolidMask", value=1.0, width=32, height=64),
        "mask": node("MaskComposite", destination=["all", 0], source=["left", 0], x=0, y=0, operation="add"),
    }


INPAINTING = {
    "SetLatentNoiseMask": {"samples": ["encoded", 0], "mask": ["mask", 0]},
    "VAEEncodeForInpaint": {"pixels": ["blue", 0], "vae": ["demo", 2], "mask": ["mask", 0], "grow_mask_by": 0},
    "InpaintModelConditioning": {
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "vae": ["demo", 2],
        "pixels": ["blue", 0],
        "mask": ["mask", 0],
        "noise_mask": True,
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "mode"), [*zip(INPAINTING, ("fresh", "ddim", "fixed"), strict=True)])
def test_what_is_not_masked_stays_as_it_is(run_graph, way, name, mode):
    inpaint = node(name, **INPAINTING[name])
    conditioned = name == "InpaintModelConditioning"
    source, positive = ["inpaint", 2 if conditioned else 0], ["inpaint", 0] if conditioned else None
    graph = pictures() | left_half() | {"inpaint": inpaint}
    result = run(run_graph, graph | changed(way, source, positive, denoise=0.75, mode=mode))
    ours, kept = latent_of(result), latent_of(result, "encoded")
    torch.testing.assert_close(ours[..., 4:], kept[..., 4:], rtol=0, atol=1e-5)
    assert (ours[..., :4] - kept[..., :4]).abs().mean() > 0.1


def test_a_true_inpainting_model_sees_the_picture_and_its_mask(comfyui):
    """SD1.5's with nine channels: at each step those of the mask and of the picture behind it are as they were."""
    import tiny_models

    from sid_pack.nodes.sampling.few_step import SiDGenerate

    model, asked = tiny_models.sd15(in_channels=9), []
    model.model.diffusion_model.register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    picture, mask = torch.randn(2, 4, 8, 8), torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    (tokens, more), *_ = tiny_models.conditioning(1)
    positive = [[tokens, more | {"concat_latent_image": picture, "concat_mask": mask}]]
    with torch.inference_mode():
        drawn = SiDGenerate.execute(
            model, positive, 3, 8, 8, 1, 4, 0.0, "fresh", {"samples": picture, "noise_mask": mask}, 0.5
        ).args[0]["samples"]
    torch.testing.assert_close(drawn[..., 4:], picture[..., 4:], rtol=0, atol=1e-5)
    assert len(asked) == 2 and all(x.shape == (2, 9, 8, 8) for x in asked)
    for x in asked:
        assert torch.equal(x[:, 4:5, :, :4], torch.ones(2, 1, 8, 4)) and not x[:, 4:5, :, 4:].any()
        torch.testing.assert_close(x[:, 5:], 0.18215 * picture)


def second_pass(way: str) -> dict:
    """A picture at 64, enlarged to 128 and changed a little, decoded in tiles; and one of another seed."""
    first = {"model": ["demo", 0], "positive": ["positive", 0], "width": 64, "height": 64, "batch_size": 2}
    first |= {"steps": 0, "t_init": 0.0, "noise_mode": "as trained"}
    tiles = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    return {
        **demo("student, 4 steps"),
        "first": node("SiDGenerate", **first, seed=1),
        "other": node("SiDGenerate", **first, seed=2),
        **looked_at("first"),
        **looked_at("other"),
        "larger": node("ImageScaleBy", image=["picture_first", 0], upscale_method="bicubic", scale_by=2.0),
        "encoded": node("VAEEncode", pixels=["larger", 0], vae=["demo", 2]),
        **changed(way, ["encoded", 0], denoise=0.25),
        "tiled": node("VAEDecodeTiled", samples=["sampled", 0], vae=["demo", 2], **tiles),
        "shown_tiled": node("PreviewImage", images=["tiled", 0]),
    }


def test_a_second_pass_draws_the_first_larger(run_graph):
    """Its picture, made small again, is nearer to the first one than another seed's is."""
    result = run(run_graph, second_pass("generate"))
    large, tiled = result.value("decoded"), result.value("tiled")
    assert large.shape == tiled.shape == (2, 128, 128, 3)
    assert (large - tiled).abs().mean() < 0.02  # but for the seams
    small = torch.nn.functional.avg_pool2d(large.movedim(-1, 1), 2).movedim(1, -1)
    near, far = ((small - result.value(f"picture_{name}")).square().mean() for name in ("first", "other"))
    assert near < 0.2 * far


def test_both_ways_draw_an_enlarged_latent_alike(run_graph):
    def drawn(way: str) -> torch.Tensor:
        graph = second_pass(way)
        graph["encoded"] = node("LatentUpscaleBy", samples=["first", 0], upscale_method="bislerp", scale_by=2.0)
        return latent_of(run(run_graph, graph))

    one, other = map(drawn, WAYS)
    assert one.shape == (2, 32, 16, 16)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_each_step_sends_a_preview(run_graph, monkeypatch, way):
    import comfy.cli_args
    import comfy.utils
    import latent_preview

    sent = []

    def hook(value, total, preview, **_):
        if preview is not None:
            sent.append((value, total, preview[1].size))

    method = comfy.cli_args.LatentPreviewMethod.Latent2RGB
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", method)
    # Newer hosts set it at each run, to this where the client asks for none.
    monkeypatch.setattr(latent_preview, "default_preview_method", method, raising=False)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    graph = pictures() | changed(way, ["encoded", 0], denoise=0.75)
    assert run_graph(graph).success
    assert [(value, total) for value, total, _ in sent] == [(1, 3), (2, 3), (3, 3)]
