"""Feature vectors of any number of pictures: in a file without a name, of which memory holds a part at a time."""

import tempfile
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024  # rows that are read at once


class FeatureRows:
    """N features of D numbers each, float32 on the disk. not_finite: how many of them have NaN or infinities."""

    def __init__(self, width: int):
        self.width, self.not_finite, self._count = width, 0, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with this object
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._count

    def append(self, features: Tensor) -> None:
        """(n, D). Raises ValueError for another width."""
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ValueError(
                f"Compare features of one image encoder: there are some of shape {tuple(features.shape)} among those "
                f"of width {self.width}."
            )
        features = features.detach().to("cpu", torch.float32).contiguous()
        self.not_finite += int((~features.isfinite().all(1)).sum())
        self._file.seek(0, 2)
        self._file.write(features.numpy().tobytes())
        self._count += len(features)

    def read(self, first: int, last: int) -> Tensor:
        """Rows first … last - 1 as (n, D) of float64, in which the statistics are computed."""
        last = min(last, self._count)
        self._file.seek(first * self.width * 4)
        content = bytearray(self._file.read((last - first) * self.width * 4))
        return torch.frombuffer(content, dtype=torch.float32).view(last - first, self.width).double()

    def chunks(self, first: int = 0, last: int | None = None, most: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """(place of its first row, rows) of first … last - 1, up to `most` rows at a time, or CHUNK."""
        last = self._count if last is None else last
        most = most or CHUNK
        for start in range(first, last, most):
            yield start, self.read(start, min(start + most, last))
