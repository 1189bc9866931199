"""What a ComfyUI says of its nodes (GET /object_info), and what follows from it for the nodes of a sheet."""

from dataclasses import dataclass
from typing import Any

from .sheet import Node, Output, Value

Definitions = dict[str, dict[str, Any]]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
# What the editor takes for a seed where a node does not say whether it is one.
SEEDS = ("seed", "noise_seed")


@dataclass(frozen=True)
class Input:
    """One input as its node defines it. A list of choices in the type's place is how older nodes write a combo."""

    name: str
    spec: list

    @property
    def type(self) -> str:
        return "COMBO" if isinstance(self.spec[0], list) else self.spec[0]

    @property
    def options(self) -> dict[str, Any]:
        return self.spec[1] if len(self.spec) > 1 else {}

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGETS and not self.options.get("forceInput")

    @property
    def is_multiline(self) -> bool:
        return bool(self.options.get("multiline"))

    @property
    def has_control(self) -> bool:
        """Whether the editor adds a widget for what happens to the value after a run."""
        return self.type == "INT" and self.options.get("control_after_generate", self.name in SEEDS)

    @property
    def default(self) -> Any:
        if "default" in self.options:
            return self.options["default"]
        return (self.spec[0] if isinstance(self.spec[0], list) else self.options["options"])[0]


def inputs_of(node: Node, definitions: Definitions) -> list[Input]:
    """In the editor's order, widgets last. Raises ValueError where the sheet sets one that the node does not have."""
    kinds = definitions[node.kind]["input"]
    specs = kinds.get("required", {}) | kinds.get("optional", {})
    if unknown := node.inputs.keys() - specs.keys():
        raise ValueError(f"{node.kind} has no input {', '.join(sorted(unknown))}; it has {', '.join(specs)}")
    return sorted((Input(name, spec) for name, spec in specs.items()), key=lambda each: each.is_widget)


def values_of(node: Node, definitions: Definitions) -> dict[str, Value]:
    """Every input that has a value: those that the sheet sets, and what its preset decides or the defaults of the
    other widgets."""
    inputs = inputs_of(node, definitions)
    defaults = {each.name: each.default for each in inputs if each.is_widget and each.name not in node.inputs}
    for each in inputs:
        if "decides" in each.options:
            defaults |= each.options["decides"].get(node.inputs.get(each.name), {})
    values = defaults | node.inputs
    return {each.name: values[each.name] for each in inputs if each.name in values}


def slot_of(output: Output, definitions: Definitions) -> int:
    return definitions[output.node.kind]["output_name"].index(output.name)


def own(node: Node, definitions: Definitions) -> bool:
    """Whether it comes with a pack, this one or another, and not with ComfyUI."""
    return definitions[node.kind]["python_module"].startswith("custom_nodes.")
