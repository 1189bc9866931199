"""What the demo's pictures are trained as: in several sizes and places, the same as before on white."""

import pictures
import torch
from torch.nn.functional import interpolate


def test_a_placed_picture_is_the_whole_scaled_picture_and_white_around_it():
    torch.manual_seed(0)
    originals = torch.randint(0, 200, (5, 3, 64, 64), dtype=torch.uint8)
    canvases = pictures.at_sizes(originals)
    assert canvases.dtype == torch.uint8 and canvases.shape == (3, 5, 3, 64, 64)
    pick = torch.randint(5, (60,))
    seen_sizes, seen_corners = set(), set()
    for index, picture in zip(pick, pictures.placed(canvases, pick), strict=True):
        inked = (picture < 1).any(0)
        rows, columns = inked.any(1).nonzero()[:, 0], inked.any(0).nonzero()[:, 0]
        size = len(rows)
        expected = interpolate(originals[index, None].float(), (size, size), mode="bicubic", antialias=True)[0]
        found = picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] * 255
        torch.testing.assert_close(found, expected.clamp(0, 255), atol=0.51, rtol=0)
        assert (~inked).sum() == 64 * 64 - size * size
        seen_sizes.add(size)
        seen_corners.add((64 - size, int(rows[0]), int(columns[0])))
    assert seen_sizes == {56, 60, 64}
    assert {corner for free, *corner in seen_corners for corner in corner if free == 8} >= {0, 8}


def test_every_size_and_place_is_drawn_alike():
    torch.manual_seed(0)
    canvases = pictures.at_sizes(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    drawn = pictures.placed(canvases, torch.zeros(3000, dtype=torch.long))
    ink = (drawn[:, 0] == 0).sum((1, 2))
    assert torch.stack([(ink == size**2).float().mean() for size in pictures.SIZES]).sub(1 / 3).abs().max() < 0.03
    small = drawn[ink == 56**2][:, 0]
    tops = (small.amin(2) == 0).float().argmax(1).bincount(minlength=9) / len(small)
    torch.testing.assert_close(tops, torch.full((9,), 1 / 9), atol=0.04, rtol=0)


def test_all_call_the_styles_by_the_same_names(comfyui):
    from sid_pack.dev.workflows.parts import STYLES as IN_WORKFLOWS
    from sid_pack.nodes.demo.model import STYLES as TOLD_BY_THE_NODE

    assert pictures.STYLES == IN_WORKFLOWS == TOLD_BY_THE_NODE
