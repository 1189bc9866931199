"""What all nodes of the pack are: ComfyUI nodes that check their inputs and speak in words."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from .say import in_words, shown


class Node(io.ComfyNode):
    """A node whose inputs are as its schema says before `execute` is called, on every version of ComfyUI.

    Newer ones check what is typed in, but not what comes over a wire; 0.3.75 takes any text for a choice. What
    `validate_inputs` names is the node's own to check, as it is for ComfyUI. Errors of `execute` are said in words (see
    `in_words`); one in `fingerprint_inputs` is left for `execute` to tell.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, wrap in (("execute", _execute), ("fingerprint_inputs", _fingerprint), ("validate_inputs", _validate)):
            plain = getattr(vars(cls).get(name), "__func__", None)
            if plain and not hasattr(plain, "__wrapped__"):  # ComfyUI copies a class, what is wrapped included
                wrapped = functools.wraps(plain)(wrap(plain))
                wrapped.__signature__ = inspect.signature(plain)  # by which ComfyUI decides what to pass, and to check
                setattr(cls, name, classmethod(wrapped))


def _execute(execute: Callable) -> Callable:
    signature = inspect.signature(execute)

    def checked(cls: type[Node], *args: Any, **kwargs: Any) -> io.NodeOutput:
        with in_words():
            own = inspect.signature(cls.validate_inputs).parameters
            named = dict(zip(signature.parameters, (cls, *args), strict=False)) | kwargs
            check_inputs(cls.define_schema(), {name: value for name, value in named.items() if name not in own})
            return execute(cls, *args, **kwargs)

    return checked


def _fingerprint(fingerprint: Callable) -> Callable:
    def safe(cls: type[Node], *args: Any, **kwargs: Any) -> Any:
        try:
            return fingerprint(cls, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  whatever it is, `execute` meets it too and says it on the node
            return shown(error)

    return safe


def _validate(validate: Callable) -> Callable:
    def safe(cls: type[Node], *args: Any, **kwargs: Any) -> bool | str:
        try:
            found = validate(cls, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  a refusal in words, where the host would log a traceback
            return shown(error)
        return found if found is True else shown(found)

    return safe


def check_inputs(schema: io.Schema, values: dict[str, Any]) -> None:
    """Raise ValueError for the first input whose value is of another kind than its widget's, or outside of its range.

    values: those that the graph has; an optional input that it lacks is not among them. A node that is given whole
    lists has a list for each.
    """
    for widget in schema.inputs:
        if widget.id not in values:
            continue
        given = values[widget.id]
        for value in given if schema.is_input_list else [given]:
            if expected := _expected_instead(widget, value):
                raise ValueError(f"Set {widget.display_name or widget.id} to {expected}; it is {f'{value!r:.60}'}.")


def _expected_instead(widget: io.Input, value: object) -> str | None:
    """What a widget takes, where it does not take this value; None too for what is no widget."""
    if isinstance(widget, io.Combo.Input):
        fits = isinstance(value, str) and value in widget.options
        return None if fits else f"one of {', '.join(widget.options)}"
    if isinstance(widget, io.Boolean.Input):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(widget, io.String.Input):
        return None if isinstance(value, str) else "a text"
    if isinstance(widget, io.Int.Input | io.Float.Input):
        whole = isinstance(widget, io.Int.Input)
        is_one = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not (is_one and widget.min <= value <= widget.max):  # NaN is not within anything
            return f"a {'whole ' * whole}number from {widget.min:,} to {widget.max:,}"
    return None
