"""The demo's image encoder: a small CLIP vision of ComfyUI's own kind, which `demo/train_image_encoder.py` trained.

Whatever takes a CLIP_VISION takes it. It sees 64x64 pixels in patches of 8x8.
"""

from pathlib import Path

from comfy.clip_vision import ClipVisionModel

from ...sid_core.files.tensors import damaged, read_tensors
from .model import ASSETS

CONFIG = ASSETS / "image_encoder.json"  # the host takes such settings from a file alone
WEIGHTS = ASSETS / "image_encoder.safetensors"
PROJECTION = "visual_projection.weight"


def build_image_encoder() -> ClipVisionModel:
    """A CLIP_VISION of the demo's architecture; its weights are still to be loaded."""
    return ClipVisionModel(str(CONFIG))


def load_image_encoder(file: Path = WEIGHTS) -> ClipVisionModel:
    """The demo's CLIP_VISION. Raises NotACheckpointError for a file that is no whole one."""
    encoder, weights = build_image_encoder(), read_tensors(file)[0]
    missing, unknown = encoder.load_sd(weights)
    # Newer hosts do without a projection where the file has none.
    missing = {*missing, *({PROJECTION} - weights.keys())}
    if missing or unknown:
        raise damaged(file, f"{len(missing)} tensors of the demo's image encoder are missing, {len(unknown)} not its")
    return encoder
