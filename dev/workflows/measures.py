"""How much room a node needs, in the editor's pixels: the larger of what its two ways to draw a node take (the classic
canvas, and Nodes 2.0). The title is above the body, and not counted."""

from .definitions import Definitions, Input, inputs_of, own
from .sheet import Node

TITLE = 30
SLOT = 20
# Nodes of the pack that say something below their widgets, and the lines that they take for it.
SAYS = {"SiDPrompts": 1, "SiDScheduler": 1, "SiDGenerate": 1, "SiDSaveStudent": 3, "SiDLoadStudent": 1}
SAYS |= {"SiDExtractLoRA": 9}
SAID_LINE, SAID_EDGE = 14, 36
# What the pack's scripts draw on a node, below its widgets.
PANELS = {"CleanStyle": 140, "CleanStyleSpectrum": 222}
# Nodes that grow by a line when they have something to say of the student, and of what is expected: by so much at most.
GROWS = {"SiDDistill": 64, "SiDGenerate": 32, "SiDScheduler": 32}
CLASSIC_WIDGET, CLASSIC_BOX, CLASSIC_END = 24, 66, 16
VUE_WIDGET, VUE_TEXT, VUE_BOX, VUE_END, VUE_PACK, VUE_MISSING = 28, 36, 68, 14, 24, 24
PICTURE = 220  # at least this much for one that a node shows
SHOWS_CHOSEN_PICTURE = {"LoadImage"}
NAMES_A_FILE = {
    "CheckpointLoaderSimple",
    "CLIPVisionLoader",
    "CleanStyleIPAdapterLoader",
    "IPAdapterModelLoader",
    "SiDLoadStudent",
    "StyleModelLoader",
}


def height(node: Node, definitions: Definitions) -> int:
    """Of the body, with the room that the sheet asks for; unfolded."""
    inputs = inputs_of(node, definitions)
    slots = max(sum(not each.is_widget for each in inputs), len(definitions[node.kind]["output"]))
    needed = max(_classic(inputs), _vue(node, inputs, definitions))
    said = SAYS[node.kind] * SAID_LINE + SAID_EDGE if node.kind in SAYS else 0
    picture = PICTURE if node.kind in SHOWS_CHOSEN_PICTURE else 0
    return slots * SLOT + needed + said + PANELS.get(node.kind, 0) + max(node.room, picture)


def _classic(inputs: list[Input]) -> int:
    lines = sum((each.is_widget and not each.is_multiline) + each.has_control for each in inputs)
    return lines * CLASSIC_WIDGET + sum(each.is_multiline for each in inputs) * CLASSIC_BOX + CLASSIC_END


def _vue(node: Node, inputs: list[Input], definitions: Definitions) -> int:
    lines = sum(_vue_widget(each) for each in inputs if each.is_widget)
    upload = VUE_WIDGET if node.kind in SHOWS_CHOSEN_PICTURE else 0
    badges = own(node, definitions) * VUE_PACK + (node.kind in NAMES_A_FILE) * VUE_MISSING
    return lines + upload + badges + VUE_END


def _vue_widget(each: Input) -> int:
    if each.is_multiline:
        return VUE_BOX
    return VUE_TEXT if each.type == "STRING" else VUE_WIDGET
