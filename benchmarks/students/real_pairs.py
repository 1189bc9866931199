"""Real pictures with the captions that students are distilled on, for the methods that learn from pictures too."""

import torch
from pictures import TRAINING, Pictures, at_sizes, placed
from torch import Tensor, nn

from sid_pack.sid_core.data.conditioning import Cond, EncodedPrompts

PAIRS_A_CAPTION = 9  # as many as there are styles


class RealPairs:
    """Each of the captions with training pictures that it fits, all captions in as many pairs.

    The pictures are those that the teacher learnt, in sizes and at places that are drawn anew for each batch, as it saw
    them. Raises ValueError for a caption that no training picture has.
    """

    def __init__(self, captions: tuple[str, ...], prompts: EncodedPrompts, pictures: Pictures, codec: nn.Module):
        """codec: with `encode`, on the CPU as the pictures are."""
        fitting: dict[str, list[int]] = {}
        for index in pictures.where(TRAINING).tolist():
            for styled in (False, True):
                fitting.setdefault(pictures.caption(index, styled), []).append(index)
        if unknown := [caption for caption in captions if caption not in fitting]:
            raise ValueError(
                f"Run demo/gather_pictures.py and demo/pack_captions.py anew: {len(unknown)} captions have no training "
                f"picture, such as {unknown[0]!r}."
            )
        table = [[fitting[text][i % len(fitting[text])] for i in range(PAIRS_A_CAPTION)] for text in captions]
        used, self.picture = torch.tensor(table).flatten().unique(return_inverse=True)
        self.canvases = at_sizes(pictures.images[used].permute(0, 3, 1, 2))
        self.prompts, self.codec = prompts, codec

    def __len__(self) -> int:
        return len(self.picture)

    @torch.no_grad()
    def batch(self, rows: Tensor) -> tuple[Tensor, Cond]:
        """The sizes and places depend on the rows alone, so that a resumed run sees the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int((rows * torch.arange(1, len(rows) + 1)).sum()))
            shown = placed(self.canvases, self.picture[rows])
        return self.codec.encode(shown * 2 - 1), self.prompts.batch(rows // PAIRS_A_CAPTION)
