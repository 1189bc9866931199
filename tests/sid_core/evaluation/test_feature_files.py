import torch

from sid_pack.sid_core.evaluation.feature_files import Batch, FeatureFolder


def batch(count: int = 3) -> Batch:
    features = torch.arange(count * 4).view(count, 4).float()
    return Batch(features, torch.ones(count, 2), seconds=0.25, forwards=8.0)


def test_a_batch_comes_back_as_it_was(tmp_path):
    folder = FeatureFolder(tmp_path)
    assert folder.read(0, 3) is None
    folder.write(0, batch())
    read = folder.read(0, 3)
    assert torch.equal(read.features, batch().features) and torch.equal(read.alignment, batch().alignment)
    assert (read.seconds, read.forwards) == (0.25, 8.0)
    assert folder.read(0, 4) is None  # of another size
    folder.write(1, Batch(torch.zeros(3, 0), None, 1.0, 1.0))
    assert folder.read(1, 3).alignment is None and folder.read(1, 3).features.shape == (3, 0)


def test_no_wrong_byte_passes(tmp_path):
    folder = FeatureFolder(tmp_path)
    folder.write(0, batch())
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = folder.read(0, 3)
        assert found is None or (torch.equal(found.features, batch().features) and found.seconds == 0.25), place
    file.write_bytes(whole[:-5])
    assert folder.read(0, 3) is None


def test_pictures_to_look_at_are_kept_to_a_256th(tmp_path):
    folder = FeatureFolder(tmp_path)
    pictures = torch.rand(2, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    assert folder.shown(2) is None
    folder.show(pictures)
    assert (folder.shown(2) - pictures).abs().max() < 1 / 256
    assert folder.shown(3) is None
