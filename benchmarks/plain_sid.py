"""A plain implementation of the SiD iteration, for ours to be compared with.

It works as the public training loop of SiD-LSG does (github.com/mingyuanzhou/SiD-LSG, sid_training_loop.py and
sid_sd_util.py): three whole networks and an average of the student; both halves of an iteration draw prompts and
pictures of their own; whatever calls a network encodes its prompts anew, and the empty prompt as often; guidance is a
doubled batch wherever its scale is not 1. It has one step, as that loop has where it is finished. Left out is what
would only slow it: that loop collects garbage and empties the GPU's cache in each iteration.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

T_INIT = 625
SCORE_TIMES = (20, 979)
CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class PlainSettings:
    """scales: κ1 of the fake score's training, κ2 = κ3 of the fake score, κ4 of the teacher."""

    scales: tuple[float, float, float]
    batch: int
    learning_rate: float
    ema_half_life_images: float


class PlainSiD:
    """network: the teacher, called as network(x_t, t, context=…). velocity: whether it predicts v and not ε.

    encode(texts) → (B, tokens, width). alphas_cumprod: ᾱ_t for t = 0 … 999. latent_shape: (C, H, W).
    """

    def __init__(
        self,
        network: nn.Module,
        encode: Callable[[Sequence[str]], Tensor],
        texts: Sequence[str],
        settings: PlainSettings,
        *,
        velocity: bool,
        alphas_cumprod: Tensor,
        latent_shape: tuple[int, ...],
        device: torch.device,
    ):
        self.encode, self.texts, self.settings = encode, texts, settings
        self.velocity, self.latent_shape, self.device = velocity, latent_shape, device
        self.alpha, self.sigma = alphas_cumprod.sqrt().to(device), (1 - alphas_cumprod).sqrt().to(device)
        self.networks = {"teacher": network.requires_grad_(False)}
        self.optimizers = {}
        for role in ("fake score", "student"):
            self.networks[role] = copy.deepcopy(network).float().requires_grad_(True)
            self.networks[role].dtype = torch.float32
            self.optimizers[role] = torch.optim.Adam(
                self.networks[role].parameters(), lr=settings.learning_rate, betas=(0.0, 0.999), eps=1e-8
            )
        self.average = [weight.detach().clone() for weight in self.networks["student"].parameters()]
        self.images = 0

    def iterate(self) -> None:
        """One update of the fake score, one of the student."""
        self.train_fake_score()
        self.train_student()
        self.images += self.settings.batch
        half_life = min(self.settings.ema_half_life_images, 0.05 * self.images)
        kept = 0.5 ** (self.settings.batch / half_life)
        self.follow(1 - kept)

    def train_fake_score(self) -> None:
        drops = torch.rand(self.settings.batch) < CAPTION_DROPOUT
        texts = ["" if drop else text for text, drop in zip(self.draw_texts(), drops, strict=True)]
        with torch.no_grad():
            picture = self.generate(texts)
        noise, t = torch.randn_like(picture), self.draw_times()
        predicted = self.guided("fake score", self.noised(picture, noise, t), t, texts, self.settings.scales[0])
        alpha, sigma = self.levels(t)
        # In v, snr/(snr+1) = α² as weight; snr, α and σ are those of each sample.
        error = alpha * (predicted - (alpha * noise - sigma * picture)) if self.velocity else predicted - noise
        self.update("fake score", error.square().sum() / self.settings.batch)

    def train_student(self) -> None:
        texts = self.draw_texts()
        self.networks["fake score"].requires_grad_(False)
        picture = self.generate(texts)
        noise, t = torch.randn_like(picture), self.draw_times()
        x_t = self.noised(picture, noise, t)
        by_fake = self.clean(self.guided("fake score", x_t, t, texts, self.settings.scales[1]), x_t, t)
        by_teacher = self.clean(self.guided("teacher", x_t, t, texts, self.settings.scales[2]), x_t, t)
        with torch.no_grad():
            distance = (picture - by_teacher).abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
        loss = ((by_teacher - by_fake) * (by_fake - picture) / distance).sum() / self.settings.batch
        self.update("student", loss)
        self.networks["fake score"].requires_grad_(True)

    def update(self, role: str, loss: Tensor) -> None:
        self.optimizers[role].zero_grad(set_to_none=True)
        loss.backward()
        for weight in self.networks[role].parameters():
            if weight.grad is not None:
                torch.nan_to_num(weight.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=weight.grad)
        self.optimizers[role].step()

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the average of the student towards it."""
        for average, weight in zip(self.average, self.networks["student"].parameters(), strict=True):
            average.lerp_(weight, share)

    def generate(self, texts: Sequence[str]) -> Tensor:
        """Pictures of the student, from noise in one step."""
        t = torch.full((len(texts),), T_INIT, device=self.device)
        x_t = self.levels(t)[1] * torch.randn(len(texts), *self.latent_shape, device=self.device)
        return self.clean(self.predict("student", x_t, t, self.encode(texts)), x_t, t)

    def guided(self, role: str, x_t: Tensor, t: Tensor, texts: Sequence[str], scale: float) -> Tensor:
        """The network's own prediction with guidance; both prompts are encoded whether they are used or not."""
        words, empty = self.encode(texts), self.encode([""] * len(texts))
        if scale == 1:
            return self.predict(role, x_t, t, words)
        doubled = torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([empty, words])
        without, with_words = self.predict(role, *doubled).chunk(2)
        return without + scale * (with_words - without)

    def predict(self, role: str, x_t: Tensor, t: Tensor, words: Tensor) -> Tensor:
        network = self.networks[role]
        dtype = next(network.parameters()).dtype
        words = words.to(self.device, dtype)
        return network(x_t.to(dtype), t, context=words, transformer_options={}).float()

    def noised(self, picture: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.levels(t)
        return alpha * picture + sigma * noise

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.levels(t)
        return alpha * x_t - sigma * prediction if self.velocity else (x_t - sigma * prediction) / alpha

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, (B, 1, 1, 1)."""
        return self.alpha[t].float().view(-1, 1, 1, 1), self.sigma[t].float().view(-1, 1, 1, 1)

    def draw_texts(self) -> list[str]:
        return [self.texts[i] for i in torch.randint(len(self.texts), (self.settings.batch,))]

    def draw_times(self) -> Tensor:
        low, high = SCORE_TIMES
        return torch.randint(low, high + 1, (self.settings.batch,), device=self.device)
