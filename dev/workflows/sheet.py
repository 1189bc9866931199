"""How a workflow is written down: columns of named groups of nodes, which take each other's outputs."""

from dataclasses import dataclass, field

NOTE_WIDTH = 310


@dataclass(frozen=True)
class Output:
    """An output of a node, by the name it shows."""

    node: "Node"
    name: str


Value = str | int | float | bool | Output


@dataclass(frozen=True)
class Model:
    """A file that a user has to get: its name as it is chosen on a node, the folder of models, and the address."""

    name: str
    directory: str
    url: str


@dataclass(frozen=True)
class Node:
    """inputs: what differs from the node's defaults. room: extra height, for pictures. folded: only its title is shown.
    beside: right of the folded node before it, and not below. control: what the editor does with its seed after a run.
    """

    id: int
    kind: str
    title: str | None
    inputs: dict[str, Value]
    room: int
    folded: bool
    beside: bool
    control: str

    def __getitem__(self, name: str) -> Output:
        return Output(self, name)


@dataclass(frozen=True)
class Group:
    """Nodes below each other, in a frame with a title."""

    title: str
    nodes: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """Groups below each other."""

    width: int
    groups: list[Group] = field(default_factory=list)


class Sheet:
    """A workflow: columns that nodes are added to, from left to right and top to bottom, below a note at first."""

    def __init__(self, name: str, note: str, *, note_height: int, models: tuple[Model, ...] = ()):
        self.name, self.models = name, models
        self.note, self.note_height = note, note_height
        self.columns = [Column(NOTE_WIDTH)]

    @property
    def nodes(self) -> list[Node]:
        return [node for column in self.columns for group in column.groups for node in group.nodes]

    def column(self, title: str, *, width: int = 300) -> None:
        """Begin the next column, with a group."""
        self.columns.append(Column(width))
        self.group(title)

    def group(self, title: str) -> None:
        """Begin the next group, below the one before."""
        self.columns[-1].groups.append(Group(title))

    def add(
        self,
        kind: str,
        title: str | None = None,
        /,
        *,
        room: int = 0,
        folded: bool = False,
        beside: bool = False,
        control: str = "randomize",
        **inputs: Value,
    ) -> Node:
        """A node at the end of the latest group."""
        node = Node(len(self.nodes) + 1, kind, title, inputs, room, folded or beside, beside, control)
        self.columns[-1].groups[-1].nodes.append(node)
        return node
