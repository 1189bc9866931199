"""A seed's pictures in batches of any size: with noise for each picture they are the same, and as ever without."""

import pytest
import torch
from graphs import demo, node, sampled, shown

from sid_pack.sid_core.method.sampling import noise_for_each

EACH = "each picture"


def graph_of(
    by: str, batch: int, one: int | None = None, *, noise_for: str = EACH, seed: int = 7, mode: str = "fresh"
) -> dict:
    """Draws that many pictures, or one alone by its place in the batch, by SiD Generate or by stock "nodes"."""
    empty = node("EmptyLatentImage", width=64, height=64, batch_size=batch)
    graph = {**demo("student, 4 steps"), "latent": empty}
    latent = ["latent", 0]
    if one is not None:
        graph["alone"], latent = node("LatentFromBatch", samples=["latent", 0], batch_index=one, length=1), ["alone", 0]
    if by == "nodes":
        graph["sampler"] = node("SiDSampler", noise_mode=mode, noise_for=noise_for)
        graph["sigmas"] = node("SiDScheduler", model=["demo", 0], steps=0, t_init=0.0)
        return graph | sampled(["sampler", 0], ["sigmas", 0], latent=latent, seed=seed)
    generate = {"model": ["demo", 0], "positive": ["positive", 0], "seed": seed, "width": 64, "height": 64}
    generate |= {"batch_size": 1, "steps": 0, "t_init": 0.0, "noise_mode": mode, "latent_image": latent}
    return graph | {"sampled": node("SiDGenerate", **generate, noise_for=noise_for), **shown(["sampled", 0])}


def latents(run_graph, *args, **kwargs) -> torch.Tensor:
    result = run_graph(graph_of(*args, **kwargs))
    assert result.success, result.error
    return result.value("sampled")["samples"]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """But for rounding, which in a batch of another size is another."""
    return bool((one - other).abs().max() < 1e-3)


@pytest.mark.parametrize("by", ["nodes", "generate"])
def test_a_picture_is_the_same_alone_and_in_every_batch(run_graph, by):
    three = latents(run_graph, by, 3)
    five = latents(run_graph, by, 5)
    assert same(five[:3], three)
    assert same(latents(run_graph, by, 5, one=4)[0], five[4])
    assert not same(three[0], three[1])
    assert not same(latents(run_graph, by, 3, seed=8), three)


def test_both_ways_draw_the_same(run_graph):
    for noise_for in (EACH, "the batch"):
        ways = [latents(run_graph, by, 2, noise_for=noise_for) for by in ("nodes", "generate")]
        torch.testing.assert_close(*ways, rtol=0, atol=1e-5)


def test_as_saved_graphs_have_it_later_noise_is_the_stock_samplers(run_graph):
    """Which changes with the batch."""
    graph = graph_of("nodes", 3, noise_for="the batch")
    del graph["sampler"]["inputs"]["noise_for"]  # as graphs from before have no such input
    old = run_graph(graph).value("sampled")["samples"]
    assert torch.equal(old, latents(run_graph, "nodes", 3, noise_for="the batch"))
    graph["sampler"] = node("KSamplerSelect", sampler_name="lcm")
    torch.testing.assert_close(old, run_graph(graph).value("sampled")["samples"], rtol=0, atol=2e-5)
    assert not same(latents(run_graph, "nodes", 2, noise_for="the batch"), old[:2])


def test_the_first_noise_is_as_ever(run_graph):
    """So that one step, and the modes that draw no more noise, are the same either way."""
    ways = [latents(run_graph, "generate", 2, noise_for=each, mode="fixed") for each in (EACH, "the batch")]
    assert torch.equal(*ways)


def test_of_sizes_whose_noise_the_host_draws_otherwise_at_once_pictures_are_the_same_too(comfyui):
    """Latents of an odd number of cells: torch draws normals by sixteen."""
    import tiny_models

    from sid_pack.nodes.sampling.few_step import SiDGenerate

    model = tiny_models.sd15()
    inputs = {"seed": 3, "width": 72, "height": 72, "steps": 2, "t_init": 0.0, "noise_mode": "fresh"}
    inputs |= {"model": model, "positive": tiny_models.conditioning(1), "noise_for": EACH}
    with torch.inference_mode():
        two, three = (SiDGenerate.execute(**inputs, batch_size=count).args[0]["samples"] for count in (2, 3))
    torch.testing.assert_close(three[:2], two, rtol=0, atol=1e-4)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_later_noise_is_each_pictures_own():
    first = randn(4, 3, 8, 8)
    draw, again = noise_for_each(first, 5), noise_for_each(first[2:3], 5)
    for _ in range(3):
        noise = draw()
        assert torch.equal(noise[2:3], again())
    assert torch.equal(noise_for_each(first, 5)(), noise_for_each(first.clone(), 5)())
    assert not torch.equal(noise_for_each(first, 5)(), noise_for_each(first, 6)())


def test_later_noise_is_white():
    """Of all pictures and steps, neither like the first noise nor like each other."""
    first = randn(64, 4, 8, 8)
    draw = noise_for_each(first, 5)
    noises = torch.stack([first, draw(), draw()]).flatten(2)
    assert noises[1:].mean().abs() < 0.02 and noises[1:].std().item() == pytest.approx(1, abs=0.02)
    alike = torch.corrcoef(noises.flatten(0, 1)).fill_diagonal_(0)
    assert alike.abs().max() < 0.4  # of 18,000 pairs with 256 numbers each, by chance some 0.27


def test_pictures_without_first_noise_have_different_later_noise():
    noise = noise_for_each(torch.zeros(3, 4, 8, 8), 5)()
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.3


def test_seeds_of_any_size_are_taken():
    first = randn(1, 4)
    assert not torch.equal(noise_for_each(first, 2**64 - 1)(), noise_for_each(first, 0)())


def test_it_is_drawn_in_the_precision_and_on_the_device_of_the_first():
    first = randn(2, 4, 8, 8)
    half = noise_for_each(first.bfloat16(), 5)()
    assert half.dtype == torch.bfloat16
