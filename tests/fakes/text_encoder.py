"""Stands in for the text encoder of a checkpoint, comfy.sd.CLIP as CheckpointLoaderSimple gives it.

A true CLIP has 123 million weights or more. What the nodes use of one is here: `tokenize`, and a CONDITIONING of
77 tokens out of `encode_from_tokens_scheduled`, of true widths and sizes; each text has its own random numbers.
"""

import zlib

import torch

TOKENS = 77


class FakeCLIP:
    """context: numbers a token (768 in SD1.5). pooled: numbers for the whole text (1280 in SDXL), or None."""

    def __init__(self, context: int, pooled: int | None):
        from comfy.model_patcher import ModelPatcher

        self.context, self.pooled = context, pooled
        # What tells text encoders apart: their weights and options.
        self.cond_stage_model = torch.nn.Linear(1, 1).requires_grad_(False)
        self.cond_stage_model.weight.fill_(context)
        self.patcher = ModelPatcher(self.cond_stage_model, torch.device("cpu"), torch.device("cpu"))
        self.tokenizer, self.tokenizer_options = self, {}
        self.layer_idx, self.use_clip_schedule = None, False

    def tokenize(self, text: str) -> dict[str, list]:
        return {"fake": [[(zlib.crc32(text.encode()), 1.0)]]}

    def encode_from_tokens_scheduled(self, tokens: dict[str, list]) -> list:
        ((token, _),) = tokens["fake"][0]
        generator = torch.Generator().manual_seed(token)
        words = torch.randn(1, TOKENS, self.context, generator=generator)
        pooled = None if self.pooled is None else torch.randn(1, self.pooled, generator=generator)
        return [[words, {"pooled_output": pooled}]]


class FakeTextEncoder:
    """A CLIP of these widths, in place of the loader's, which a file without a text encoder leaves empty."""

    CATEGORY = "tests"
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  (ComfyUI's name)
        return {"required": {"context": ("INT", {"default": 768}), "pooled": ("INT", {"default": 0})}}

    def run(self, context: int, pooled: int) -> tuple[FakeCLIP]:
        return (FakeCLIP(context, pooled or None),)


NODE_CLASS_MAPPINGS = {"FakeTextEncoder": FakeTextEncoder}
