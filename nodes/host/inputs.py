"""The inputs of a node, described once: a dataclass that its schema is made of, and that its values come in.

    @dataclass(frozen=True, kw_only=True)
    class Inputs:
        steps: int = whole(4, 1, 64, "The student's steps.", part=(Settings, "steps"))

`widgets(Inputs)` is the schema's list, in the order of the fields; `Inputs(**values)` has what `execute` was given; and
`part(inputs, Settings)` is those of them that are fields of another dataclass.
"""

from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from typing import Any

from comfy_api.latest import io

WIDGET, PART = "widget", "part"
ADVANCED = {"advanced": True}  # for `browser=`


def wire(kind: type, tooltip: str, *, optional: bool = False) -> Any:
    """What only another node gives; `kind`: such as io.Model. None where an optional one is not connected."""

    def make(name: str) -> io.Input:
        return kind.Input(name, optional=optional, tooltip=tooltip)

    return field(default=None if optional else MISSING, metadata={WIDGET: make, PART: None})


def whole(default: int, low: int, high: int, tooltip: str, **more: Any) -> Any:
    """An integer. more: what else its widget has, and what `_described` takes, as everywhere below."""
    return _described(io.Int, default=default, min=low, max=high, tooltip=tooltip, **more)


def real(default: float, low: float, high: float, step: float, tooltip: str, **more: Any) -> Any:
    """A number. step: what the arrows of its widget change it by."""
    return _described(io.Float, default=default, min=low, max=high, step=step, tooltip=tooltip, **more)


def flag(default: bool, tooltip: str, **more: Any) -> Any:
    """True or false."""
    return _described(io.Boolean, default=default, tooltip=tooltip, **more)


def choice(options: Sequence[str], default: str, tooltip: str, **more: Any) -> Any:
    """One of some texts."""
    return _described(io.Combo, options=list(options), default=default, tooltip=tooltip, **more)


def text(default: str, tooltip: str, **more: Any) -> Any:
    """Any text."""
    return _described(io.String, default=default, tooltip=tooltip, **more)


def widgets(inputs: type) -> list[io.Input]:
    """A schema's inputs out of such a dataclass."""
    return [each.metadata[WIDGET](each.name) for each in fields(inputs)]


def part(inputs: Any, kind: type) -> dict[str, Any]:
    """The values that are fields of the dataclass `kind`, by their names in it."""
    placed = [(each.metadata[PART], getattr(inputs, each.name)) for each in fields(inputs) if each.metadata[PART]]
    return {name: value for (whose, name), value in placed if whose is kind}


def extra(widget: io.Input, **values: Any) -> io.Input:
    """The widget, with more for the browser to know (`/object_info`), where web/ reads it:

    advanced: shown only when more settings are asked for. first: above all others, wherever graphs have its value.
    ComfyUI 0.3.75 does not take these as arguments.
    """
    widget.extra_dict.update(values)
    return widget


def _described(
    kind: type,
    *,
    part: tuple[type, str] | None = None,
    absent: Any = MISSING,
    browser: dict[str, Any] | None = None,
    **widget: Any,
) -> Any:
    """part: of which dataclass it is a field, and of what name there. browser: see `extra`.

    absent: the value where a graph lacks the input, which makes it optional: a graph that was saved before there was
    one is to run as it did then, whatever the widget's default is.
    """

    def make(name: str) -> io.Input:
        return extra(kind.Input(name, optional=absent is not MISSING, **widget), **(browser or {}))

    return field(default=absent, metadata={WIDGET: make, PART: part})
