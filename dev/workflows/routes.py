"""Reroutes, so that no link runs behind a node: through the gaps between columns, and in lanes between nodes or above
all of them. Where the editor's own curve is free, there are none."""

import itertools
from collections.abc import Iterator

from .curves import Point, points_on
from .definitions import Definitions, inputs_of
from .layout import COLUMN_GAP, FOLDED_WIDTH, GROUP_TITLE, Box, Layout
from .measures import GROWS, SLOT, TITLE
from .sheet import Node, Sheet

FIRST_SLOT = 14  # from a body's top to the middle of its first slot
# How far a link may be behind its own two nodes, where it leaves the one and meets the other, and how far it is to stay
# from all others: the two ways to draw a node have their slots in slightly different places.
NEAR, CLEAR = 12, 6
LANE, FROM_NODES = 12, 8  # between lanes, and from a lane to a node
WAYS = (0, 10, -10, 18, -18)  # where links go in a gap between columns, from its middle
BESIDE = 16  # from the end of a folded node to a link that goes up or down there
MOST = 6  # lanes above all, and below
STEEP = 160  # from here on a curve without a reroute at the corner swings too far aside

Stops = tuple[Point, ...]
Plug = tuple[int, int]  # a node and the number of its output


class NoWay(ValueError):
    """A link that can't be led around the nodes: arrange them otherwise."""


def routes(sheet: Sheet, places: Layout, definitions: Definitions, links: list[list]) -> dict[int, Stops]:
    """{link id: the places of its reroutes, from its start on}, of those that need any."""
    router = _Router(sheet, places, definitions)
    found = {link[0]: router.stops(link) for link in links}
    return {link: stops for link, stops in found.items() if stops}


class _Router:
    def __init__(self, sheet: Sheet, places: Layout, definitions: Definitions):
        self.nodes = {node.id: node for node in sheet.nodes}
        self.definitions, self.places = definitions, places
        self.column_of = {
            node.id: i for i, column in enumerate(sheet.columns) for group in column.groups for node in group.nodes
        }
        self.boxes = {key: _whole(box, self.nodes[key]) for key, box in places.nodes.items()}
        self.note = _with_title(places.note)
        self.middles = _middles(sheet)
        self.lanes: list[tuple[float, float, float, Plug]] = []  # left, right, height
        self.ways: dict[float, tuple[Plug, bool]] = {}  # place: what leads there, and whether upward

    def stops(self, link: list) -> Stops:
        _, source, slot, target, target_slot, _ = link
        start, end = self._start(source, slot), self._end(target, target_slot)
        for stops in self._candidates(start, end, (source, slot), target):
            if self._is_free(start, stops, end, source, target):
                self._take(stops, (source, slot))
                return stops
        raise NoWay(f"{self.nodes[source].kind} → {self.nodes[target].kind}")

    def _candidates(self, start: Point, end: Point, plug: Plug, target: int) -> Iterator[Stops]:
        """The simplest first."""
        yield ()
        behind, before = self.column_of[plug[0]] + 1, self.column_of[target]
        if behind == before:
            for place in self._near(self.middles[behind], (plug, end[1] < start[1])):
                yield (place, start[1]), (place, end[1])
        leaves = [start[0] + BESIDE] * self.nodes[plug[0]].folded + [self.middles[behind]]
        arrives = [end[0] - BESIDE] * self.nodes[target].folded + [self.middles[before]]
        for leave_at, arrive_at in itertools.product(leaves, arrives):
            for lane in self._lanes(start, end, leave_at, arrive_at, plug):
                for leave in self._near(leave_at, (plug, lane < start[1])):
                    for arrive in self._near(arrive_at, (plug, end[1] < lane)):
                        first, last, over = (leave, start[1]), (arrive, end[1]), ((leave, lane), (arrive, lane))
                        leaving = ((), (first,)) if abs(lane - start[1]) < STEEP else ((first,),)
                        arriving = ((), (last,)) if abs(lane - end[1]) < STEEP else ((last,),)
                        yield from ((*a, *over, *b) for a, b in itertools.product(leaving, arriving))

    def _near(self, place: float, use: tuple[Plug, bool]) -> list[float]:
        """Places there, those first that are used for the same already, and those last that are used for others."""
        places = [place + way for way in WAYS]
        return sorted(places, key=lambda x: 0 if self.ways.get(x) == use else 2 if x in self.ways else 1)

    def _lanes(self, start: Point, end: Point, leave: float, arrive: float, plug: Plug) -> list[float]:
        """The shortest way first, but the one that the output already has before all."""
        left, right = sorted((leave, arrive))
        crossed = [box for box in [*self.boxes.values(), self.note] if box.left < right and left < box.right]
        frames = [box for _, box in self.places.groups if box.left < right and left < box.right]
        blocked = [(box.top - FROM_NODES, box.bottom + FROM_NODES) for box in crossed]
        blocked += [(box.top, box.top + GROUP_TITLE) for box in frames]
        top, bottom = min(low for low, _ in blocked), max(high for _, high in blocked)
        heights = [top - LANE * (i + 1) for i in range(MOST)] + [bottom + LANE * (i + 1) for i in range(MOST)]
        heights += [float(y) for y in range(round(top), round(bottom), 4)]
        mine = {y for a, b, y, other in self.lanes if other == plug}
        others = [y for a, b, y, other in self.lanes if other != plug and a < right and left < b]
        free = [
            y
            for y in {*heights, *mine}
            if all(not low < y < high for low, high in blocked) and all(abs(y - other) >= LANE for other in others)
        ]
        return sorted(free, key=lambda y: (y not in mine, abs(start[1] - y) + abs(end[1] - y)))

    def _is_free(self, start: Point, stops: Stops, end: Point, source: int, target: int) -> bool:
        near = {source, target}
        boxes = [self.note] + [_narrowed(box, NEAR if key in near else -CLEAR) for key, box in self.boxes.items()]
        return not any(_covers(box, point) for point in points_on(start, stops, end) for box in boxes)

    def _take(self, stops: Stops, plug: Plug) -> None:
        for one, other in itertools.pairwise(stops):
            if one[1] == other[1]:
                left, right = sorted((one[0], other[0]))
                self.lanes.append((left, right, one[1], plug))
            else:
                self.ways.setdefault(one[0], (plug, other[1] < one[1]))
        for place, _ in stops:
            self.ways.setdefault(place, (plug, False))

    def _start(self, node: int, slot: int) -> Point:
        box = self.places.nodes[node]
        if self.nodes[node].folded:
            return float(box.left + FOLDED_WIDTH), box.top - TITLE / 2
        return float(box.right), float(box.top + FIRST_SLOT + slot * SLOT)

    def _end(self, node: int, slot: int) -> Point:
        box = self.places.nodes[node]
        if self.nodes[node].folded:
            return float(box.left), box.top - TITLE / 2
        before = inputs_of(self.nodes[node], self.definitions)[:slot]
        return float(box.left), float(box.top + FIRST_SLOT + sum(not each.is_widget for each in before) * SLOT)


def _middles(sheet: Sheet) -> list[float]:
    """The middle of the gap left of each column, and of that right of the last."""
    middles, left = [], 0
    for column in sheet.columns:
        middles.append(left - COLUMN_GAP / 2)
        left += column.width + COLUMN_GAP
    return [*middles, left - COLUMN_GAP / 2]


def _whole(box: Box, node: Node) -> Box:
    """All that it may cover: with its title, and as far as it grows."""
    if node.folded:
        return Box(box.left, box.top - TITLE, FOLDED_WIDTH, TITLE)
    return _with_title(Box(box.left, box.top, box.width, box.height + GROWS.get(node.kind, 0)))


def _with_title(box: Box) -> Box:
    return Box(box.left, box.top - TITLE, box.width, box.height + TITLE)


def _narrowed(box: Box, by: int) -> Box:
    return Box(box.left + by, box.top, box.width - 2 * by, box.height)


def _covers(box: Box, point: Point) -> bool:
    return box.left < point[0] < box.right and box.top < point[1] < box.bottom
