"""Contact sheets: what is where."""

import numpy as np
import pytest
import torch


def test_a_frame_is_around_the_marked_pictures_alone():
    from contact_sheet import MARK, contact_sheet
    from PIL import ImageColor

    rows = {title: torch.zeros(3, 8, 8, 3) for title in ("a", "b")}
    marked = torch.tensor([[False, True, False], [False, False, False]])
    with_mark, plain = (np.asarray(contact_sheet(rows, ["x", "y", "z"], which)) for which in (marked, None))
    framed = (with_mark == ImageColor.getrgb(MARK)).all(-1)
    assert framed.any() and not (plain == ImageColor.getrgb(MARK)).all(-1).any()
    assert np.array_equal(with_mark[~framed], plain[~framed])
    down, across = np.nonzero(framed)
    inside = with_mark[down.min() + 3 : down.max() - 2, across.min() + 3 : across.max() - 2]
    assert inside.shape == (16, 16, 3) and not inside.any()  # the second picture, twice its size


def test_rows_of_another_length_than_the_captions_are_refused():
    from contact_sheet import contact_sheet

    with pytest.raises(ValueError, match="2 pictures for 1 captions"):
        contact_sheet({"a": torch.zeros(2, 8, 8, 3)}, ["x"])
