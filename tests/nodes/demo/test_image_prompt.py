"""The image prompt that comes with the pack, by nodes of the pack and stock ones."""

import torch
from graphs import demo, node, shown

# Subjects whose pictures have colours of their own.
SHOWN = ("rocket", "red apple", "frog", "sunflower", "blue book", "rose", "green apple", "ghost")


def sampled(model: list, positive: list, latent: list) -> dict:
    settings = {"seed": 3, "steps": 12, "cfg": 2.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0}
    return node("KSampler", model=model, positive=positive, negative=["negative", 0], latent_image=latent, **settings)


def test_with_no_words_pictures_get_the_colours_of_their_own_image(run_graph):
    """drawn by the teacher, and then drawn again from these pictures alone"""
    graph = demo() | {"one": node("EmptyLatentImage", width=64, height=64, batch_size=1)}
    joined = None
    for number, name in enumerate(SHOWN):
        graph[f"prompt {number}"] = node("CLIPTextEncode", clip=["demo", 1], text=name)
        graph[f"drawn {number}"] = sampled(["demo", 0], [f"prompt {number}", 0], ["one", 0])
        graph[f"picture {number}"] = node("VAEDecode", samples=[f"drawn {number}", 0], vae=["demo", 2])
        if joined is not None:
            graph[f"joined {number}"] = node("ImageBatch", image1=joined, image2=[f"picture {number}", 0])
        joined = [f"joined {number}" if number else "picture 0", 0]
    graph["loader"] = node("CleanStyleIPAdapterLoader", ip_adapter="demo (comes with the pack)")
    graph["styled"] = node(
        "CleanStyleIPAdapter",
        model=["demo", 0],
        ip_adapter=["loader", 0],
        image=joined,
        clip_vision=["demo", 3],
        weight=1.0,
        blocks="all",
        combine="one image for each picture",
        start_percent=0.0,
        end_percent=1.0,
    )
    graph["latent"]["inputs"]["batch_size"] = len(SHOWN)
    graph["plain"] = sampled(["demo", 0], ["negative", 0], ["latent", 0])
    graph["sampled"] = sampled(["styled", 0], ["negative", 0], ["latent", 0])
    graph["plain pictures"] = node("VAEDecode", samples=["plain", 0], vae=["demo", 2])
    graph["plain shown"] = node("PreviewImage", images=["plain pictures", 0])
    result = run_graph(graph | shown(["sampled", 0]))
    assert result.success, result.error
    wanted = result.value(joined[0]).mean((1, 2))
    near, far = (
        torch.cdist(result.value(name).mean((1, 2)), wanted).diagonal().mean() for name in ("decoded", "plain pictures")
    )
    assert near < 0.6 * far
