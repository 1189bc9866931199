"""Students with what else acts on a model: ControlNet, IP-Adapters, prompts of regions; all at CFG 1."""

import pytest
import tiny_models
import torch
from adapter_files import adapter_tensors, clip_vision, write_adapter
from tiny_models import conditioning

pytestmark = pytest.mark.usefixtures("comfyui")
TIMES = [625, 468, 312, 156]
PICTURES, SIDE = 2, 16  # cells of a latent's side


def noise() -> torch.Tensor:
    return torch.randn(PICTURES, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def drawn(model, positive, sampler=None, denoise: float = 1.0):
    """In the times of a student of four steps, by our sampler where there is no other."""
    import comfy.samplers

    from sid_pack.nodes.sampling.few_step import FewStepSampler, schedule

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, conditioning(9))
    guider.set_cfg(1.0)
    with torch.inference_mode():
        sigmas = schedule(model, 4, 0.0)
        sampler = sampler or FewStepSampler("fresh")
        return guider.sample(noise(), torch.zeros_like(noise()), sampler, sigmas, disable_pbar=True, seed=5)


def assert_as_lcm_and_unlike_the_plain_model(model, positive, plain_model, plain_positive):
    import comfy.samplers

    ours = drawn(model, positive)
    torch.testing.assert_close(ours, drawn(model, positive, comfy.samplers.sampler_object("lcm")))
    assert (ours - drawn(plain_model, plain_positive)).abs().mean() > 1e-3 * ours.abs().mean()


def by_node(name: str, *args):
    import nodes

    node = nodes.NODE_CLASS_MAPPINGS[name]
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(*args)[0]


def control_net():
    """ComfyUI's own ControlNet class for tiny_models.sd15, with random weights, and what its network was asked."""
    import comfy.cldm.cldm
    import comfy.controlnet

    shape = {name: value for name, value in tiny_models.UNET.items() if name not in ("out_channels", "image_size")}
    shape |= {"num_heads": 2, "hint_channels": 3, "transformer_depth_output": None}
    network = comfy.cldm.cldm.ControlNet(image_size=32, dtype=torch.float32, **shape)
    chance = torch.Generator().manual_seed(4)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=chance) * 0.05)
    asked = []
    network.register_forward_pre_hook(lambda _, args, named: asked.append(named), with_kwargs=True)
    device = torch.device("cpu")
    return comfy.controlnet.ControlNet(network, load_device=device, manual_cast_dtype=None), asked


def test_a_controlnet_acts_at_each_of_the_students_steps():
    model, positive = tiny_models.sd15(), conditioning(1)
    net, asked = control_net()
    edges = torch.rand(1, 8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(6))
    controlled = by_node("ControlNetApplyAdvanced", positive, positive, net, edges, 1.0, 0.0, 1.0)
    drawn(model, controlled)
    assert [round(float(each["timesteps"][0])) for each in asked] == TIMES
    assert all(len(each["x"]) == PICTURES for each in asked)  # the prompt's half alone
    sigma = float(model.model.model_sampling.sigmas[625])
    torch.testing.assert_close(asked[0]["x"], noise() * sigma / (1 + sigma**2) ** 0.5)
    assert_as_lcm_and_unlike_the_plain_model(model, controlled, model, positive)


def test_a_controlnets_percents_count_from_pure_noise():
    """The times 625 … 156 of a student are at 37, 53, 69 and 84 % of the way."""
    net, asked = control_net()
    edges, positive = torch.rand(1, 64, 64, 3), conditioning(1)
    drawn(tiny_models.sd15(), by_node("ControlNetApplyAdvanced", positive, positive, net, edges, 1.0, 0.4, 0.7))
    assert [round(float(each["timesteps"][0])) for each in asked] == TIMES[1:3]


def test_an_ip_adapter_acts_on_a_student(tmp_path):
    from sid_pack.nodes.image_prompts.ip_adapter import CleanStyleIPAdapter
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    model, positive = tiny_models.sd15(), conditioning(1)
    cross = [m for name, m in model.model.diffusion_model.named_modules() if name.endswith(".attn2")]
    widths = sorted(module.to_q.weight.shape[0] for module in cross)
    ordered = [32, 64, 64, 64, 32, 32, 64]
    assert widths == sorted(ordered)
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, "base", adapter_tensors("base", ordered, 16, 0))
    picture = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        styled = CleanStyleIPAdapter.execute(
            model=model,
            ip_adapter=load_adapter(path, None),
            image=picture,
            clip_vision=clip_vision(tmp_path),
            weight=1.0,
            blocks="all",
            combine="average",
            start_percent=0.0,
            end_percent=1.0,
        ).args[0]
    assert_as_lcm_and_unlike_the_plain_model(styled, positive, model, positive)


def left_half() -> torch.Tensor:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    return mask


def prompt(seed: int) -> list:
    """One that is seen: random weights make little of the others."""
    ((tokens, more),) = conditioning(seed)
    return [[50 * tokens, more]]


def test_prompts_of_regions_against_a_loop_of_our_own():
    """Each region's prediction is its own prompt's; where they overlap it is their mean."""
    import comfy.k_diffusion.sampling

    model, first, second = tiny_models.sd15(), prompt(1), prompt(2)
    left = by_node("ConditioningSetMask", first, left_half(), "default", 1.0)
    ours = drawn(model, by_node("ConditioningCombine", left, second))  # the second everywhere

    draw = comfy.k_diffusion.sampling.default_noise_sampler(noise(), seed=5)
    sigmas = [float(model.model.model_sampling.sigmas[t]) for t in TIMES]
    mask, x = left_half()[:, None], sigmas[0] * noise()
    with torch.inference_mode():
        for place, sigma in enumerate(sigmas):
            level = torch.full((PICTURES,), sigma)
            contexts = [cond[0][0].expand(PICTURES, -1, -1) for cond in (first, second)]
            predicted = [model.model.apply_model(x, level, c_crossattn=context) for context in contexts]
            clean = (mask * predicted[0] + predicted[1]) / (mask + 1)
            if place < 3:
                x = clean + sigmas[place + 1] * draw(None, None)
    effect = (ours - drawn(model, second)).abs().mean()
    assert effect > 1e-3 * ours.abs().mean()
    assert (ours - clean / 0.18215).abs().max() < 0.01 * effect


def test_prompts_of_areas_are_lcms():
    model = tiny_models.sd15()
    areas = [by_node("ConditioningSetArea", prompt(seed), 64, 128, x, 0, 1.0) for seed, x in ((1, 0), (2, 64))]
    assert_as_lcm_and_unlike_the_plain_model(model, by_node("ConditioningCombine", *areas), model, prompt(1))
