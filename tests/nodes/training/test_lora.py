"""Distillation into LoRAs: on ComfyUI's own model classes, and through its executor, files and stock loader."""

from pathlib import Path

import pytest
import tiny_models
import torch
from graphs import distilled, node, shown

MODELS = ["sd15", "sdxl", "sd3"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
LORA = {"mode": "lora", "student_rank": 8, "fake_rank": 4}


def roles_of(model, recompute: bool = True):
    from sid_pack.nodes.host.model import process_of
    from sid_pack.nodes.sampling.guiders import SiDLSGGuider
    from sid_pack.nodes.training.memory import Savings
    from sid_pack.nodes.training.roles import LoRAOptions, lora_roles

    guider = SiDLSGGuider.execute(model, tiny_models.conditioning(1), tiny_models.conditioning(2), 1.5).result[0]
    savings = Savings(2, recompute, can_offload=False)
    return lora_roles(guider, process_of(model), LoRAOptions(4, 2), savings)


def inputs(model) -> tuple:
    from sid_pack.nodes.host.conditioning import conditioning_tensors

    latent = torch.zeros(1, model.get_model_object("latent_format").latent_channels, 8, 8)
    cond, uncond = (conditioning_tensors(model, tiny_models.conditioning(seed), latent) for seed in (1, 2))
    x = torch.randn(2, *latent.shape[1:], generator=torch.manual_seed(4))
    flow = "CONST" in [kind.__name__ for kind in type(model.model.model_sampling).__mro__]
    t = torch.tensor([0.3, 0.8]) if flow else torch.tensor([300, 800])
    two = [{name: value.expand(2, *value.shape[1:]) for name, value in c.items()} for c in (cond, uncond)]
    return x, t, *two


def in_precision(model, dtype: torch.dtype):
    """As ComfyUI has a model whose weights are kept in `dtype` and computed with in float32; float16 is both."""
    network = model.model.diffusion_model
    if dtype == torch.float16:
        network.to(dtype)
        network.dtype = dtype
        return model
    for module in network.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True
            module.to(dtype)
    model.model.manual_cast_dtype = torch.float32
    return model


@pytest.mark.parametrize("name", MODELS)
def test_untrained_roles_are_bitwise_the_model(name, comfyui):
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.nodes.host.weights import with_gradients

    with torch.inference_mode():
        model = getattr(tiny_models, name)()
        x, t, cond, uncond = inputs(model)
        with with_gradients():
            expected = predictor(model.model, process_of(model))
            roles = roles_of(model)
            with torch.no_grad():
                alone = expected(x, t, cond)
                with roles.ready():
                    assert torch.equal(roles.predict.student(x, t, cond), alone)
                    assert torch.equal(roles.predict.fake(x, t, cond), alone)
                    teacher = roles.predict.teacher(x, t, cond, uncond)
                without = expected(x, t, uncond)
                torch.testing.assert_close(teacher, without + 1.5 * (alone - without), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_training_changes_the_loras_and_not_a_bit_of_the_model(name, dtype, comfyui, monkeypatch):
    from sid_pack.nodes.host.model import compute_dtype, process_of
    from sid_pack.nodes.host.weights import with_gradients
    from sid_pack.sid_core.data.conditioning import PromptSet
    from sid_pack.sid_core.method.guidance import Guidance
    from sid_pack.sid_core.training.distill import Bucket, distill
    from sid_pack.sid_core.training.run import LOSS_SCALE, Run
    from sid_pack.sid_core.training.settings import Settings

    # As it has grown to in a run: at its start about half of so small a student's gradients vanish in float16.
    monkeypatch.setitem(LOSS_SCALE, "init_scale", 2.0**12)
    with torch.inference_mode():
        model = in_precision(getattr(tiny_models, name)(), DTYPES[dtype])
        x, _, cond, uncond = inputs(model)
        before = {key: value.clone() for key, value in model.model.state_dict().items()}
        objects = dict(model.model.named_parameters())
        with with_gradients():
            roles = roles_of(model)
            settings = Settings(Guidance.lsg(1.5), steps=2, batch=2, student_learning_rate=1e-2)
            scaling = compute_dtype(model) == torch.float16
            assert scaling == (dtype == "float16")
            run = Run(roles.student, roles.fake, settings, loss_scaling=scaling)
            row = {key: value[:1].clone() for key, value in cond.items()}
            prompts = PromptSet.of(["a"], [row], {key: value[:1].clone() for key, value in uncond.items()})
            process = process_of(model)
            iterations = distill(run, roles.predict, [Bucket(x.shape[1:], prompts)], process, torch.device("cpu"))
            for _ in range(2):
                with roles.ready():
                    result = next(iterations)
        assert result.skipped == 0
        student, fake = (
            [bool(layer.up.any()) for layer in role.by_layer().values()] for role in (roles.student, roles.fake)
        )
        assert all(fake)
        assert sum(student) > len(student) / 2 if scaling else all(student)
        after = model.model.state_dict()
        assert all(torch.equal(after[key].view(torch.uint8), value.view(torch.uint8)) for key, value in before.items())
        assert all(weight is objects[key] for key, weight in model.model.named_parameters())
        assert not any(module._forward_hooks for module in model.model.modules())


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_equal_those_of_merged_weights(recompute, comfyui):
    """Another route in float64: the chain rule through W + up·down, the network called as a function of its weights."""
    from sid_pack.nodes.host.weights import with_gradients

    with torch.inference_mode():
        model = tiny_models.sd15()
        network = model.model.diffusion_model.double()
        network.dtype = torch.float64
        with with_gradients():
            roles = roles_of(model, recompute=recompute)
            adapters = roles.student.double()
            for i, layer in enumerate(adapters.by_layer().values()):
                layer.up.data.copy_(torch.randn(layer.up.shape, generator=torch.manual_seed(i)) * 0.1)
            draw = torch.manual_seed(9)
            x = torch.randn(2, 4, 8, 8, generator=draw, dtype=torch.float64)
            context = torch.randn(2, 5, 16, generator=draw, dtype=torch.float64)
            call = {"timesteps": torch.tensor([200.0, 700.0]), "context": context, "transformer_options": {}}
            weights = {name: weight.detach().clone().requires_grad_() for name, weight in network.state_dict().items()}
            merged = dict(weights)
            for name, layer in adapters.by_layer().items():
                change = (layer.up.detach().flatten(1) @ layer.down.detach().flatten(1)).view(layer.up.shape[0], -1)
                merged[f"{name}.weight"] = weights[f"{name}.weight"] + change.view_as(weights[f"{name}.weight"])
            expected = torch.func.functional_call(network, merged, (x,), call)
            expected.square().sum().backward()
            with roles.ready():
                plain = _raw_call_as_student(roles, network, x, call)
                plain.square().sum().backward()
            torch.testing.assert_close(plain, expected, rtol=1e-9, atol=1e-10)
            for name, layer in adapters.by_layer().items():
                gradient = weights[f"{name}.weight"].grad.flatten(1)
                up, down = layer.up.detach().flatten(1), layer.down.detach().flatten(1)
                torch.testing.assert_close(layer.up.grad.flatten(1), gradient @ down.T, rtol=1e-7, atol=1e-9)
                torch.testing.assert_close(layer.down.grad.flatten(1), up.T @ gradient, rtol=1e-7, atol=1e-9)


def _raw_call_as_student(roles, network, x, call):
    """The network itself in the student's role; `predict` would go through float32."""
    outputs = []
    original = network.forward

    def forward(_, *args, **kwargs):
        outputs.append(original(x, **call))
        return torch.zeros(x.shape)

    network.forward = forward
    try:
        roles.predict.student(x.float(), torch.tensor([200, 700]), {"c_crossattn": call["context"].float()})
    finally:
        del network.forward
    return outputs[0]


def test_loras_have_the_names_that_other_tools_read(comfyui):
    from sid_pack.nodes.sampling.loras import lora_names

    sd15, sdxl = (set(lora_names(model()).values()) for model in (tiny_models.sd15, tiny_models.sdxl))
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in sd15
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj" in sd15
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_out_0" in sdxl
    assert "lora_unet_middle_block_1_proj_in" in sdxl


def distilled_lora(**changes) -> dict:
    settings = {"iterations": 3, "student_learning_rate": 1e-2, "fake_learning_rate": 1e-2, "ema_half_life": 0.0}
    return distilled(**(LORA | settings | changes))


def generated(model: list) -> dict:
    inputs = {"positive": ["positive", 0], "seed": 1, "width": 64, "height": 64, "batch_size": 2, "noise_mode": "fresh"}
    return node("SiDGenerate", model=model, steps=2, t_init=0.0, **inputs)


def saved_and_live(run_graph, folder: Path, **how) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A student's file, its pictures while it is on the wire, and the teacher's with the same two steps."""
    graph = distilled_lora()
    graph["saved"] = node("SiDSaveStudent", model=["distilled", 0], filename_prefix="lora", precision="float32", **how)
    graph["plain"] = generated(["demo", 0])
    graph["plain_shown"] = node("PreviewImage", images=["plain_decoded", 0])
    graph["plain_decoded"] = node("VAEDecode", samples=["plain", 0], vae=["demo", 2])
    result = run_graph(graph)
    assert result.success, result.error
    path = Path(result.value("saved"))
    path.rename(folder / path.name)
    return folder / path.name, result.value("generated")["samples"], result.value("plain")["samples"]


@pytest.fixture
def folders(comfyui, tmp_path):
    """Folders of LoRAs and of models, as main.py has them in output/."""
    import folder_paths

    for kind in ("loras", "diffusion_models"):
        folder_paths.add_model_folder_path(kind, str(tmp_path / kind))
        (tmp_path / kind).mkdir()
    yield tmp_path
    for kind in ("loras", "diffusion_models"):
        folder_paths.folder_names_and_paths[kind][0].remove(str(tmp_path / kind))
    folder_paths.filename_list_cache.clear()


def pictures(run_graph, loader: dict) -> torch.Tensor:
    import folder_paths

    folder_paths.filename_list_cache.clear()
    graph = {key: value for key, value in distilled().items() if key in ("demo", "positive")}
    graph |= {"student": loader, "generated": generated(["student", 0])} | shown(["generated", 0])
    result = run_graph(graph)
    assert result.success, result.error
    return result.value("generated")["samples"]


def test_the_stock_lora_loader_gives_the_picture_of_the_live_student(run_graph, folders):
    path, live, plain = saved_and_live(run_graph, folders / "loras")
    assert (live - plain).abs().max() > 0.05
    stock = node("LoraLoaderModelOnly", model=["demo", 0], lora_name=path.name, strength_model=1.0)
    torch.testing.assert_close(pictures(run_graph, stock), live, rtol=0, atol=1e-5)
    ours = node("SiDLoadStudent", model=["demo", 0], student=path.name)
    torch.testing.assert_close(pictures(run_graph, ours), live, rtol=0, atol=1e-5)


def test_a_lora_student_is_saved_whole_on_request(run_graph, folders):
    path, live, _ = saved_and_live(run_graph, folders / "diffusion_models", save_as="whole model")
    ours = node("SiDLoadStudent", model=["demo", 0], student=path.name)
    torch.testing.assert_close(pictures(run_graph, ours), live, rtol=0, atol=1e-4)


def test_a_lora_run_goes_on_where_it_was(run_graph):
    def weights(result):
        assert result.success, result.error
        return result.value("distilled").get_attachment("sid_student_lora")

    unbroken = weights(run_graph(distilled_lora(run_name="lora_unbroken", iterations=4)))
    run_graph(distilled_lora(run_name="lora_broken", iterations=2))
    resumed = weights(run_graph(distilled_lora(run_name="lora_broken", iterations=4, existing_run="continue it")))
    assert all(torch.equal(resumed[name], weight) for name, weight in unbroken.items())
    refused = run_graph(distilled_lora(run_name="lora_broken", student_rank=16, existing_run="continue it"))
    assert "student_rank: 8 then, 16 now" in refused.error


def test_a_lora_on_the_model_belongs_to_the_teacher(run_graph, folders):
    """A second distillation starts from the student of the first: with no learning rate it is that student."""
    path, live, _ = saved_and_live(run_graph, folders / "loras")
    graph = distilled_lora(student_learning_rate=0.0, fake_learning_rate=0.0, run_name="on_top")
    graph["base"] = node("LoraLoaderModelOnly", model=["demo", 0], lora_name=path.name, strength_model=1.0)
    graph["guider"]["inputs"]["model"] = ["base", 0]
    import folder_paths

    folder_paths.filename_list_cache.clear()
    result = run_graph(graph)
    assert result.success, result.error
    torch.testing.assert_close(result.value("generated")["samples"], live, rtol=0, atol=1e-5)


def test_micro_batches_and_recomputing_learn_the_same(run_graph):
    def student(**changes):
        result = run_graph(distilled_lora(batch_size=4, **changes))
        assert result.success, result.error
        return result.value("distilled").get_attachment("sid_student_lora")

    whole = student(run_name="whole", gradient_checkpointing=False)
    split = student(run_name="split", gradient_checkpointing=True, micro_batch=1)
    ups = [name for name in whole if name.endswith("lora_up.weight")]  # zero before the first step
    learnt = torch.cat([whole[name].flatten() for name in ups])
    in_parts = torch.cat([split[name].flatten() for name in ups])
    # Adam makes a whole step of a gradient that is all but zero, whose sign is then rounding's.
    assert (in_parts - learnt).norm() < 0.02 * learnt.norm()
