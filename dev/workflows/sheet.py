"""How a workflow is written down: columns of nodes, which take each other's outputs."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Output:
    """An output of a node, by the name it shows."""

    node: "Node"
    name: str


Value = str | int | float | bool | Output


@dataclass(frozen=True)
class Node:
    """inputs: what differs from the node's defaults. room: extra height, for pictures. control: what the editor does
    with its seed after a run."""

    id: int
    kind: str
    title: str | None
    inputs: dict[str, Value]
    room: int
    control: str

    def __getitem__(self, name: str) -> Output:
        return Output(self, name)


@dataclass(frozen=True)
class Column:
    """Nodes below each other, in a frame with a title."""

    title: str
    width: int
    nodes: list[Node] = field(default_factory=list)


class Sheet:
    """A workflow: a note, and right of it columns that nodes are added to, from left to right and top to bottom."""

    def __init__(self, name: str, note: str, *, note_height: int):
        self.name, self.note, self.note_height = name, note, note_height
        self.columns: list[Column] = []

    @property
    def nodes(self) -> list[Node]:
        return [node for column in self.columns for node in column.nodes]

    def column(self, title: str, *, width: int = 280) -> None:
        """Begin the next column."""
        self.columns.append(Column(title, width))

    def add(
        self, kind: str, title: str | None = None, /, *, room: int = 0, control: str = "randomize", **inputs: Value
    ) -> Node:
        """A node at the end of the latest column."""
        node = Node(len(self.nodes) + 1, kind, title, inputs, room, control)
        self.columns[-1].nodes.append(node)
        return node
