"""The training iteration: a problem with a known answer, a second implementation, and what it costs."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from looks import Looks
from oracles import ToyDistillation, Watch, break_prompt, small, stable_diffusion_alphas, toy_prompts
from torch import Tensor, nn

from sid_pack.sid_core.data.conditioning import PromptSet
from sid_pack.sid_core.method.guidance import Guidance
from sid_pack.sid_core.method.process import VP, Flow, Process
from sid_pack.sid_core.method.sampling import few_step, step_times
from sid_pack.sid_core.training.distill import Bucket, Predictors, StepResult, distill, generator_for
from sid_pack.sid_core.training.ranks import Ranks
from sid_pack.sid_core.training.run import Run
from sid_pack.sid_core.training.settings import Settings
from sid_pack.sid_core.training.together import together

LSG, ZERO, ANTI = Guidance.lsg(2.0), Guidance.zero_cfg(), Guidance.anti_cfg(-1.0)
STRATEGIES = pytest.mark.parametrize("guidance", [LSG, ZERO, ANTI], ids=lambda guidance: guidance.name)
SD = VP.stable_diffusion()


# A problem with a known answer: Gaussian data, whose best denoiser is the Wiener filter.


class Wiener(nn.Module):
    """The exact clean prediction for data N(mean[prompt], exp(log_std)²)."""

    def __init__(self, process: Process, mean: Tensor, std: float):
        super().__init__()
        self.process = process
        self.mean = nn.Parameter(mean.clone())
        self.log_std = nn.Parameter(torch.tensor(std).log())

    def forward(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        alpha, sigma = (c.to(x_t.dtype)[:, None] for c in self.process.coefficients(t))
        mean, variance = cond["word"] @ self.mean[:, None], torch.exp(2 * self.log_std)
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x_t - alpha * mean)


class AffineStudent(nn.Module):
    """x_g = a x_t + b[prompt], with an a and b for each of the sampler's times."""

    def __init__(self, times: Tensor, prompts: int):
        super().__init__()
        self.times = times
        self.a = nn.Parameter(torch.full((len(times),), 0.1))
        self.b = nn.Parameter(torch.zeros(len(times), prompts))

    def forward(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        step = int((self.times.to(t) == t[0]).nonzero())
        return self.a[step] * x_t + cond["word"] @ self.b[step][:, None]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("process", [SD, Flow()], ids=["vp", "flow"])
def test_distillation_brings_the_student_to_the_data(process, steps):
    """Its steps together have the data's mean and deviation; a Gaussian fake score can't tell them apart."""
    iterations, means, std = 700, torch.tensor([-1.0, 0.5]), 0.4
    settings = Settings(
        Guidance.lsg(1.0),
        steps=steps,
        batch=256,
        student_learning_rate=0.01,
        fake_learning_rate=0.03,
        learning_rate_decay_iterations=iterations,
        ema_half_life_images=0,
        caption_dropout=0.0,
        adam_beta2=0.95,  # the first iterations have the largest gradients by far
    )
    times = step_times(steps, process=process)
    student = AffineStudent(times, 2)
    fake, teacher = Wiener(process, torch.zeros(2), 1.0), Wiener(process, means, std).requires_grad_(False)
    predict = Predictors(lambda x_t, t, cond, uncond: teacher(x_t, t, cond), fake, student)
    words = torch.eye(2)
    prompts = PromptSet.of(["low", "high"], [{"word": words[:1]}, {"word": words[1:]}], {"word": torch.zeros(1, 2)})
    results = distill(Run(student, fake, settings), predict, [Bucket((1,), prompts)], process, torch.device("cpu"))
    for _ in range(iterations):
        next(results)

    for row, mean in enumerate(means.tolist()):
        samples = draws_of_all_steps(student, process, {"word": words[row].expand(20_000, 2)})
        assert float(samples.mean()) == pytest.approx(mean, abs=0.06)
        assert float(samples.std()) == pytest.approx(std, rel=0.2 if steps > 1 else 0.05)
    # The fake score has followed: it knows what the student draws.
    torch.testing.assert_close(fake.mean.detach(), means, rtol=0, atol=0.06)
    assert math.exp(float(fake.log_std.detach())) == pytest.approx(std, rel=0.2 if steps > 1 else 0.05)


@torch.no_grad()
def draws_of_all_steps(student: AffineStudent, process: Process, cond: dict[str, Tensor]) -> Tensor:
    """As many of the first step's outputs as of the second's, and so on."""
    draw = torch.Generator().manual_seed(5)

    def noise() -> Tensor:
        return torch.randn(len(cond["word"]), 1, generator=draw)

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        return student(x_t, t, cond)

    parts = [student.times[: k + 1] for k in range(len(student.times))]
    return torch.cat([few_step(predict, noise(), times, process, next_noise=noise) for times in parts])


# A second implementation: the paper's formulas in ε-space, sample by sample, with hand-written gradients' steps.


class ByHand:
    """SiD for ToyNetworks in float64, from the formulas in terms of noise; Adam and EMA written out.

    kind says what the networks return. ε̂ = σ x_t + α v̂ for v, x_t + (1-t) v̂ for flow.
    """

    def __init__(self, kind: str, toy: ToyDistillation):
        self.kind, self.settings = kind, toy.run.settings
        self.prompts = toy.prompts.cond["word"]
        self.networks = {
            role: {name: weight.detach().clone().requires_grad_() for name, weight in network.named_parameters()}
            for role, network in (("teacher", toy.teacher), ("student", toy.run.student), ("fake", toy.run.fake))
        }
        self.second_moments = {role: None for role in ("student", "fake")}
        self.ema = [weight.detach().clone() for weight in self.networks["student"].values()]

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        if self.kind == "flow":
            return 1 - t, t
        bar = stable_diffusion_alphas()[int(t)]
        return math.sqrt(bar), math.sqrt(1 - bar)

    def noise_of(self, role: str, x_t: Tensor, t: float, word: Tensor) -> Tensor:
        """The network's ε̂ for one sample x_t (2,)."""
        w = self.networks[role]
        scaled = t if self.kind == "flow" else t / 1000
        out = torch.tanh(w["w"].T @ x_t + w["u"].T @ word + scaled * w["b"]) @ w["v"]
        alpha, sigma = self.alpha_sigma(t)
        return {"eps": out, "v": sigma * x_t + alpha * out, "flow": x_t + (1 - t) * out}[self.kind]

    def guided_noise(self, role: str, x_t: Tensor, t: float, word: Tensor, scale: float) -> Tensor:
        empty = torch.zeros_like(word)
        return (1 - scale) * self.noise_of(role, x_t, t, empty) + scale * self.noise_of(role, x_t, t, word)

    def clean(self, role: str, x_t: Tensor, t: float, word: Tensor) -> Tensor:
        alpha, sigma = self.alpha_sigma(t)
        if self.kind == "flow":  # at t = 1 the way over ε is 0/0
            scaled = self.networks[role]
            out = torch.tanh(scaled["w"].T @ x_t + scaled["u"].T @ word + t * scaled["b"]) @ scaled["v"]
            return x_t - t * out
        return (x_t - sigma * self.noise_of(role, x_t, t, word)) / alpha

    def adam(self, role: str, gradients: list[Tensor], rate: float, iteration: int) -> None:
        previous = self.second_moments[role] or [torch.zeros_like(g) for g in gradients]
        beta2 = self.settings.adam_beta2
        self.second_moments[role] = [beta2 * v + (1 - beta2) * g * g for v, g in zip(previous, gradients, strict=True)]
        for weight, g, v in zip(self.networks[role].values(), gradients, self.second_moments[role], strict=True):
            unbiased = v / (1 - beta2 ** (iteration + 1))
            weight.data -= rate * g / (unbiased.sqrt() + self.settings.adam_epsilon)

    def iterate(self, iteration: int) -> dict:
        """One iteration, the random numbers drawn in the order the implementation promises."""
        s, guidance, batch = self.settings, self.settings.guidance, self.settings.batch
        step = int(torch.randint(s.steps, (), generator=generator_for(s.seed, iteration)))
        draw = generator_for(s.seed, iteration, 0)

        def gaussian() -> Tensor:
            return torch.randn(batch, 2, 1, 1, generator=draw)[:, :, 0, 0]

        def score_times() -> list[float]:
            if self.kind == "flow":
                return (1 / (1 + torch.exp(-(math.log(2) + 1.6 * torch.randn(batch, generator=draw))))).tolist()
            return torch.randint(20, 980, (batch,), generator=draw).tolist()

        words = self.prompts[torch.randint(len(self.prompts), (batch,), generator=draw)]
        noises = [gaussian() for _ in range(step + 1)]
        dropped = torch.rand(batch, generator=draw) < s.caption_dropout
        fake_times, fake_noise = score_times(), gaussian()
        student_times, student_noise = score_times(), gaussian()

        pictures = [self.picture(words[i], [noise[i] for noise in noises]) for i in range(batch)]

        fake_loss = 0.0
        for i in range(batch):
            t, noise = fake_times[i], fake_noise[i]
            alpha, sigma = self.alpha_sigma(t)
            x_t = alpha * pictures[i].detach() + sigma * noise
            word = torch.zeros_like(words[i]) if dropped[i] else words[i]
            error = self.guided_noise("fake", x_t, t, word, guidance.fake_train) - noise
            # The network's own regression: on ε̂ for VP, on v̂ for flow, where ε̂ - ε = (1-t)(v̂ - v).
            fake_loss = fake_loss + error.square().sum() / (alpha**2 if self.kind == "flow" else 1) / batch
        fake_gradients = torch.autograd.grad(fake_loss, list(self.networks["fake"].values()))
        self.adam("fake", fake_gradients, s.fake_learning_rate, iteration)

        student_loss = 0.0
        for i in range(batch):
            t, noise = student_times[i], student_noise[i]
            alpha, sigma = self.alpha_sigma(t)
            x_t = alpha * pictures[i] + sigma * noise
            fake = self.guided_noise("fake", x_t, t, words[i], guidance.fake_score)
            teacher = self.guided_noise("teacher", x_t, t, words[i], guidance.teacher)
            # With y = (x_t - σ ε̂)/α: y_φ - y_ψ = σ/α (ε̂_ψ - ε̂_φ) and y_φ - x_g = σ/α (ε - ε̂_φ).
            product = (fake - teacher) @ ((noise - teacher) - s.alpha * (fake - teacher))
            ratio = sigma / alpha
            weight = 1 - t if self.kind == "flow" else 1 / (ratio * (noise - teacher).abs().mean().detach())
            student_loss = student_loss + ratio**2 * product * weight / batch
        student_gradients = torch.autograd.grad(student_loss, list(self.networks["student"].values()))
        self.adam("student", student_gradients, s.student_learning_rate, iteration)

        images = (iteration + 1) * batch
        kept = 0.5 ** (batch / min(s.ema_half_life_images, 0.05 * images))
        self.ema = [
            kept * average + (1 - kept) * weight.detach()
            for average, weight in zip(self.ema, self.networks["student"].values(), strict=True)
        ]
        return {
            "student": list(student_gradients),
            "fake": list(fake_gradients),
            "losses": (float(student_loss.detach()) / 2, float(fake_loss.detach()) / 2),
            "step": step + 1,
        }

    def picture(self, word: Tensor, noises: list[Tensor]) -> Tensor:
        """One sample of the student, x̂ cut off from its past at every step."""
        clean, steps = torch.zeros(2), self.settings.steps
        for i, noise in enumerate(noises):
            t = 1 - i / steps if self.kind == "flow" else float(int(625 * (steps - i) / steps))
            alpha, sigma = self.alpha_sigma(t)
            clean = self.clean("student", alpha * clean.detach() + sigma * noise, t, word)
        return clean


@pytest.fixture
def in_float64():
    """Everything without a dtype of its own is float64, the random numbers too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("kind", "guidance", "alpha"),
    [
        ("eps", LSG, 1.0),
        ("eps", ZERO, 1.0),
        ("eps", ANTI, 1.0),
        ("v", LSG, 1.2),
        ("flow", LSG, 1.0),
        ("flow", ANTI, 1.2),
    ],
)
def test_iterations_equal_a_second_implementation(kind, guidance, alpha):
    process = Flow() if kind == "flow" else VP.stable_diffusion(kind)
    settings = small(
        Settings(guidance, steps=3, alpha=alpha, caption_dropout=0.3, seed=4, ema_half_life_images=30), batch=5
    )
    toy = ToyDistillation(process, settings, time_scale=1.0 if kind == "flow" else 1e-3, dtype=torch.float64)
    by_hand = ByHand(kind, toy)
    steps = set()
    for iteration, result in zip(range(6), toy.iterations(), strict=False):
        expected = by_hand.iterate(iteration)
        assert result.step == expected["step"]
        assert (result.student_loss, result.fake_loss) == pytest.approx(expected["losses"], rel=1e-7)
        for role, network in (("student", toy.run.student), ("fake", toy.run.fake)):
            gradients = [parameter.grad for parameter in network.parameters()]
            torch.testing.assert_close(gradients, expected[role], rtol=1e-6, atol=1e-9)
            weights = [weight.detach() for weight in network.parameters()]
            expected_weights = [weight.detach() for weight in by_hand.networks[role].values()]
            torch.testing.assert_close(weights, expected_weights, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(toy.run.ema.average, by_hand.ema, rtol=1e-6, atol=1e-8)
        steps.add(result.step)
    assert steps == {1, 2, 3}  # else the rest was not compared


# What an iteration costs, and where gradients go.


@pytest.mark.parametrize(
    ("guidance", "training", "fake", "teacher"), [(LSG, 2, 2, 2), (ZERO, 1, 1, 1), (ANTI, 2, 2, 1)]
)
def test_each_strategy_costs_the_forwards_of_the_papers_table(guidance, training, fake, teacher):
    toy = ToyDistillation(SD, small(Settings(guidance, steps=4)))
    watch = Watch(toy)
    for _, result in zip(range(8), toy.iterations(), strict=False):
        assert (watch.count("fake", True), watch.count("fake", False)) == (training, fake)
        assert watch.count("teacher", False) == teacher
        assert (watch.count("student", False), watch.count("student", True)) == (result.step - 1, 1)
        watch.calls.clear()


def test_gradients_pass_through_the_students_last_step_alone():
    toy = ToyDistillation(SD, small(Settings(LSG, steps=4)))
    watch = Watch(toy)
    results = toy.iterations()
    while next(results).step < 3:
        watch.student_outputs.clear()
    *earlier, (x_t, last) = watch.student_outputs
    assert len(earlier) >= 2
    assert not any(clean.requires_grad for _, clean in earlier)
    assert not x_t.requires_grad
    assert last.requires_grad


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_captions_are_dropped_for_the_fake_scores_training_alone(dropout):
    toy = ToyDistillation(SD, small(Settings(ANTI, caption_dropout=dropout)))
    watch = Watch(toy)
    toy.train(2)
    trained_with_words = [bool(rows.any()) for role, trained, rows in watch.calls if (role, trained) == ("fake", True)]
    used_with_words = [bool(rows.any()) for role, trained, rows in watch.calls if (role, trained) == ("fake", False)]
    # κ ≠ 0, 1 asks twice: with the ∅-prompt, and with the captions.
    assert trained_with_words == ([False, False] if dropout else [False, True]) * 2
    assert used_with_words == [False, True] * 2
    assert all(rows.any() for role, _, rows in watch.calls if role in ("student", "teacher"))


def test_the_teacher_stays_as_it_is():
    toy = ToyDistillation(SD, small(Settings(LSG)))
    before = [weight.clone() for weight in toy.teacher.parameters()]
    toy.train(3)
    for weight, old in zip(toy.teacher.parameters(), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.grad is None


def test_between_iterations_every_trained_weight_can_be_trained():
    toy = ToyDistillation(SD, small(Settings(LSG)))
    toy.train(1)
    assert all(weight.requires_grad for network in (toy.run.student, toy.run.fake) for weight in network.parameters())


def told(result: StepResult) -> dict[str, float]:
    """What there is of it: the adversarial losses are of runs with real pictures alone."""
    return {name: value for name, value in asdict(result).items() if value is not None}


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_learn_what_the_whole_batch_does(size, broken):
    settings = small(Settings(ANTI, steps=3, caption_dropout=0.3, gradient_norm=0.5), batch=5)
    whole, split = (ToyDistillation(SD, settings, dtype=torch.float64) for _ in range(2))
    if broken:
        break_prompt(whole, word=1)
        break_prompt(split, word=1)
    in_parts = distill(split.run, split.predict, split.buckets, SD, torch.device("cpu"), micro_batch=size)
    skipped = 0
    for _, expected, result in zip(range(8), whole.iterations(), in_parts, strict=False):
        assert told(result) == pytest.approx(told(expected), rel=1e-9)
        skipped += result.skipped
    assert bool(skipped) == broken
    torch.testing.assert_close(split.weights(), whole.weights(), rtol=1e-9, atol=1e-12)


def test_no_more_than_a_micro_batch_goes_through_a_network_at_once():
    toy = ToyDistillation(SD, small(Settings(LSG), batch=5))
    watch = Watch(toy)
    next(distill(toy.run, toy.predict, toy.buckets, SD, torch.device("cpu"), micro_batch=2))
    assert {len(rows) for _, _, rows in watch.calls} == {2, 1}


def test_spread_and_magnitude_are_of_the_students_pictures():
    toy = ToyDistillation(SD, small(Settings(LSG), batch=4))
    watch = Watch(toy)
    result = toy.train(1)[0]
    pictures = watch.student_outputs[-1][1].detach()
    assert result.spread == pytest.approx(float(((pictures - pictures.mean(0)) ** 2).mean(0).sqrt().mean()), rel=1e-5)
    assert result.magnitude == pytest.approx(float(pictures.norm() / pictures.numel() ** 0.5), rel=1e-5)


# Several sizes.


def test_an_iteration_is_of_one_size_and_all_are_drawn_alike():
    toy = ToyDistillation(SD, small(Settings(ZERO, steps=2), batch=2))
    shapes: list[tuple] = []
    words: list[int] = []

    def predict(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        shapes.append(tuple(x_t.shape[1:]))
        words.append(cond["word"].shape[1])
        return x_t * next(toy.run.student.parameters()).flatten()[0]

    def fake(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        shapes.append(tuple(x_t.shape[1:]))
        return x_t * next(toy.run.fake.parameters()).flatten()[0]

    toy.predict = Predictors(lambda x_t, t, cond, uncond: x_t * 0.5, fake, predict)
    more = [Bucket((2, 3, 5), toy_prompts(4)), Bucket((2, 5, 3), toy_prompts(5))]
    results = distill(toy.run, toy.predict, [*toy.buckets, *more], SD, torch.device("cpu"))
    seen = []
    for _ in range(300):
        next(results)
        assert len(set(shapes)) == 1
        assert len(set(words)) == 1
        seen.append((shapes[0], words[0]))
        shapes.clear()
        words.clear()
    counts = [seen.count(kind) for kind in (((2, 1, 1), 3), ((2, 3, 5), 4), ((2, 5, 3), 5))]
    assert sum(counts) == 300
    assert all(70 < count < 130 for count in counts)


# Randomness.


def outcome(seed: int = 0, rank: int = 0, iterations: int = 4) -> tuple[list, list[Tensor]]:
    toy = ToyDistillation(SD, small(Settings(LSG, seed=seed)))
    toy.run.ranks = Ranks(rank)
    results = distill(toy.run, toy.predict, toy.buckets, SD, torch.device("cpu"))
    return [next(results) for _ in range(iterations)], toy.weights()


def test_the_same_seed_is_the_same_run_whatever_else_draws_random_numbers():
    torch.manual_seed(1)
    first, weights = outcome()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, weights_again = outcome()
    assert first == again
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert outcome(seed=1)[0] != first


def test_ranks_draw_their_own_pictures_for_the_same_steps():
    first, other = outcome(rank=0, iterations=8)[0], outcome(rank=1, iterations=8)[0]
    assert [result.step for result in first] == [result.step for result in other]
    assert all(a.fake_loss != b.fake_loss for a, b in zip(first, other, strict=True))


def test_generators_differ_by_seed_iteration_and_rank():
    keys = [(seed, iteration, rank) for seed in (0, 1, -1, 2**53) for iteration in range(3) for rank in (None, 0, 1)]
    drawn = {float(torch.rand((), generator=generator_for(*key), dtype=torch.float64)) for key in keys}
    assert len(drawn) == len(keys)


def test_every_step_is_drawn_equally_often():
    toy = ToyDistillation(SD, small(Settings(ZERO, steps=4), batch=1))
    steps = [result.step for result in toy.train(600)]
    counts = torch.tensor([steps.count(k) for k in range(1, 5)], dtype=torch.float64)
    assert counts.sum() == 600
    assert float(((counts - 150) ** 2 / 150).sum()) < 16.3  # χ² with 3 degrees of freedom, p = 0.001
    pairs = {(a, b) for a, b in zip(steps, steps[1:], strict=False)}
    assert len(pairs) == 16  # no step decides the next


def test_the_fake_score_is_updated_as_often_as_asked_on_pictures_of_their_own():
    toy = ToyDistillation(SD, small(Settings(ZERO, fake_updates=3)))
    watch = Watch(toy)
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1

    toy.run.fake_optimizer.register_step_post_hook(count)
    results = toy.train(2)
    assert steps == 6
    assert watch.count("fake", True) == 6
    assert watch.count("fake", False) == watch.count("student", True) == 2
    inputs = [x_t for x_t, clean in watch.student_outputs]
    assert len({tuple(x_t.flatten().tolist()) for x_t in inputs}) == len(inputs)
    once = ToyDistillation(SD, small(Settings(ZERO)))
    assert results[0].step == once.train(1)[0].step


def test_nothing_waits_for_the_device_within_forwards_and_between_the_students_steps():
    toy = ToyDistillation(SD, small(Settings(LSG, steps=4)))
    for result in zip(range(6), toy.iterations(), strict=False):
        assert result
    with Looks() as looks:
        few_step(
            lambda x_t, t: toy.predict.student(x_t, t, {"word": torch.eye(3)}),
            torch.randn(3, 2, 1, 1),
            step_times(4, process=SD),
            SD,
        )
    assert looks.count == 0
    with Looks() as looks:
        next(toy.iterations())
    # The drawn step and size, which are on the CPU; whether pictures and scores are finite.
    assert looks.count == 4


# Several predictions in one batch.


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("guidance", [LSG, ZERO, ANTI])
def test_one_batch_learns_what_separate_forwards_do(guidance, micro_batch):
    settings = small(Settings(guidance, steps=2, caption_dropout=0.3), batch=5)
    apart, folded = (ToyDistillation(SD, settings, dtype=torch.float64) for _ in range(2))
    apart.predict = replace(apart.predict, at_once=lambda: False)
    inner = folded.predict

    def both(x_t, t, conds, cond, uncond, judged):
        return together(inner.fake, x_t, t, conds), None, inner.teacher(x_t, t, cond, uncond)

    folded.predict = replace(inner, both=both)
    results = []
    for toy in (apart, folded):
        iterations = distill(toy.run, toy.predict, toy.buckets, SD, torch.device("cpu"), micro_batch=micro_batch)
        results.append([told(next(iterations)) for _ in range(3)])
    for one, other in zip(*results, strict=True):
        assert one == pytest.approx(other, rel=1e-10, abs=1e-10)
    for one, other in zip(apart.weights(), folded.weights(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
