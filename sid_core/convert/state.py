"""The network's tensors in what a pickle was read into, named as its state_dict names them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .budget import ITEM, Budget
from .errors import UnusableError, damaged
from .values import Global, Record, View

# Under which the files of trainers hold a network, the one to sample with first.
ROOTS = ("ema", "G_ema", "generator_ema", "G", "generator", "net", "model", "state_dict")
DEEPEST = 50  # modules within each other
LONGEST_NAME = 1_000
MOST_REPEATED = 1 << 20  # bytes of tensors that may have several names each, besides twice the file's
# What wrappers of modules put into names: anywhere, or before them all.
WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
OUTERMOST = "module"
# What tensors that aren't plain ones are made by, or are objects of.
TENSOR_MAKERS = ("torch._utils", "torch._tensor", "torch.distributed", "torch.distributed.tensor")
TENSOR_CLASSES = ("DTensor", "ShardedTensor", "Tensor", "Parameter")
RECONSTRUCTORS = (Global("copyreg", "_reconstructor"), Global("copy_reg", "_reconstructor"))
DEEPEST_ROOT = 2  # {"model": {"net": …, "ema": …}}
PLAIN = (str, int, float, bool, type(None))
CONFIG_DEEPEST = 8


@dataclass(frozen=True)
class Found:
    """The network under one root. others: the roots that hold one as well."""

    tensors: Mapping[str, Tensor]
    root: str
    class_name: str | None
    config: dict[str, Any]
    others: tuple[str, ...]


def find_network(content: Any, size: int, budget: Budget) -> Found:
    """size: bytes of the file. Raises UnusableError where there is no network, or one that can't be told whole."""
    node, root, others = content, "", []
    for _ in range(DEEPEST_ROOT):
        inside = _items(node)
        present = [name for name in ROOTS if name in inside]
        taken = next((name for name in present if _has_tensors(inside[name], budget)), None)
        if taken is None:
            break
        others += [name for name in present[present.index(taken) + 1 :] if _may_have_tensors(inside[name], budget)]
        node, root = inside[taken], taken
    node = _unwrapped(node)
    tensors = _tensors(_unprefixed(_leaves(node, budget)), 2 * size + MOST_REPEATED)
    if not tensors:
        raise UnusableError(f"it holds no tensors that have names, but {_described(content)}")
    return Found(tensors, root, _class_name(node), _config(node, budget), tuple(others))


def _items(node: Any) -> dict[Any, Any]:
    """What a dict has, or an object of a class derived from it; nothing for all else."""
    held = node.items if isinstance(node, Record) else node
    return held if isinstance(held, dict) else {}


def _part(module: Any, name: str) -> dict[Any, Any]:
    """_parameters, _buffers or _modules of a torch.nn.Module; empty where it is none."""
    return _items(module.attribute(name)) if isinstance(module, Record) else {}


def _is_module(node: Any) -> bool:
    return isinstance(node, Record) and isinstance(node.attribute("_modules"), dict)


def _children(node: Any, budget: Budget) -> Iterator[tuple[Any, Any, bool]]:
    """(key, value, whether it is a tensor or should be one) of a module, in the order of state_dict, or of a dict."""
    if not _is_module(node):
        for key, value in _items(node).items():
            if _is_tensor(value) or isinstance(value, dict | Record):
                yield key, value, _is_tensor(value)
        return
    unsaved = node.attribute("_non_persistent_buffers_set")
    unsaved = unsaved if isinstance(unsaved, list) else []
    budget.take(ITEM * len(unsaved))
    unsaved = {name for name in unsaved if isinstance(name, str)}
    yield from ((key, value, True) for key, value in _part(node, "_parameters").items())
    yield from ((key, value, True) for key, value in _part(node, "_buffers").items() if key not in unsaved)
    for key, value in _part(node, "_modules").items():
        if value is not None and not _is_module(value):
            raise UnusableError(f"its part {str(key)[:100]!r} keeps its weights in a way of its own")
        yield key, value, False


def _leaves(node: Any, budget: Budget, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all that is a tensor, or should be one."""
    if depth > DEEPEST:
        raise UnusableError(f"its parts are within each other more than {DEEPEST} deep, or in a circle")
    for key, value, is_tensor in _children(node, budget):
        budget.step()
        if value is None or not isinstance(key, str):
            continue
        name = f"{prefix}{key}"
        if len(name) > LONGEST_NAME:
            raise damaged(f"it has a name of more than {LONGEST_NAME:,} letters")
        if is_tensor:
            budget.take(4 * len(name))
            yield name, value
        else:
            yield from _leaves(value, budget, f"{name}.", depth + 1)


def _has_tensors(node: Any, budget: Budget) -> bool:
    return any(isinstance(value, View) for _, value in _leaves(node, budget))


def _may_have_tensors(node: Any, budget: Budget) -> bool:
    try:
        return _has_tensors(node, budget)
    except UnusableError:  # what isn't taken needs not be readable
        return False


def _is_tensor(value: Any) -> bool:
    """Whether it is one, or what PyTorch would make one of: quantized, sparse, distributed over machines."""
    if isinstance(value, Record) and isinstance(value.called, Global):
        return value.called.module in TENSOR_MAKERS or value.called.name in TENSOR_CLASSES
    return isinstance(value, View)


def _unwrapped(node: Any) -> Any:
    """The module within wrappers for several GPUs, compiling and sharding."""
    for _ in range(DEEPEST):
        inside = _part(node, "_modules")
        name = next(iter(inside), None)
        if len(inside) != 1 or name not in (*WRAPPED, OUTERMOST) or not _is_module(inside[name]):
            break
        node = inside[name]
    return node


def _unprefixed(leaves: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """With names as they are without wrappers."""
    named: dict[str, Any] = {}
    for name, value in leaves:
        _add(named, ".".join(part for part in name.split(".") if part not in WRAPPED), value)
    while named and all(name.startswith(f"{OUTERMOST}.") for name in named):
        shorter: dict[str, Any] = {}
        for name, value in named.items():
            _add(shorter, name.removeprefix(f"{OUTERMOST}."), value)
        named = shorter
    return named


def _add(named: dict[str, Any], name: str, value: Any) -> None:
    if name in named:
        raise UnusableError(f"it has two tensors of the name {name[:100]!r}")
    named[name] = value


def _tensors(named: dict[str, Any], most: int) -> dict[str, Tensor]:
    """most: bytes of them all, which can share memory."""
    tensors = {}
    for name, value in named.items():
        if not isinstance(value, View):
            made_by = value.called if isinstance(value, Record) else type(value).__name__
            raise UnusableError(f"its tensor {name[:100]!r} is of a kind that isn't read here ({str(made_by)[:100]})")
        most -= value.nbytes
        if most < 0:
            raise damaged("its tensors claim to be far larger than the file")
        tensors[name] = value.tensor()
    return tensors


def _class_name(node: Any) -> str | None:
    """Of a module: 'package.module.Class', which is never imported."""
    if not _is_module(node):
        return None
    called = node.called
    if called in RECONSTRUCTORS and node.arguments:  # protocols 0 and 1 name the class in the arguments
        called = node.arguments[0]
    return str(called)[:LONGEST_NAME] if isinstance(called, Global) else None


def _config(node: Any, budget: Budget) -> dict[str, Any]:
    """What diffusers keeps of a model's settings, as far as it is plain."""
    settings = _items(node.attribute("_internal_dict")) if isinstance(node, Record) else {}
    named = ((key, value) for key, value in settings.items() if isinstance(key, str))
    return {key: value for key, value in named if _is_plain(value, CONFIG_DEEPEST, budget)}


def _is_plain(value: Any, depth: int, budget: Budget) -> bool:
    budget.step()
    if isinstance(value, PLAIN):
        return True
    if depth == 0 or not isinstance(value, list | tuple | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    keyed = not isinstance(value, dict) or all(isinstance(key, str) for key in value)
    return keyed and all(_is_plain(each, depth - 1, budget) for each in inner)


def _described(content: Any) -> str:
    """What a file has in place of tensors."""
    if isinstance(content, dict):
        return f"a dict of {', '.join(str(key)[:30] for key in list(content)[:5]) or 'nothing'}"
    if isinstance(content, Record):
        return f"an object of {str(_class_name(content) or content.called)[:100]}"
    return f"a value of the kind {type(content).__name__}"
