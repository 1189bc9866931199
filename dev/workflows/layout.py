"""Where everything on a sheet lies, in the editor's pixels. A node's place is that of its body, without the title."""

from dataclasses import dataclass

from .definitions import Definitions
from .measures import GROWS, TITLE, height
from .sheet import NOTE_WIDTH, Group, Sheet

NODE_GAP, COLUMN_GAP, GROUP_GAP = 24, 64, 28
GROUP_PADDING, GROUP_TITLE = 14, 40
FOLDED_WIDTH, FOLDED_GAP, UNFOLDED_WIDTH = 225, 36, 225


@dataclass(frozen=True)
class Box:
    """Without the title of a node, with that of a group. A folded node's is what it is unfolded."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height


@dataclass(frozen=True)
class Layout:
    """note, {node id: box}, and the groups in their order."""

    note: Box
    nodes: dict[int, Box]
    groups: list[tuple[Group, Box]]


def layout(sheet: Sheet, definitions: Definitions) -> Layout:
    """Columns side by side, their groups below each other, and the note above those of the first."""
    note = Box(0, 0, NOTE_WIDTH, sheet.note_height)
    nodes: dict[int, Box] = {}
    groups: list[tuple[Group, Box]] = []
    left, top = 0, note.bottom + GROUP_GAP
    for column in sheet.columns:
        for group in column.groups:
            group_top = top
            top += GROUP_TITLE + TITLE
            for node in group.nodes:
                if node.beside:
                    before = nodes[node.id - 1]
                    place = before.left + FOLDED_WIDTH + FOLDED_GAP, before.top
                else:
                    place = left, top
                    top += (
                        (FOLDED_GAP - NODE_GAP if node.folded else height(node, definitions) + GROWS.get(node.kind, 0))
                        + NODE_GAP
                        + TITLE
                    )
                width = min(column.width, UNFOLDED_WIDTH) if node.folded else column.width
                nodes[node.id] = Box(*place, width, height(node, definitions))
            bottom = top - NODE_GAP - TITLE + GROUP_PADDING
            frame = Box(left - GROUP_PADDING, group_top, column.width + 2 * GROUP_PADDING, bottom - group_top)
            groups.append((group, frame))
            top = bottom + GROUP_GAP
        left += column.width + COLUMN_GAP
        top = -TITLE - GROUP_TITLE
    return Layout(note, nodes, groups)
