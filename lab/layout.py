"""Where everything in the drawing of a topology goes, and how much room its texts take.

The middle of the drawing is the router nearest the broker (networkx gives the tree of shortest paths from it): what
leads to clients goes to the left, the rest to the right.  A link runs level with the node farther out, so each has a
lane of its own: what belongs to its left end stands above the lane, what belongs to its right end below.  Columns
are as wide as their texts, measured before anything is drawn, so nothing overlaps.  A link that closes a ring takes a
lane of its own above everything, or goes straight down between two nodes of one column.

Coordinates are inches; y grows upwards.  Nothing here draws; `lab.draw` does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lab.topology.plan import InterfacePlan, NodePlan, Plan, Shape

if TYPE_CHECKING:
    import networkx as nx

SIZE: Final = {"name": 10.0, "kind": 8.0, "end": 8.0, "impairment": 8.0, "title": 12.0}
"""Font sizes in points."""
LINE: Final = 0.145
"""Height of a line of small text."""
GAP: Final = 0.12
"""Least room between texts."""
FAN: Final = 0.45
"""Width of the part of a lane that slopes to a node of another row."""
DETOUR: Final = 0.6
"""Height of a lane above or below everything, for a link that closes a ring."""
MARGIN: Final = 0.35


@dataclass(slots=True)
class Placed:
    """A node and its place: column 0 is the middle, rows count downwards, x and y are its icon's centre."""

    plan: NodePlan
    column: int = 0
    row: float = 0.0
    x: float = 0.0
    y: float = 0.0
    parent: str | None = None
    children: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """What stands under the icon: name, kind, and what else matters of it."""
        return [self.plan.name, *_describe(self.plan)]


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link: its node and what is written there."""

    node: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """A link as it is drawn."""

    a: End
    b: End
    impairment: str
    """In words, or ""."""
    plugged: bool = True


@dataclass(slots=True)
class Layout:
    """A plan, laid out on a page."""

    nodes: dict[str, Placed]
    wires: list[Wire]
    width: float
    height: float
    detours: list[float]
    """Heights of the lanes for wires that need one (`needs_detour`), in their order."""
    fans: list[Wire]
    """Wires that close a ring and have a free lane level with their inner node (`fans_of`)."""


def arrange(plan: Plan, *, title: str = "") -> Layout:
    """Lay a plan out, on a page wide enough for `title`."""
    nodes = {node.name: Placed(node) for node in plan.nodes}
    wires = _wires(plan)
    _place(nodes, _graph(plan))
    fans = fans_of(nodes, wires)
    width, height, detours = _measure(nodes, wires, fans, title)
    return Layout(nodes, wires, width, height, detours, fans)


def _describe(node: NodePlan) -> list[str]:
    """The kind in words, and the options that a reader wants to see."""
    options = node.options
    match node.kind:
        case "nat":
            kind = f"NAT ({options['preset']})" if options.get("preset") else "NAT"
            return [kind, f"{options['mapping']}, {options['filtering']}"]
        case "firewall":
            return ["firewall", str(options["policy"])]
        case "broker":
            return ["broker", f"pool {options['pool']}"]
        case "host" if options.get("slaac"):
            return ["host", "SLAAC"]
        case "host" if options.get("ipv6_only"):
            return ["host", "IPv6 only"]
        case "client" if options.get("lans"):
            return ["client and router"]
    return [node.kind]


def _wires(plan: Plan) -> list[Wire]:
    shapes = {(step.node, step.iface): step for step in plan.steps if isinstance(step, Shape)}
    kinds = {node.name: node.kind for node in plan.nodes}
    ends: dict[frozenset[str], list[End]] = {}
    said: dict[frozenset[str], str] = {}
    unplugged: set[frozenset[str]] = set()
    for node in plan.nodes:
        for interface in node.interfaces:
            key = frozenset((node.name, interface.peer))
            ends.setdefault(key, []).append(End(node.name, _end_lines(interface, kinds[node.name])))
            said[key] = _impairment(shapes.get((node.name, interface.name)))
            if not interface.plugged:
                unplugged.add(key)
    return [Wire(a, b, said[key], key not in unplugged) for key, (a, b) in ends.items()]


def _end_lines(interface: InterfacePlan, kind: str) -> tuple[str, ...]:
    if kind == "switch":
        return ()
    addresses = [address for address in (interface.ipv4, interface.ipv6) if address]
    return (interface.name + (f" {addresses[0]}" if addresses else ""), *addresses[1:])


def _impairment(shape: Shape | None) -> str:
    if shape is None:
        return ""
    parts = []
    if shape.delay_ms:
        parts.append(f"{shape.delay_ms:g}" + (f"±{shape.jitter_ms:g}" if shape.jitter_ms else "") + " ms")
    if shape.loss_pct:
        parts.append(f"{shape.loss_pct:g} % loss")
    if shape.duplicate_pct:
        parts.append(f"{shape.duplicate_pct:g} % twice")
    if shape.reorder_pct:
        parts.append(f"{shape.reorder_pct:g} % reordered")
    if shape.rate_mbit:
        parts.append(f"{shape.rate_mbit:g} Mbit/s")
    return ", ".join(parts)


def _graph(plan: Plan) -> nx.Graph[str]:
    import networkx as nx

    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(node.name for node in plan.nodes)
    graph.add_edges_from((node.name, interface.peer) for node in plan.nodes for interface in node.interfaces)
    return graph


# --- where things go -------------------------------------------------------------------------------------------


def _place(nodes: dict[str, Placed], graph: nx.Graph[str]) -> None:
    """Give every node a column (0 the middle), a row, and its place in the tree."""
    import networkx as nx

    root = _middle(nodes, graph)
    for parent, child in nx.bfs_edges(graph, root):
        nodes[child].parent = parent
        nodes[parent].children.append(child)
    for node in nodes.values():
        node.children = _side_by_side(node.children, graph)
    sides: dict[int, list[str]] = {-1: [], 1: []}
    for branch in nodes[root].children:
        sides[-1 if _leads_to_client(nodes, branch, graph) else 1].append(branch)
    for side, branches in sides.items():
        leaf = 0
        for branch in branches:
            leaf = _place_branch(nodes, branch, side, leaf)
        middle = (leaf - 1) / 2
        for name in _below(nodes, branches):
            nodes[name].row -= middle


def _side_by_side(names: list[str], graph: nx.Graph[str]) -> list[str]:
    """The names with those that are linked to each other next to each other, as far as that goes."""
    left: list[str] = list(names)
    ordered: list[str] = []
    while left:
        linked = {name: [other for other in left if other in graph[name]] for name in left}
        near = [name for name in left if ordered and name in graph[ordered[-1]]]
        ordered.append(near[0] if near else min(left, key=lambda name: len(linked[name]) or 99))
        left.remove(ordered[-1])
    return ordered


def _middle(nodes: dict[str, Placed], graph: nx.Graph[str]) -> str:
    """The router nearest a broker; without routers the broker, without brokers the node with most links."""
    import networkx as nx

    kinds = {name: node.plan.kind for name, node in nodes.items()}
    brokers = [name for name, kind in kinds.items() if kind == "broker"]
    routers = [name for name, kind in kinds.items() if kind == "router"]
    if not brokers:
        return max(routers or nodes, key=lambda name: len(graph[name]))
    far = nx.single_source_shortest_path_length(graph, brokers[0])
    return min(routers, key=lambda name: far[name]) if routers else brokers[0]


def _below(nodes: dict[str, Placed], names: Iterable[str]) -> list[str]:
    found = list(names)
    for name in found:
        found.extend(nodes[name].children)
    return found


def _leads_to_client(nodes: dict[str, Placed], branch: str, graph: nx.Graph[str]) -> bool:
    """Whether clients or NATs are in a branch, or linked to it from another."""
    names = _below(nodes, [branch])
    if any(nodes[name].plan.kind in ("client", "nat") for name in names):
        return True
    return any(nodes[other].plan.kind == "client" for name in names for other in graph[name])


def _place_branch(nodes: dict[str, Placed], top: str, side: int, leaf: int) -> int:
    """Rows for a branch: leaves one below the other from `leaf` on, others level with the middle of theirs."""
    branch = _below(nodes, [top])
    waiting = [top]
    while waiting:
        name = waiting.pop()
        node = nodes[name]
        assert node.parent is not None
        node.column = nodes[node.parent].column + side
        if not node.children:
            node.row = leaf
            leaf += 1
        waiting.extend(reversed(node.children))
    for name in reversed(branch):
        rows = [nodes[child].row for child in nodes[name].children]
        if rows:
            nodes[name].row = (rows[0] + rows[-1]) / 2
    return leaf


def _measure(
    nodes: dict[str, Placed], wires: list[Wire], fans: list[Wire], title: str
) -> tuple[float, float, list[float]]:
    """Set the x and y of all nodes; the size of the drawing and the heights of the detours."""
    columns = sorted({node.column for node in nodes.values()})
    half = {
        column: max(
            max(_width(text, "kind" if n else "name", bold=not n) for n, text in enumerate(node.texts)) / 2
            for node in nodes.values()
            if node.column == column
        )
        for column in columns
    }
    x = MARGIN + max(half[columns[0]], 0.4)
    for column in columns:
        for node in nodes.values():
            if node.column == column:
                node.x = x
        if column != columns[-1]:
            x += max(half[column], 0.4) + _lane(nodes, wires, fans, column) + max(half[column + 1], 0.4)
    width = x + max(half[columns[-1]], 0.4) + MARGIN
    if title:
        width = max(width, _width(title, "title", bold=True) + 2 * MARGIN)
    loops = [wire for wire in wires if left_right(nodes, wire) is None and wire not in fans]
    texts = max(len(node.texts) for node in nodes.values())
    pitch = max(0.56 + 0.1 + texts * LINE + 2 * GAP, 1.25)
    pitch += max(
        (0.1 + LINE * len(e.lines) for k in loops if not needs_detour(nodes, k) for e in (k.a, k.b)), default=0
    )
    top = max(-node.row for node in nodes.values())
    bottom = min(-node.row for node in nodes.values())
    below = 0.4 + texts * LINE + MARGIN
    for node in nodes.values():
        node.y = below + (-node.row - bottom) * pitch
    height = below + (top - bottom) * pitch + 0.4 + MARGIN
    detours = []
    for wire in loops:
        if needs_detour(nodes, wire):
            height += DETOUR
            detours.append(height - MARGIN - 0.25)
    return width, height + (0.45 if title else 0), detours


def fans_of(nodes: dict[str, Placed], wires: list[Wire]) -> list[Wire]:
    """Wires between neighbouring columns that close a ring, where beside the inner node there is nothing farther out.

    They fan out from the outer node, each to a lane of its own: a client's to the places that it may move to.
    """
    taken = {(node.column, node.row) for node in nodes.values()}
    found = []
    for wire in wires:
        outer, inner = outer_inner(nodes, wire)
        lane = (outer.column, inner.row)
        if left_right(nodes, wire) is None and abs(outer.column - inner.column) == 1 and lane not in taken:
            taken.add(lane)
            found.append(wire)
    return found


def outer_inner(nodes: dict[str, Placed], wire: Wire) -> tuple[Placed, Placed]:
    """The nodes of a wire, the one farther from the middle first."""
    a, b = nodes[wire.a.node], nodes[wire.b.node]
    return (a, b) if abs(a.column) > abs(b.column) else (b, a)


def needs_detour(nodes: dict[str, Placed], wire: Wire) -> bool:
    return nodes[wire.a.node].column != nodes[wire.b.node].column


def _lane(nodes: dict[str, Placed], wires: list[Wire], fans: list[Wire], column: int) -> float:
    """Width of the lanes between a column and the next: the widest text, and a fan where several lanes meet."""
    widest, fan = 0.9, 0.0
    for wire in wires:
        ends = in_order(nodes, wire) if wire in fans else left_right(nodes, wire)
        if ends is None or nodes[ends[0].node].column != column:
            continue
        left, right = ends
        for end in ends:
            widest = max(widest, *(_width(text, "end") for text in end.lines), 0.0)
        widest = max(widest, _width(wire.impairment, "impairment") + 0.5)
        if nodes[left.node].row != nodes[right.node].row:
            fan = FAN
    return widest + fan + 2 * GAP


def left_right(nodes: dict[str, Placed], wire: Wire) -> tuple[End, End] | None:
    """The ends of a link of the tree, left one first; None for a link that closes a ring."""
    a, b = nodes[wire.a.node], nodes[wire.b.node]
    if a.parent != b.plan.name and b.parent != a.plan.name:
        return None
    return in_order(nodes, wire)


def in_order(nodes: dict[str, Placed], wire: Wire) -> tuple[End, End]:
    """The ends of a link between two columns, left one first."""
    return (wire.a, wire.b) if nodes[wire.a.node].column < nodes[wire.b.node].column else (wire.b, wire.a)


@functools.cache
def _width(text: str, what: str, bold: bool = False) -> float:
    """Width of a text in inches."""
    if not text:
        return 0.0
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=SIZE[what], prop=font).get_extents().width) / 72


def shoulder(outer: Placed, inner: Placed) -> float:
    """How far from the middle of `inner` a sloping line may begin: past the text under the icon if it goes down."""
    if outer.y >= inner.y:
        return 0.0
    return max(_width(text, "kind" if n else "name", bold=not n) for n, text in enumerate(inner.texts)) / 2 + 0.05


def room(nodes: dict[str, Placed], column: int) -> float:
    """Half the width of a column: where its lanes begin."""
    texts = [
        _width(text, "kind" if number else "name", bold=not number) / 2
        for node in nodes.values()
        if node.column == column
        for number, text in enumerate(node.texts)
    ]
    return max(*texts, 0.4) + GAP / 2


def climb(nodes: dict[str, Placed], node: Placed, side: int) -> float:
    """Where a line up from a node stands: over it, or beside its column if another node is in the way."""
    blocked = any(other.column == node.column and other.y > node.y for other in nodes.values())
    return node.x + side * (room(nodes, node.column) - GAP / 4) if blocked else node.x
