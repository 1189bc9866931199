"""What is seen of a student on its way: its pictures of some prompts, and the VAE that shows them."""

from collections.abc import Callable

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ...sid_core.data.conditioning import Cond, moved
from ...sid_core.method.process import VP, Flow
from ...sid_core.method.sampling import few_step, step_times
from ...sid_core.training.batch import Predictor
from ...sid_core.training.distill import Bucket, generator_for
from ...sid_core.training.settings import Settings
from ..host import say
from ..pictures.grid import labelled_rows
from .memory import is_out_of_memory

MOST_ROWS = 4
TEACHER_STEPS = 30  # of its pictures above the student's


def sample_few_step(
    student: Predictor,
    bucket: Bucket,
    settings: Settings,
    process: VP | Flow,
    device: torch.device,
    *,
    rows: Tensor,
    steps: int,
    at_once: int,
) -> Tensor:
    """The student's pictures (B, C, …) of these prompts (B,) in so many steps, from the same noise each time.

    at_once: that many of them go through the network together.
    """
    times = step_times(steps, process=process, t_init=settings.t_init)
    draw = generator_for(settings.seed, 0)
    noises = [torch.randn(len(rows), *bucket.latent_shape, generator=draw) for _ in range(steps)]

    def pictures(part: Tensor) -> Tensor:
        cond = moved(bucket.prompts.batch(rows[part]), device)
        first, *others = (noise[part].to(device) for noise in noises)
        following = iter(others)
        return few_step(lambda x_t, t: student(x_t, t, cond), first, times, process, next_noise=lambda: next(following))

    return torch.cat([pictures(part) for part in torch.arange(len(rows)).split(at_once)])


def sample_teacher(
    teacher: Callable[[Tensor, Tensor, Cond, Cond], Tensor],
    bucket: Bucket,
    settings: Settings,
    process: VP | Flow,
    device: torch.device,
    *,
    rows: Tensor,
    at_once: int,
) -> Tensor:
    """The teacher's pictures (B, C, …) of these prompts (B,), by DDIM from the noise that the student begins with."""
    times = step_times(TEACHER_STEPS, process=process, t_init=process.first_times(TEACHER_STEPS)[1])
    noise = torch.randn(len(rows), *bucket.latent_shape, generator=generator_for(settings.seed, 0))

    def pictures(part: Tensor) -> Tensor:
        cond, uncond = (
            moved(of, device) for of in (bucket.prompts.batch(rows[part]), bucket.prompts.unconditional(len(part)))
        )
        return few_step(
            lambda x_t, t: teacher(x_t, t, cond, uncond), noise[part].to(device), times, process, mode="ddim"
        )

    return torch.cat([pictures(part) for part in torch.arange(len(rows)).split(at_once)])


def shown_steps(steps: int) -> list[int]:
    """The numbers of steps that a preview is drawn with: all up to `steps`, but of many only some; most first."""
    return list(range(steps, 0, -1)) if steps <= MOST_ROWS else [steps, steps // 2, 1]


Show = Callable[[dict[str, Tensor], int], Image.Image]


def decoder(model: ModelPatcher, vae, shape: tuple[int, ...]) -> Show | None:
    """({label: latents of the method}, rows of labels that it is to fit) → one picture with all; None without a VAE.

    shape: (C, …) of such latents, of which one is decoded at once. Raises ValueError for a VAE of another model.
    """
    if vae is None:
        return None
    latent_format = model.get_model_object("latent_format")

    def show(sampled: dict[str, Tensor], beside: int) -> Image.Image:
        with torch.inference_mode():
            decoded = {label: vae.decode(latent_format.process_out(x.cpu())) for label, x in sampled.items()}
            return labelled_rows({label: first_frames(pictures) for label, pictures in decoded.items()}, beside)

    dimensions, wanted = getattr(vae, "latent_dim", 2), latent_format.latent_dimensions
    reason = f"its latents have {dimensions} dimensions, and this MODEL's {wanted}" if dimensions != wanted else None
    try:
        if reason is None:
            show({"": torch.zeros(1, *shape)}, 1)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # noqa: BLE001  whatever a VAE makes of latents that are not its own
        reason = say.shown(error)
        if is_out_of_memory(error):
            reason += "; a smaller latent, or no VAE and so no previews, takes less memory"
    if reason:
        size = "x".join(map(str, shape))
        raise ValueError(
            f"Connect the VAE that belongs to the model, or none: this one can't show latents of {size} ({reason})."
        )
    return show


def first_frames(pictures: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3) of what a VAE has decoded, of videos (B, T, H, W, 3) their beginning."""
    return pictures[:, 0] if pictures.ndim == 5 else pictures
