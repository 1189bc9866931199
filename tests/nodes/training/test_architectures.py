"""The seam on ComfyUI's true classes of the models that users have."""

import pytest
import tiny_models
import torch

MODELS = ("sd15", "sdxl", "sd3")


@pytest.fixture(params=MODELS)
def model(request, comfyui):
    with torch.inference_mode():  # as the loaders do, which makes the weights inference tensors
        return getattr(tiny_models, request.param)()


def latent(model, batch: int = 3) -> torch.Tensor:
    channels = model.get_model_object("latent_format").latent_channels
    return torch.randn(batch, channels, 8, 8, generator=torch.manual_seed(1))


def rows(model, count: int = 3) -> dict:
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.sid_core.data.conditioning import stack

    return stack([conditioning_tensors(model, tiny_models.conditioning(i), latent(model)) for i in range(count)])


def test_the_predictor_is_the_raw_network_with_the_methods_formula(model):
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.sid_core.method.process import Flow

    process = process_of(model)
    x_t, cond = latent(model), rows(model)
    network = model.model.diffusion_model
    context = cond["c_crossattn"]
    extra = {"y": cond["y"]} if "y" in cond else {}
    flow = isinstance(process, Flow)
    t = torch.tensor([0.2, 0.5, 0.9]) if flow else torch.tensor([100, 500, 900])
    with torch.no_grad(), torch.inference_mode():
        predicted = predictor(model.model, process)(x_t, t, cond)
        raw = network(x_t, t.float() * (1000 if flow else 1), context=context, transformer_options={}, **extra)
        expected = process.clean(raw, x_t, t)
    # ComfyUI keeps float32 sigmas, and x/α and back costs some digits where α is small.
    torch.testing.assert_close(predicted, expected, rtol=2e-3, atol=2e-3)


def test_each_sample_has_its_own_prompt(model):
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.sid_core.data.conditioning import select

    process = process_of(model)
    x_t, cond = latent(model), rows(model)
    t = torch.full((3,), 0.5) if process.default_t_init == 1 else torch.full((3,), 500)
    with torch.inference_mode():
        predict = predictor(model.model, process)
        together = predict(x_t, t, cond)
        for i in range(3):
            alone = predict(x_t[i : i + 1], t[i : i + 1], select(cond, torch.tensor([i])))
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)
        swapped = predict(x_t, t, select(cond, torch.tensor([1, 2, 0])))
    assert (together - swapped).abs().max() > 1e-4


def test_an_iteration_trains_the_student_and_leaves_the_model_alone(model):
    from sid_pack.nodes.host.conditioning import conditioning_tensors
    from sid_pack.nodes.host.model import predictor, process_of
    from sid_pack.nodes.host.weights import own_copy, with_gradients
    from sid_pack.sid_core.data.conditioning import PromptSet
    from sid_pack.sid_core.method.guidance import Guidance, guided
    from sid_pack.sid_core.training.distill import Bucket, Predictors, distill
    from sid_pack.sid_core.training.run import Run
    from sid_pack.sid_core.training.settings import Settings

    before = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    process = process_of(model)
    with torch.inference_mode(), with_gradients():
        conds = [conditioning_tensors(model, tiny_models.conditioning(i), latent(model)) for i in range(3)]
        prompts = PromptSet.of(["a", "b"], conds[:2], conds[2])
        student, fake, teacher = (own_copy(model, torch.float32) for _ in range(3))
        for network in (student, fake):
            network.diffusion_model.requires_grad_(True)
        settings = Settings(Guidance.lsg(1.5), steps=2, batch=2, student_learning_rate=1e-3, fake_learning_rate=1e-3)
        run = Run(student.diffusion_model, fake.diffusion_model, settings)
        strong = predictor(teacher, process)
        predict = Predictors(
            lambda x_t, t, cond, uncond: guided(strong, x_t, t, cond, uncond, 1.5),
            predictor(fake, process),
            predictor(student, process),
        )
        result = next(distill(run, predict, [Bucket(latent(model).shape[1:], prompts)], process, torch.device("cpu")))
    assert result.iteration == 1 and result.skipped == 0
    trained = student.diffusion_model.state_dict()
    moved = [key for key, value in before.items() if not torch.equal(trained[key], value)]
    assert len(moved) > 0.9 * len(list(student.diffusion_model.parameters()))
    for network in (model.model, teacher):
        state = network.diffusion_model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in before.items())


def test_a_student_is_loaded_and_unloaded_like_any_patch(model):
    import comfy.model_management

    from sid_pack.nodes.host.model import signature_of
    from sid_pack.nodes.host.weights import patched_weights
    from sid_pack.nodes.sampling.attached import as_student, student_info
    from sid_pack.sid_core.files.student import StudentInfo

    before = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    weights = {key: value + 0.25 for key, value in before.items()}
    info = StudentInfo(4, 625, signature_of(model), "run", "lsg")
    with torch.inference_mode():
        student = as_student(model, weights, info)
        patched = patched_weights(student, torch.float32)
        comfy.model_management.load_models_gpu([model])
    parameters = dict(model.model.diffusion_model.named_parameters())
    assert all(torch.equal(patched[key], weights[key]) for key in parameters)
    restored = model.model.diffusion_model.state_dict()
    assert all(torch.equal(restored[key], value) for key, value in before.items())
    assert student_info(student) == info and student_info(model) is None
    assert student_info(student.clone()) == info


def test_signatures_tell_architectures_apart(comfyui):
    from sid_pack.nodes.host.model import signature_of

    with torch.inference_mode():
        signatures = {signature_of(getattr(tiny_models, name)()) for name in MODELS}
        again = {signature_of(getattr(tiny_models, name)()) for name in MODELS}
    assert len(signatures) == len(MODELS) and signatures == again


def test_a_model_of_another_kind_of_sampling_is_refused(comfyui):
    from comfy.model_sampling import EDM, ModelSamplingContinuousEDM

    from sid_pack.nodes.host.model import process_of

    class Sampling(ModelSamplingContinuousEDM, EDM):
        pass

    with torch.inference_mode():
        model = tiny_models.sd15()
    model.add_object_patch("model_sampling", Sampling(model.model.model_config))
    with pytest.raises(ValueError, match="eps- or v-prediction model"):
        process_of(model)
