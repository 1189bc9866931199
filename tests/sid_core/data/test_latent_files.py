"""Latents on disk: made once, found by their pictures, and never read as what was not written."""

import hashlib
import os
import random

import pytest
import torch

from sid_pack.sid_core.data.encodings import DamagedShardError
from sid_pack.sid_core.data.latent_files import KeptLatents, LatentFiles
from sid_pack.sid_core.data.pairs import Pairs
from sid_pack.sid_core.files.atomic import remove_dead

SHAPE = (4, 3, 2)


def digest(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest()


def latent(i: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(i))


def written(folder, *shards: range) -> LatentFiles:
    files = LatentFiles(folder, SHAPE)
    for shard in shards:
        files.write({digest(i): latent(i) for i in shard})
    return files


class Source:
    """Pictures 0 … n-1, and which of them were encoded."""

    def __init__(self, folder, count: int):
        self.encoded: list[int] = []
        self.kept = KeptLatents(
            LatentFiles(folder, SHAPE), [digest(i) for i in range(count)], {}, self.make, lambda latents: 2 * latents
        )

    def make(self, rows) -> None:
        self.encoded += rows
        self.kept.files.write({digest(i): latent(i) for i in rows})


def test_latents_are_found_whatever_else_is_there_and_in_any_order(tmp_path):
    written(tmp_path, range(5), range(5, 12), range(20, 21))
    again = LatentFiles(tmp_path, SHAPE)
    found = again.read([digest(i) for i in (11, 3, 20)])
    assert all(torch.equal(found[digest(i)], latent(i)) for i in (11, 3, 20))
    assert digest(12) not in again and digest(0) in again


def test_a_batch_is_in_the_order_asked_for_scaled_and_repeats_are_fine(tmp_path):
    source = Source(tmp_path, 6)
    source.make(source.kept.missing())
    batch = source.kept.batch(torch.tensor([4, 0, 4]))
    assert torch.equal(batch, torch.stack([2 * latent(i) for i in (4, 0, 4)]))
    assert Source(tmp_path, 8).kept.missing() == [6, 7]


def test_a_wired_latent_needs_no_file(tmp_path):
    source = Source(tmp_path / "none", 0)
    kept = KeptLatents(source.kept.files, [digest(7)], {digest(7): latent(7)}, source.make, lambda latents: latents)
    assert kept.missing() == [] and torch.equal(kept.batch(torch.tensor([0])), latent(7)[None])
    assert not (tmp_path / "none").exists()


def test_every_flipped_bit_is_noticed_and_only_that_shard_is_made_again(tmp_path):
    files = written(tmp_path, range(4), range(4, 8))
    file = files._places[digest(5)][0]
    whole = file.read_bytes()
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        source = Source(tmp_path, 8)
        source.make(missing) if (missing := source.kept.missing()) else None
        batch = source.kept.batch(torch.arange(8))
        assert torch.equal(batch, torch.stack([2 * latent(i) for i in range(8)]))
        assert source.encoded in ([], [4, 5, 6, 7])
        # Nothing but padding may be otherwise: what is not made again is what was written.
        assert source.encoded or file.read_bytes() == damaged
    assert file.read_bytes() == whole


def test_a_shard_damaged_or_gone_while_it_is_in_use_is_made_again(tmp_path):
    source = Source(tmp_path, 8)
    source.make(range(4))
    source.make(range(4, 8))
    source.encoded.clear()
    file = source.kept.files._places[digest(5)][0]
    content = bytearray(file.read_bytes())
    content[content.find(latent(5).numpy().tobytes()) + 9] ^= 4
    file.write_bytes(content)
    assert torch.equal(source.kept.batch(torch.tensor([1, 5, 7])), torch.stack([2 * latent(i) for i in (1, 5, 7)]))
    assert source.encoded == [4, 5, 6, 7]
    for each in tmp_path.iterdir():
        each.unlink()
    assert torch.equal(source.kept.batch(torch.tensor([1, 5])), torch.stack([2 * latent(i) for i in (1, 5)]))
    assert sorted(source.encoded[4:]) == list(range(8))


@pytest.mark.parametrize("part", [0, 4, 8, 100, 0.5, 0.99])
def test_a_shard_that_is_cut_short_is_dropped(tmp_path, part):
    file = written(tmp_path, range(4))._places[digest(0)][0]
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole)) if part < 1 else part])
    assert LatentFiles(tmp_path, SHAPE)._places == {} and not file.exists()


def test_latents_of_another_shape_or_format_in_the_folder_are_none(tmp_path):
    written(tmp_path, range(2))
    assert digest(0) not in LatentFiles(tmp_path, (4, 2, 3))
    from safetensors.torch import save_file

    save_file({"latents": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert LatentFiles(tmp_path, SHAPE)._places == {}


def test_what_a_killed_process_left_half_written_is_no_shard_and_is_removed(tmp_path):
    file = written(tmp_path, range(2))._places[digest(0)][0]
    half = tmp_path / f".{file.name}.0123abcd-1-0123abcd.tmp"
    half.write_bytes(file.read_bytes()[:100])
    file.unlink()
    os.utime(half, (0, 0))
    remove_dead(tmp_path)
    assert not half.exists() and LatentFiles(tmp_path, SHAPE)._places == {}


def test_a_read_that_fails_twice_is_an_error(tmp_path):
    source = Source(tmp_path, 2)
    source.make(range(2))
    broken = KeptLatents(source.kept.files, source.kept.digests, {}, lambda rows: None, source.kept.scale)
    next(tmp_path.iterdir()).write_bytes(b"x")
    with pytest.raises((DamagedShardError, KeyError)):
        broken.batch(torch.tensor([0]))


class Captions:
    def __len__(self) -> int:
        return 3

    def batch(self, rows):
        return {"c": rows[:, None].float()}

    def unconditional(self, batch):
        return {"c": torch.full((batch, 1), -1.0)}


def test_pairs_join_each_picture_with_its_caption(tmp_path):
    source = Source(tmp_path, 2)
    source.make(range(2))
    pairs = Pairs(source.kept, Captions(), torch.tensor([[0, 2], [1, 0], [0, 1]]))
    latents, cond = pairs.batch(torch.tensor([2, 1, 0, 2]))
    assert len(pairs) == 3
    assert torch.equal(latents, torch.stack([2 * latent(i) for i in (0, 1, 0, 0)]))
    assert cond["c"].flatten().tolist() == [1, 0, 2, 1]
