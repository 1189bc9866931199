"""Every widget of every node, given what no widget would send but an API client can."""

import math
from typing import Any

import pytest
from graphs import node

NAN, INF = float("nan"), float("inf")
NUMBERS = (NAN, INF, -INF, 1e308, -1e308, 2**63, -(2**63), 10**400, -1, 0.5)
OTHERS = ("", "lots", "LoRA", "\ud800", None, {}, [], [1, 2, 3], True)


class AnyKind(str):
    """A type of output that fits every input, for wires whose values are not looked at."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class Anything:
    """A node that a wire of any kind can come from."""

    RETURN_TYPES = (AnyKind("*"),)
    FUNCTION = "give"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802  the host's name for it
        return {"required": {}}

    def give(self) -> tuple:
        return (None,)


class Given(Anything):
    """The same with a value that comes over a wire, where the host looks at its kind alone."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:  # noqa: N802
        return {"required": {"number": ("INT", {"min": 0, "max": len(NUMBERS) + len(OTHERS)})}}

    def give(self, number: int) -> tuple:
        return ([*NUMBERS, *OTHERS][number],)


@pytest.fixture(autouse=True)
def wires(comfyui, monkeypatch):
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Anything", Anything)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Given", Given)


# As the README lists them; the last test compares that with what is registered.
NODES = (
    *("SiDScheduler", "SiDSampler", "SiDGenerate", "SiDLSGGuider", "SiDZeroCFGGuider", "SiDAntiCFGGuider"),
    *(
        "SiDPrompts",
        "SiDImages",
        "SiDDistill",
        "SiDTrainingOptions",
        "SiDSaveStudent",
        "SiDLoadStudent",
        "SiDExtractLoRA",
        "SiDDemoModel",
    ),
    *("SiDEvaluate", "SiDTrainingEvaluation"),
    *("CleanStyle", "CleanStyleIPAdapterLoader", "CleanStyleIPAdapter", "CleanStyleConditioning", "CleanStyleSpectrum"),
)


def described(class_type: str) -> dict[str, tuple[str, dict]]:
    """{input: (kind, its settings)}, as the server tells a browser."""
    import nodes

    inputs = nodes.NODE_CLASS_MAPPINGS[class_type].GET_NODE_INFO_V1()["input"]
    named = {**inputs["required"], **inputs.get("optional", {})}
    return {name: (entry[0], entry[1] if len(entry) > 1 else {}) for name, entry in named.items()}


def is_right(kind: str, told: dict, value: Any, *, typed: bool) -> bool:
    """Whether a node may run with it. typed: the host makes what it can of a typed value, as int("7").

    A list that is no wire is never right: it stands for one.
    """
    if typed and isinstance(value, list):
        return False
    try:
        if kind == "INT":
            value = int(value) if typed else value
            return isinstance(value, int) and not (isinstance(value, bool) and not typed) and in_range(told, value)
        if kind == "FLOAT":
            value = float(value) if typed else value
            is_number = isinstance(value, int | float) and not (isinstance(value, bool) and not typed)
            return is_number and math.isfinite(value) and in_range(told, value)
    except (TypeError, ValueError, OverflowError):
        return False
    if kind == "BOOLEAN":
        return typed or isinstance(value, bool)
    if kind == "STRING":
        return typed or isinstance(value, str)
    return value in told["options"]


def in_range(told: dict, value: float) -> bool:
    return told["min"] <= value <= told["max"]


def shown_name(name: str, told: dict) -> str:
    return told.get("display_name", name)


FILES = ("student", "ip_adapter", "style_encoder")  # whose choices are what lies on the disk: they have their own tests
WIDGETS = ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")


def graph(class_type: str, inputs: dict[str, tuple[str, dict]], **changes: Any) -> dict:
    import nodes

    given = {
        name: told.get("default", "") if kind in WIDGETS and name not in FILES else ["wire", 0]
        for name, (kind, told) in inputs.items()
    }
    given |= changes
    made = {"wire": node("Anything"), "asked": node(class_type, **given)}
    if not nodes.NODE_CLASS_MAPPINGS[class_type].OUTPUT_NODE:
        made["shown"] = node("PreviewAny", source=["asked", 0])
    return made


@pytest.mark.parametrize("class_type", NODES)
def test_what_is_typed_in_is_right_or_refused_by_the_input_s_name(run_graph, class_type):
    inputs = described(class_type)
    for name, (kind, told) in inputs.items():
        if kind not in WIDGETS or name in FILES:
            continue
        for value in (*NUMBERS, *OTHERS):
            if not is_right(kind, told, value, typed=True):
                result = run_graph(graph(class_type, inputs, **{name: value}))
                # ComfyUI says the input's name, and the pack what stands on the node.
                assert not result.success, (name, value)
                assert name in result.error or shown_name(name, told) in result.error, (name, value, result.error)
                assert "Traceback" not in result.error


@pytest.mark.parametrize("class_type", NODES)
def test_what_comes_over_a_wire_is_right_or_refused_by_the_input_s_name(run_graph, class_type):
    inputs = described(class_type)
    for name, (kind, told) in inputs.items():
        if kind not in WIDGETS or name in FILES:
            continue
        for number, value in enumerate((*NUMBERS, *OTHERS)):
            if is_right(kind, told, value, typed=False):
                continue
            asked = graph(class_type, inputs, **{name: ["given", 0]}) | {"given": node("Given", number=number)}
            result = run_graph(asked)
            assert not result.success and f"Set {shown_name(name, told)} to " in result.error, (
                name,
                value,
                result.error,
            )


def test_these_are_all_nodes_of_the_pack(comfyui):
    import nodes

    ours = {name for name, kind in nodes.NODE_CLASS_MAPPINGS.items() if kind.__module__.startswith("sid_pack.")}
    assert ours == set(NODES)
