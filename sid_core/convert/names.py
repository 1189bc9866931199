"""What the names in a file say: which of them are the network's, and what they have in front of them."""

from collections import Counter
from collections.abc import Iterable

# What trainers wrap a module in, anywhere within a name.
WRAPPERS = {"module", "_fsdp_wrapped_module", "_orig_mod", "_checkpoint_wrapped_module"}
# Where in a training's state the student is: the average before the network itself, and what it is a part of.
ROOTS = (
    *("ema", "G_ema", "generator_ema", "net_ema", "G", "generator", "student", "net", "model", "state_dict"),
    *("diffusion_model", "unet", "transformer"),
)
UNKNOWN = {"SanaTransformer2DModel": "SANA", "SanaVideoTransformer3DModel": "SANA-Video"}
SANA = ".ff.conv_inverted.weight"


def network_names(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The network's names in the file, by the bare name of each; and those that are of something else."""
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    others: list[str] = []
    while root := _root(bare.values()):
        inside = {name: left.removeprefix(f"{root}.") for name, left in bare.items() if left.startswith(f"{root}.")}
        others += [name for name in bare if name not in inside]
        bare = inside
    return {left: name for name, left in bare.items()}, others


def told_by_group(names: Iterable[str]) -> str:
    """Such as 'logvar_linear (2), first_stage_model (248)', for names that are not used."""
    groups = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{group} ({count})" for group, count in groups.most_common())


def unknown_family(class_name: object, names: Iterable[str]) -> str | None:
    """What family it is of, where ComfyUI has none of that name."""
    if isinstance(class_name, str) and class_name in UNKNOWN:
        return UNKNOWN[class_name]
    return "SANA" if any(name.endswith(SANA) for name in names) else None


def _root(names: Iterable[str]) -> str | None:
    starts = {name.partition(".")[0] for name in names if "." in name}
    return next((root for root in ROOTS if root in starts), None)
