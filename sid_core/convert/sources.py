"""What a user has of a student: one file of any kind, its shards, or a folder of diffusers' or peft's."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.plain import parse, parse_file
from ..files.tensors import NotACheckpointError
from .errors import ForeignFileError
from .pickles import read_pickle
from .tensor_file import TensorFile
from .what import SAFETENSORS, SAFETENSORS_CUT, advice, kind_of

LONGEST = 20_000_000  # characters of a JSON; the index of a large model has some 200,000
COMPONENTS = ("transformer", "unet")  # folders of a pipeline
INDEX = ".index."
OF_A_FOLDER = ("diffusion_pytorch_model", "model.")  # what networks are called in a folder of their own
LORAS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_model.bin")


class Store(Mapping[str, Tensor]):
    """Tensors by name, of one file or several, read when asked for."""

    def __init__(self, files: Mapping[str, Mapping[str, Tensor]], release: Callable[[], None] = lambda: None):
        """files: for each name, what holds it. release: gives back the memory of what was read of a mapped file."""
        self._files = files
        self._release = release

    def __getitem__(self, name: str) -> Tensor:
        return self._files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        file = self._files[name]
        return file.shape(name) if isinstance(file, TensorFile | Store) else tuple(file[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        file = self._files[name]
        return file.dtype(name) if isinstance(file, TensorFile | Store) else file[name].dtype

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of a tensor; one without dimensions is one row."""
        file = self._files[name]
        if isinstance(file, TensorFile | Store):
            return file.rows(name, start, stop)
        self._release()
        tensor = file[name]
        return tensor[start:stop] if tensor.ndim else tensor.reshape(1)


@dataclass(frozen=True)
class Source:
    """place: what the user named, or the folder that it is of. kind: what it is, in words.

    config: diffusers' or peft's, of the network. metadata: of a safetensors file. dropped: parts of the file that were
    not looked into.
    """

    place: Path
    kind: str
    tensors: Store
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def open_source(path: Path) -> Source:
    """Look into a file or folder, without reading its weights.

    Raises ValueError (ForeignFileError, NotACheckpointError) for what holds no network, saying what it is.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ForeignFileError(f"Give a file or folder that there is: there is no {path.name}.")
    if shards := _shards_of(path):
        return shards
    return _single(path)


def _single(path: Path) -> Source:
    kind = kind_of(path)
    if kind == SAFETENSORS_CUT:
        raise ForeignFileError(advice(path, kind))
    if kind == SAFETENSORS:
        file = TensorFile(path)
        config = _adapter_config(file.metadata) or _config_beside(path)
        return Source(path, "safetensors", Store(dict.fromkeys(file, file)), config, file.metadata)
    state = read_pickle(path)
    what = f"a {kind} of {state.class_name.rpartition('.')[2]}" if state.class_name else f"a {kind}"
    under = f", its {state.root}" * bool(state.root)
    tensors = Store(dict.fromkeys(state.tensors, state.tensors), state.release)
    return Source(path, what + under, tensors, state.config or _config_beside(path), {}, state.others)


def _folder(folder: Path) -> Source:
    """A pipeline's folder, or that of its network, or of a LoRA. Python files in it are not looked at."""
    if (folder / ".metadata").is_file() and any(folder.glob("*.distcp")):
        raise ForeignFileError(
            f"Merge {folder.name} into one file first, with PyTorch's own "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save: it is a distributed checkpoint."
        )
    if lora := next((folder / name for name in LORAS if (folder / name).is_file()), None):
        source = _single(lora)
        config = source.config or _json(folder / "adapter_config.json")
        return Source(folder, f"a folder with {lora.name}", source.tensors, config, source.metadata, source.dropped)
    inner = next((folder / name for name in COMPONENTS if (folder / name / "config.json").is_file()), None)
    if inner is not None:
        source = _network(inner)
        return Source(folder, f"a diffusers pipeline, its {inner.name} {source.kind}", source.tensors, source.config)
    if not (folder / "config.json").is_file():
        raise ForeignFileError(
            f"Give one of the files, or the folder of a diffusers pipeline: {folder.name} is a folder without "
            "transformer/, unet/ or config.json."
        )
    source = _network(folder)
    return Source(folder, f"a diffusers folder {source.kind}", source.tensors, source.config)


def _network(folder: Path) -> Source:
    """The network in a folder with its config.json."""
    indices = sorted(folder.glob(f"*{INDEX}*json"), key=lambda file: (".bin" in file.name, len(file.name)))
    if indices:
        return _sharded(indices[0])
    files = [file for end in ("*.safetensors", "*.bin") for file in folder.glob(end)]
    if not files:
        raise ForeignFileError(f"Download {folder.name} whole: its folder has no .safetensors and no .bin file.")
    # Where there are several precisions, the full one has the shortest name.
    source = _single(min(files, key=lambda file: (file.suffix == ".bin", len(file.name))))
    return Source(folder, "in one file", source.tensors, _config(folder), source.metadata, source.dropped)


def _shards_of(path: Path) -> Source | None:
    """The whole set, where the file is one of it, or its index."""
    if INDEX in path.name and path.suffix == ".json":
        return _sharded(path)
    for index in path.parent.glob(f"*{INDEX}*json"):
        try:
            named = set(_weight_map(index).values())
        except ForeignFileError:
            continue  # of another model, in a folder that many share
        if path.name in named:
            return _sharded(index)
    return None


def _sharded(index: Path) -> Source:
    files: dict[str, Mapping[str, Tensor]] = {}
    held: dict[str, Mapping[str, Tensor]] = {}
    for name, file_name in _weight_map(index).items():
        if file_name not in files:
            path = index.parent / file_name
            if Path(file_name).name != file_name or not path.is_file():
                raise ForeignFileError(
                    f"Download {file_name!r:.100} as well: {index.name} names it, and it is not there."
                )
            files[file_name] = _single(path).tensors
        if name not in files[file_name]:
            raise NotACheckpointError(f"Download {file_name} again: {index.name} says that it has {name:.100}.")
        held[name] = files[file_name]
    count = f"in {len(files)} files"
    return Source(index.parent, count, Store(held), _config(index.parent))


def _weight_map(index: Path) -> dict[str, str]:
    held = _json(index).get("weight_map")
    fits = isinstance(held, dict) and all(isinstance(value, str) for value in held.values())
    if not (fits and held):
        raise ForeignFileError(f"Download {index.name} again: it does not say which file has which weight.")
    return held


def _adapter_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings in a file that diffusers wrote, whose names have the component in front."""
    try:
        said = parse(metadata.get("lora_adapter_metadata", "{}"), LONGEST)
    except ValueError:
        return {}
    return {str(name).partition(".")[2]: value for name, value in said.items()} if isinstance(said, dict) else {}


def _config_beside(path: Path) -> Mapping[str, Any]:
    """Of the file's own folder, as its name tells; in a folder that many share, the settings there are of another."""
    return _config(path.parent) if path.name in LORAS or path.name.startswith(OF_A_FOLDER) else {}


def _config(folder: Path) -> Mapping[str, Any]:
    """Of the network that lies in the folder, where it has one beside it."""
    return next(
        (_json(file) for name in ("config.json", "adapter_config.json") if (file := folder / name).is_file()), {}
    )


def _json(file: Path) -> dict[str, Any]:
    """A JSON object of a file; an empty one where there is no file. Raises ForeignFileError for anything else."""
    try:
        value = parse_file(file, LONGEST) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise ForeignFileError(f"Download {file.name} again: it can't be read as JSON ({error!s:.100}).") from error
    if not isinstance(value, dict):
        raise ForeignFileError(f"Download {file.name} again: it has no JSON object in it.")
    return value
