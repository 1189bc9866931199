"""What other nodes make of IMAGE and MASK: put right where it is plain what they are, else refused at the node."""

import pytest
import torch
from adapter_files import adapter_tensors, clip_vision, flat
from safetensors.torch import save_file
from tiny_models import sd15

pytestmark = pytest.mark.usefixtures("comfyui")
WIDTHS, CONTEXT = [32, 64, 64, 64, 32, 32, 64], 16  # of the tiny SD1.5
COLOUR = torch.rand(2, 5, 7, 3, generator=torch.Generator().manual_seed(0))
SHADES = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1))
NAN = torch.tensor([torch.nan])


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (COLOUR, COLOUR),
        (COLOUR[0], COLOUR[:1]),
        (torch.cat([COLOUR, SHADES[..., None]], -1), COLOUR),
        (SHADES[..., None], SHADES[..., None].repeat(1, 1, 1, 3)),
        ((COLOUR * 255).to(torch.uint8), (COLOUR * 255).floor() / 255),
        (COLOUR.double(), COLOUR),
        (COLOUR[:, :1, :1], COLOUR[:, :1, :1]),
    ],
    ids=["as it should be", "one without a batch", "transparent", "grey", "8 bits", "double", "one pixel"],
)
def test_pictures_are_put_right(given, right):
    from sid_pack.nodes.image_prompts.inputs import pictures

    torch.testing.assert_close(pictures(given, "image"), right)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (SHADES, SHADES),
        (SHADES[0], SHADES[:1]),
        (SHADES[:, None], SHADES),
        (SHADES[:1, None], SHADES[:1]),
        (SHADES > 0.5, (SHADES > 0.5).float()),
        ((SHADES * 255).to(torch.uint8), (SHADES * 255).floor() / 255),
        (SHADES.half(), SHADES.half().float()),
        (SHADES[:, :1, :1], SHADES[:, :1, :1]),
        (torch.tensor([[[-1e-6, 1 + 1e-6]]]), torch.tensor([[[0.0, 1.0]]])),
    ],
    ids=["right", "no batch", "channel", "one, channel", "yes or no", "8 bits", "half", "one pixel", "rounded"],
)
def test_masks_are_put_right(given, right):
    from sid_pack.nodes.image_prompts.inputs import masks

    torch.testing.assert_close(masks(given, "mask"), right)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (COLOUR[..., :2], r"^Connect an IMAGE to image: it is of shape \(2, 5, 7, 2\)"),
        (COLOUR.movedim(-1, 1), r"it is of shape \(2, 3, 5, 7\)"),
        (COLOUR[0, ..., 0], r"it is of shape \(5, 7\)"),
        (COLOUR[None], r"it is of shape \(1, 2, 5, 7, 3\)"),
        (COLOUR[:0], r"^Look at what is connected to image: it is empty, of shape \(0, 5, 7, 3\)"),
        (COLOUR[:, :0], "it is empty"),
        (COLOUR * NAN, "^Look at the nodes before image: it has NaN"),
        (COLOUR / 0, "infinite"),
        (COLOUR.long(), "^Connect another source to image: it is of torch.int64"),
        (COLOUR.to(torch.complex64), "it is of torch.complex64"),
        (COLOUR.to("meta"), "^Connect another source"),
        (COLOUR.to_sparse(), r"torch.sparse_coo"),
        ("picture.png", "it is a str"),
    ],
    ids=str,
)
def test_pictures_that_are_none_are_refused(given, said):
    from sid_pack.nodes.image_prompts.inputs import pictures

    with pytest.raises(ValueError, match=said):
        pictures(given, "image")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (COLOUR, r"^Connect a MASK to mask: it is of shape \(2, 5, 7, 3\)"),
        (SHADES[0, 0], r"it is of shape \(7,\)"),
        (SHADES[:0], "^Look at what is connected to mask: it is empty"),
        (SHADES[:, :, :0], "it is empty"),
        (SHADES * NAN, "^Look at the nodes before mask: it has NaN"),
        (SHADES * 255, "^Scale mask to 0 … 1: its values are from"),
        (SHADES - 0.5, "^Scale mask to 0 … 1: its values are from -0"),
        (SHADES.int(), "^Connect another source to mask: it is of torch.int32"),
    ],
    ids=str,
)
def test_masks_that_are_none_are_refused(given, said):
    from sid_pack.nodes.image_prompts.inputs import masks

    with pytest.raises(ValueError, match=said):
        masks(given, "mask")


def test_the_node_looks_at_all_three(tmp_path):
    from sid_pack.nodes.image_prompts.attention import image_prompts
    from sid_pack.nodes.image_prompts.ip_adapter import CleanStyleIPAdapter
    from sid_pack.nodes.image_prompts.ip_adapter_files import load_adapter

    save_file(flat(adapter_tensors("base", WIDTHS, CONTEXT)), tmp_path / "adapter.safetensors")
    adapter, vision = load_adapter(tmp_path / "adapter.safetensors"), clip_vision(tmp_path)
    settings = {"weight": 1.0, "blocks": "all", "combine": "average", "start_percent": 0.0, "end_percent": 1.0}
    pictures = {"image": COLOUR[0], "negative_image": COLOUR[..., :1], "mask": SHADES[0]}

    def execute(**changes):
        inputs = settings | pictures | changes
        with torch.inference_mode():
            return CleanStyleIPAdapter.execute(sd15(), adapter, clip_vision=vision, **inputs).args[0]

    (_, (branch,)), *_ = image_prompts(execute()).values()
    torch.testing.assert_close(branch.mask.mask, SHADES[:1])
    for name, given in pictures.items():
        with pytest.raises(ValueError, match=f"before {name}: it has NaN"):
            execute(**{name: given * NAN})
