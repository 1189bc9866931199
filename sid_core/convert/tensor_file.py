"""A safetensors file that is read some rows at a time, and never mapped: it takes no more memory than these."""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files.tensors import damaged

# As the format names them; what has no type in every torch that ComfyUI runs on is not among them.
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorFile(Mapping[str, Tensor]):
    """Its tensors by name, each read when asked for. metadata: what the file says of itself.

    Raises NotACheckpointError for a file that is no whole safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            # It checks that the sizes fit and that there are no holes, so that the header can be believed below.
            with safe_open(path, framework="pt") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
            with path.open("rb") as plain:
                self._start = 8 + int.from_bytes(plain.read(8), "little")
                header = json.loads(plain.read(self._start - 8))
        except (SafetensorError, RuntimeError, TypeError, OverflowError, OSError) as error:
            why = f"it is not a whole safetensors file, but truncated or of another kind ({error!s:.200})"
            raise damaged(path, why) from error
        self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if odd := next((entry["dtype"] for entry in self._entries.values() if entry["dtype"] not in TYPES), None):
            raise damaged(path, f"it has values of the kind {odd}, which can't be read here")

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shape(name)
        return self.rows(name, 0, shape[0] if shape else 1).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def dtype(self, name: str) -> torch.dtype:
        return TYPES[self._entries[name]["dtype"]]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` … `stop` - 1; a tensor without dimensions is one row."""
        shape, dtype = self.shape(name), self.dtype(name)
        row = prod(shape[1:]) * dtype.itemsize
        with self.path.open("rb") as file:
            file.seek(self._start + self._entries[name]["data_offsets"][0] + start * row)
            buffer = bytearray((stop - start) * row)
            if file.readinto(buffer) < len(buffer):
                raise damaged(self.path, "it has become shorter")
        if not buffer:
            return torch.empty((stop - start, *shape[1:]), dtype=dtype)
        return torch.frombuffer(buffer, dtype=dtype).reshape((stop - start, *shape[1:]))
