"""The demo teacher with its prompts and pictures, as all contestants get it. Needs `host.start_comfyui()` first."""

from functools import cached_property
from pathlib import Path

import torch
from pictures import ASSETS, FILE, load_pictures
from real_pairs import RealPairs

from sid_pack.nodes.demo.model import load_demo
from sid_pack.nodes.host.conditioning import conditioning_tensors
from sid_pack.nodes.host.model import process_of
from sid_pack.nodes.sampling.guiders import SiDGuider
from sid_pack.sid_core.data.conditioning import PromptSet
from sid_pack.sid_core.method.guidance import Guidance

CAPTIONS = ASSETS / "emoji_names.txt"
LATENT_SIDE = 8


class World:
    """model: the teacher's MODEL, for training alone. latent_shape: (C, H, W)."""

    def __init__(self, pictures: Path = FILE, captions: tuple[str, ...] | None = None):
        """captions: by default all that the demo's students are distilled on."""
        self.model, self.clip, self.vae = load_demo()
        self.process = process_of(self.model)
        self.latent_shape = (self.model.get_model_object("latent_format").latent_channels, LATENT_SIDE, LATENT_SIDE)
        self.pictures_file = pictures
        self.captions = captions or tuple(
            line for line in CAPTIONS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
        )

    def conditioning(self, text: str) -> list:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    @cached_property
    def prompts(self) -> PromptSet:
        latent = torch.zeros(1, *self.latent_shape)
        with torch.no_grad():
            *conds, uncond = (
                conditioning_tensors(self.model, self.conditioning(text), latent) for text in (*self.captions, "")
            )
        return PromptSet.of(self.captions, conds, uncond)

    @cached_property
    def pairs(self) -> RealPairs:
        """Raises FileNotFoundError where the pictures are not gathered yet."""
        return RealPairs(self.captions, self.prompts, load_pictures(self.pictures_file), self.vae.first_stage_model)

    def guider(self, guidance: Guidance) -> SiDGuider:
        guider = SiDGuider(self.model, guidance, None, 0.0)
        guider.set_conds(self.conditioning(""), self.conditioning(""))
        return guider
