"""Checkpoint files that ComfyUI's own loaders take for SD1.5, SD2 with v-prediction and SDXL, at a small size.

What a file is, ComfyUI finds out from names and shapes: 320 channels, the width of the text, linear or convolutional
projections, for SDXL the number of transformer blocks too. Those are as in the real files; there are just fewer
blocks. The weights are random, at a scale that keeps all activations near 1, in float16 as in the files people have.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PREFIX = "model.diffusion_model."
# Two levels, and a transformer in the first; all of it is found again in the file.
UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [0, 0, 0, 1],
    "transformer_depth_middle": -2,
    "use_temporal_resblock": False,
    "use_temporal_attention": False,
}


@dataclass(frozen=True)
class Checkpoint:
    """One kind of file. detected: ComfyUI's class for it. prediction: its ModelType. unet: what makes it that.

    context, pooled: widths of what the text encoder of such a model gives. marker: a tensor besides the network's.
    """

    name: str
    detected: str
    prediction: str
    unet: dict
    context: int
    pooled: int | None = None
    marker: str | None = None

    def write(self, folder: Path) -> Path:
        """Save the file in `folder`; it is the same each time."""
        network = self.network()
        generator = torch.Generator().manual_seed(0)
        tensors = {PREFIX + key: initial(key, shape, generator) for key, shape in network.items()}
        if self.marker:
            tensors[self.marker] = 0.2 * torch.randn(320, generator=generator)
        path = folder / f"{self.name}.safetensors"
        save_file({key: tensor.half() for key, tensor in tensors.items()}, path)
        return path

    def network(self) -> dict[str, torch.Size]:
        """Names and shapes of the network's weights, as ComfyUI's class for it has them."""
        import comfy.supported_models

        description = getattr(comfy.supported_models, self.detected)(UNET | self.unet | {"context_dim": self.context})
        description.set_inference_dtype(torch.float32, None)
        model = description.get_model({}, "", device=torch.device("meta"))
        return {key: tensor.shape for key, tensor in model.diffusion_model.state_dict().items()}


def write_scaled_fp8(source: Path, target: Path) -> None:
    """The checkpoint as ComfyUI's "scaled fp8" files have it: linear layers in float8, with a scale for each."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in load_file(source).items():
        if key.startswith(PREFIX) and key.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448  # float8_e4m3fn's greatest number
            tensors[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            tensors[key.removesuffix(".weight") + ".scale_weight"] = scale
        else:
            tensors[key] = tensor
    tensors[PREFIX + "scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(tensors, target)


def initial(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A weight that passes on the size of its input: norms near 1, the others with variance 1 / inputs."""
    if len(shape) == 1:
        small = 0.05 * torch.randn(shape, generator=generator)
        return small + is_norm(key)
    return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5


def is_norm(key: str) -> bool:
    """Whether this vector scales its layer's normalised input; the UNets' only other vectors are biases."""
    return key.endswith(".weight")


CHECKPOINTS = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint("sd15", "SD15", "EPS", {"use_linear_in_transformer": False, "adm_in_channels": None}, context=768),
        # ComfyUI tells v-prediction by how far the biases of one norm in the twelfth output block are spread. This
        # small network has no such block, so the tensor is in the file for the detection alone.
        Checkpoint(
            "sd2_v",
            "SD20",
            "V_PREDICTION",
            {"use_linear_in_transformer": True, "adm_in_channels": None},
            context=1024,
            marker=PREFIX + "output_blocks.11.1.transformer_blocks.0.norm1.bias",
        ),
        # SDXL is told by its transformer blocks on the way down, 2 + 2 and 10 + 10; the file has those alone.
        Checkpoint(
            "sdxl",
            "SDXL",
            "EPS",
            {
                "num_res_blocks": [2, 2, 2],
                "channel_mult": [1, 1, 1],
                "transformer_depth": [0, 0, 2, 2, 10, 10],
                "transformer_depth_output": [0] * 9,
                "use_linear_in_transformer": True,
                "num_classes": "sequential",
                "adm_in_channels": 2816,
            },
            context=2048,
            pooled=1280,
        ),
    )
}
