"""Real pictures for a distillation: dealt out to the sizes it trains on, and encoded once, as its prompts are."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sid_core.data.conditioning import EncodedPrompts, Joined, PromptSet
from ...sid_core.data.latent_files import SHARD, KeptLatents, LatentFiles
from ...sid_core.data.pairs import Pairs
from ...sid_core.data.picture_set import Picture, PictureSet
from ...sid_core.data.pictures import Size, covers, fit, nearest_size
from ...sid_core.data.prompts import write_prompts
from ...sid_core.files.atomic import remove_dead
from ..host import say
from ..host.conditioning import conditioning_tensors
from ..host.fingerprints import latents_digest
from ..host.latents import pixels_per_cell
from ..host.progress import Progress
from ..sampling.guiders import SiDGuider
from .encoding import EncodingProgress, encoded, encodings_folder
from .memory import gigabytes, is_out_of_memory

LEFT_OUT = -1


@dataclass(frozen=True)
class Share:
    """The pairs whose pictures are trained at one size.

    shape: (C, …) of their latents; size: (width, height) in pixels. conditionings: captions that are encoded already.
    pairs: (N, 2), of each the picture's place in `pictures` and the caption's in `texts`, or after them in
    `conditionings`.
    """

    shape: tuple[int, ...]
    size: Size
    pictures: list[Picture]
    texts: list[str]
    conditionings: list[list]
    pairs: Tensor


def shares_of(images: PictureSet | None, model: ModelPatcher, shapes: Sequence[tuple[int, ...]], vae) -> list[Share]:
    """For each of the sizes (C, …) of latents its pairs, which may be none; nothing at all without images.

    Raises ValueError where none can be used, for latents of another model, and where there is no VAE to encode with.
    """
    if images is None:
        return []
    pixels = pixels_per_cell(model)
    if any(frames > 1 for shape in shapes for frames in shape[1:-2]) and any(p.image for p in images.pictures):
        raise ValueError(
            "Connect a latent of one frame, or take the images off SiD Distill: pictures can't be learnt as a video, "
            f"and the latents to learn are {' and '.join(map(str, shapes))}."
        )
    sizes = [(shape[-1] * pixels, shape[-2] * pixels) for shape in shapes]
    placed = [_placed(picture, shapes, sizes, images.scale_up) for picture in images.pictures]
    if all(place == LEFT_OUT for place in placed):
        raise ValueError(
            f"Give SiD Images larger pictures, connect a smaller latent, or set small_pictures to 'scale up': all of "
            f"its pictures ({len(placed):,}) are smaller than {' or '.join(map(named, sizes))}, or latents of another "
            "size."
        )
    if vae is None and any(picture.image for picture in images.pictures):
        raise ValueError("Connect the model's VAE to vae: the pictures of SiD Images are to be encoded with it.")
    return [_share(images, placed, i, shape, sizes[i]) for i, shape in enumerate(shapes)]


def left_out(images: PictureSet | None, shares: Sequence[Share], batch: int) -> list[str]:
    """What to warn of: pictures that are too small, sizes without pictures, and fewer pictures than a batch has."""
    said = []
    if images and (missing := len(images.pictures) - sum(len(share.pictures) for share in shares)):
        said.append(
            f"{missing:,} of {len(images.pictures):,} pictures of SiD Images are left out: they are smaller than the "
            "size to learn, or latents of another."
        )
    for share in shares:
        if not share.pictures:
            said.append(
                f"Give SiD Images pictures of about the shape of {named(share.size)}, or take that size away: there "
                "are none, and it is learnt without real pictures."
            )
        elif len(share.pictures) < batch:
            said.append(
                f"Give SiD Images more pictures: there {'is' if len(share.pictures) == 1 else 'are'} "
                f"{len(share.pictures)} for {named(share.size)}, and a batch has {batch}. So few are learnt by heart."
            )
    return said


def named(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def real_pictures(share: Share, clip, vae, guider: SiDGuider, progress: Progress) -> Pairs | None:
    """Its latents and its captions' conditioning; what is on disk already is not made again. None: it has no pairs.

    Call it inside `with_gradients()`. Raises the host's interrupt when the user has cancelled; what was made till then
    is kept. Raises ValueError for a VAE of another model, and for pictures that have changed since they were looked at,
    and OSError where the disk is too small.
    """
    if not share.pictures:
        return None
    latents = _latents(share, vae, guider.model_patcher, progress)
    return Pairs(latents, _captions(share, clip, guider, progress), share.pairs)


def _captions(share: Share, clip, guider: SiDGuider, progress: Progress) -> EncodedPrompts:
    latent, model = torch.zeros(1, *share.shape), guider.model_patcher
    parts: list[EncodedPrompts] = []
    if share.texts:
        parts.append(encoded(clip, write_prompts(share.texts), guider, latent, progress.node_id))
    if share.conditionings:
        uncond = conditioning_tensors(model, guider.empty_prompt, latent)
        conds = [conditioning_tensors(model, given, latent, like=uncond) for given in share.conditionings]
        parts.append(PromptSet.of([""] * len(conds), conds, uncond))
    return parts[0] if len(parts) == 1 else Joined(*parts)


def _placed(picture: Picture, shapes: Sequence[tuple[int, ...]], sizes: Sequence[Size], scale_up: bool) -> int:
    """The place of a picture's size, or LEFT_OUT."""
    if picture.latent is not None:
        shape = tuple(picture.latent.shape)
        if shape[0] != shapes[0][0]:
            raise ValueError(
                f"Connect latents of the model's own VAE to SiD Images: {picture.name} has {shape[0]} channels, and "
                f"this MODEL's have {shapes[0][0]}."
            )
        return shapes.index(shape) if shape in shapes else LEFT_OUT
    place = nearest_size(picture.size, sizes)
    return place if scale_up or covers(picture.size, sizes[place]) else LEFT_OUT


def _share(images: PictureSet, placed: list[int], which: int, shape: tuple[int, ...], size: Size) -> Share:
    here = {row: place for place, row in enumerate(row for row, i in enumerate(placed) if i == which)}
    pairs = [(picture, caption) for picture, caption in images.pairs.tolist() if picture in here]
    captions = {caption: place for place, caption in enumerate(sorted({caption for _, caption in pairs}))}
    of_texts = len(images.captions)
    return Share(
        shape,
        size,
        [images.pictures[row] for row in here],
        [images.captions[row] for row in captions if row < of_texts],
        [images.encoded[row - of_texts].conditioning for row in captions if row >= of_texts],
        torch.tensor([(here[picture], captions[caption]) for picture, caption in pairs]),
    )


def _latents(share: Share, vae, model: ModelPatcher, progress: Progress) -> KeptLatents:
    wired = {picture.digest: picture.latent for picture in share.pictures if picture.latent is not None}
    digests = [picture.digest for picture in share.pictures]
    # Latents that came over a wire need no VAE, and no folder of one.
    folder = encodings_folder() / (latents_digest(vae, share.size) if len(wired) < len(digests) else "none")
    remove_dead(folder)
    files = LatentFiles(folder, share.shape)

    def make(rows: Sequence[int]) -> None:
        """All of it that is done when the user cancels is kept."""
        made: dict[bytes, Tensor] = {}
        shown = EncodingProgress(len(rows), len(digests), progress.node_id, "pictures")
        try:
            for row in rows:
                comfy.model_management.throw_exception_if_processing_interrupted()
                made[digests[row]] = _encode(share.pictures[row], share, vae)
                if len(made) == SHARD:
                    files.write(made)
                    made = {}
                shown.update(1)
        finally:
            if made:
                files.write(made)

    scale = model.get_model_object("latent_format").process_in
    kept = KeptLatents(files, digests, wired, make, scale)
    if missing := kept.missing():
        _require_room(share, len(missing), progress)
        make(missing)
    return kept


def _require_room(share: Share, missing: int, progress: Progress) -> None:
    """Say how much the latents take. Raises OSError where there is no room for them."""
    wanted = missing * torch.Size(share.shape).numel() * 4
    place = encodings_folder()
    free = shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
    said = f"the latents of {missing:,} pictures of {named(share.size)} take {gigabytes(wanted)}"
    if wanted > free:
        raise OSError(
            "Free some space, give SiD Images fewer pictures, or let ComfyUI write to a larger disk "
            f"(--output-directory): {said}, and {say.shown(place)} has {gigabytes(free)} free."
        )
    progress.tell(f"{said} in {say.shown(place)}")


def _encode(picture: Picture, share: Share, vae) -> Tensor:
    """(C, …), as the VAE gives it."""
    pixels = torch.from_numpy(np.array(fit(picture.image(), share.size))).float() / 255
    try:
        with torch.inference_mode():
            latent = vae.encode(pixels[None])
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # noqa: BLE001  whatever a VAE makes of pictures that it is not for
        if is_out_of_memory(error):
            raise
        raise _wrong_vae(share, say.shown(error)) from error
    if tuple(latent.shape) != (1, *share.shape):
        raise _wrong_vae(share, f"it gives {tuple(latent.shape[1:])}")
    if not latent.isfinite().all():
        raise ValueError(
            f"Start ComfyUI with --fp32-vae, or connect another VAE: this one makes values that are not finite of "
            f"{picture.name}."
        )
    return latent[0].float().cpu()


def _wrong_vae(share: Share, why: str) -> ValueError:
    size = "x".join(map(str, share.shape))
    return ValueError(
        f"Connect the VAE that belongs to the model: of pictures of {named(share.size)} it is to make "
        f"latents of {size} ({why})."
    )
