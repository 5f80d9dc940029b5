"""A drawing of a topology: icons by kind, addresses at both ends of every link, impairments on it.

The middle of the drawing is the router nearest the broker (networkx gives the tree of shortest paths from it): what
leads to clients goes to the left, the rest to the right.  A link runs level with the node farther out, so each has a
lane of its own: what belongs to its left end stands above the lane, what belongs to its right end below.  Columns
are as wide as their texts, measured before anything is drawn, so nothing overlaps.  A link that closes a ring takes a
lane of its own above everything, or goes straight down between two nodes of one column.

Coordinates are inches; y grows upwards.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import UsageError
from lab.topology.network import Network
from lab.topology.plan import InterfacePlan, NodePlan, Plan, Shape
from lab.topology.planner import make_plan

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK: Final = "#1f2937"
_SIZE: Final = {"name": 10.0, "kind": 8.0, "end": 8.0, "impairment": 8.0, "title": 12.0}
"""Font sizes in points."""
_LINE: Final = 0.145
"""Height of a line of small text."""
_GAP: Final = 0.12
"""Least room between texts."""
_FAN: Final = 0.45
"""Width of the part of a lane that slopes to a node of another row."""
_DETOUR: Final = 0.6
"""Height of a lane above or below everything, for a link that closes a ring."""
_MARGIN: Final = 0.35
_DPI: Final = 160
_MOST_PIXELS: Final = 16_000


@dataclass(slots=True)
class _Node:
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
class _End:
    """One end of a link: its node and what is written there."""

    node: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    a: _End
    b: _End
    impairment: str

    def end(self, node: str) -> _End:
        return self.a if self.a.node == node else self.b


def draw(topology: Plan | Network, path: str | Path, *, title: str = "") -> Path:
    """Draw a plan, or the plan of a network, into `path` (.png or .svg); the path.

    In an SVG text is text, and each node is a group with the id `node-NAME`.  UsageError for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"{path}: a drawing is a .png or an .svg file")
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lab", "font.family": "DejaVu Sans"}):
        made = figure(topology, title=title)
        dpi = min(_DPI, _MOST_PIXELS / max(made.get_size_inches()))
        metadata: dict[str, Any] = {"Date": None} if path.suffix.lower() == ".svg" else {}
        made.savefig(path, dpi=dpi, metadata=metadata)
    return path


def figure(topology: Plan | Network, *, title: str = "") -> Figure:
    """The drawing as a matplotlib figure, one unit of its axes an inch."""
    from matplotlib.figure import Figure

    plan = make_plan(topology) if isinstance(topology, Network) else topology
    nodes = {node.name: _Node(node) for node in plan.nodes}
    links = _links(plan)
    _place(nodes, links, _graph(plan))
    width, height, detours = _measure(nodes, links, title)
    made = Figure(figsize=(width, height))
    axes = made.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    title = title.removesuffix(".")
    if title:
        _text(axes, width / 2, height - _MARGIN, title, "title", ha="center", va="center", weight="bold")
    for link in links:
        if not _draw_tree_link(axes, nodes, link):
            _draw_loop_link(axes, nodes, link, detours.pop(0) if _needs_detour(nodes, link) else 0.0)
    for node in nodes.values():
        _draw_node(axes, node)
    return made


def _describe(node: NodePlan) -> list[str]:
    """The kind in words, and the options that a reader wants to see."""
    options = node.options
    match node.kind:
        case "nat":
            return ["NAT", f"{options['mapping']}, {options['filtering']}"]
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


def _links(plan: Plan) -> list[_Link]:
    shapes = {(step.node, step.iface): step for step in plan.steps if isinstance(step, Shape)}
    kinds = {node.name: node.kind for node in plan.nodes}
    ends: dict[frozenset[str], list[_End]] = {}
    said: dict[frozenset[str], str] = {}
    for node in plan.nodes:
        for interface in node.interfaces:
            key = frozenset((node.name, interface.peer))
            ends.setdefault(key, []).append(_End(node.name, _end_lines(interface, kinds[node.name])))
            said[key] = _impairment(shapes.get((node.name, interface.name)))
    return [_Link(a, b, said[key]) for key, (a, b) in ends.items()]


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


def _place(nodes: dict[str, _Node], links: list[_Link], graph: nx.Graph[str]) -> None:
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
        sides[-1 if _holds_client(nodes, branch) else 1].append(branch)
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


def _middle(nodes: dict[str, _Node], graph: nx.Graph[str]) -> str:
    """The router nearest a broker; without routers the broker, without brokers the node with most links."""
    import networkx as nx

    kinds = {name: node.plan.kind for name, node in nodes.items()}
    brokers = [name for name, kind in kinds.items() if kind == "broker"]
    routers = [name for name, kind in kinds.items() if kind == "router"]
    if not brokers:
        return max(routers or nodes, key=lambda name: len(graph[name]))
    far = nx.single_source_shortest_path_length(graph, brokers[0])
    return min(routers, key=lambda name: far[name]) if routers else brokers[0]


def _below(nodes: dict[str, _Node], names: Iterable[str]) -> list[str]:
    found = list(names)
    for name in found:
        found.extend(nodes[name].children)
    return found


def _holds_client(nodes: dict[str, _Node], branch: str) -> bool:
    return any(nodes[name].plan.kind in ("client", "nat") for name in _below(nodes, [branch]))


def _place_branch(nodes: dict[str, _Node], top: str, side: int, leaf: int) -> int:
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


def _measure(nodes: dict[str, _Node], links: list[_Link], title: str) -> tuple[float, float, list[float]]:
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
    x = _MARGIN + max(half[columns[0]], 0.4)
    for column in columns:
        for node in nodes.values():
            if node.column == column:
                node.x = x
        if column != columns[-1]:
            x += max(half[column], 0.4) + _lane(nodes, links, column) + max(half[column + 1], 0.4)
    width = x + max(half[columns[-1]], 0.4) + _MARGIN
    if title:
        width = max(width, _width(title, "title", bold=True) + 2 * _MARGIN)
    loops = [link for link in links if _left_right(nodes, link) is None]
    texts = max(len(node.texts) for node in nodes.values())
    pitch = max(0.56 + 0.1 + texts * _LINE + 2 * _GAP, 1.25)
    pitch += max(
        (0.1 + _LINE * len(e.lines) for k in loops if not _needs_detour(nodes, k) for e in (k.a, k.b)), default=0
    )
    top = max(-node.row for node in nodes.values())
    bottom = min(-node.row for node in nodes.values())
    below = 0.4 + texts * _LINE + _MARGIN
    for node in nodes.values():
        node.y = below + (-node.row - bottom) * pitch
    height = below + (top - bottom) * pitch + 0.4 + _MARGIN
    detours = []
    for link in loops:
        if _needs_detour(nodes, link):
            height += _DETOUR
            detours.append(height - _MARGIN - 0.25)
    return width, height + (0.45 if title else 0), detours


def _needs_detour(nodes: dict[str, _Node], link: _Link) -> bool:
    return nodes[link.a.node].column != nodes[link.b.node].column


def _lane(nodes: dict[str, _Node], links: list[_Link], column: int) -> float:
    """Width of the lanes between a column and the next: the widest text, and a fan where several lanes meet."""
    widest, fan = 0.9, 0.0
    for link in links:
        ends = _left_right(nodes, link)
        if ends is None or nodes[ends[0].node].column != column:
            continue
        left, right = ends
        for end in ends:
            widest = max(widest, *(_width(text, "end") for text in end.lines), 0.0)
        widest = max(widest, _width(link.impairment, "impairment") + 0.5)
        if nodes[left.node].row != nodes[right.node].row:
            fan = _FAN
    return widest + fan + 2 * _GAP


def _left_right(nodes: dict[str, _Node], link: _Link) -> tuple[_End, _End] | None:
    """The ends of a link of the tree, left one first; None for a link that closes a ring."""
    a, b = nodes[link.a.node], nodes[link.b.node]
    if a.parent != b.plan.name and b.parent != a.plan.name:
        return None
    return (link.a, link.b) if a.column < b.column else (link.b, link.a)


@functools.cache
def _width(text: str, what: str, bold: bool = False) -> float:
    """Width of a text in inches."""
    if not text:
        return 0.0
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, size=_SIZE[what], prop=font).get_extents().width) / 72


# --- drawing ---------------------------------------------------------------------------------------------------


def _draw_tree_link(axes: Axes, nodes: dict[str, _Node], link: _Link) -> bool:
    """Draw a link of the tree in its lane; False, with nothing drawn, for one that closes a ring."""
    ends = _left_right(nodes, link)
    if ends is None:
        return False
    left, right = ends
    a, b = nodes[left.node], nodes[right.node]
    outer = a if a.parent == b.plan.name else b
    start, end = a.x + _room(nodes, a.column), b.x - _room(nodes, b.column)
    if outer is a:
        if a.y != b.y:
            end -= _FAN
        _line(axes, [(a.x, a.y), (end, a.y), (b.x - _shoulder(a, b), b.y), (b.x, b.y)])
    else:
        if a.y != b.y:
            start += _FAN
        _line(axes, [(a.x, a.y), (a.x + _shoulder(b, a), a.y), (start, b.y), (b.x, b.y)])
    _lane_texts(axes, link, left, right, start, end, outer.y)
    return True


def _lane_texts(axes: Axes, link: _Link, left: _End, right: _End, start: float, end: float, y: float) -> None:
    """What is written along a lane from `start` to `end`: above it, below it, and on it."""
    away = 0.1 if link.impairment else 0.06
    for number, text in enumerate(reversed(left.lines)):
        _text(axes, start, y + away + number * _LINE, text, "end", ha="left", va="bottom")
    for number, text in enumerate(right.lines):
        _text(axes, end, y - away - number * _LINE, text, "end", ha="right", va="top")
    if link.impairment:
        middle = (start + end) / 2
        _text(axes, middle, y, link.impairment, "impairment", ha="center", va="center", style="italic", box=True)


def _shoulder(outer: _Node, inner: _Node) -> float:
    """How far from the middle of `inner` a sloping line may begin: past the text under the icon if it goes down."""
    if outer.y >= inner.y:
        return 0.0
    return max(_width(text, "kind" if n else "name", bold=not n) for n, text in enumerate(inner.texts)) / 2 + 0.05


def _room(nodes: dict[str, _Node], column: int) -> float:
    """Half the width of a column: where its lanes begin."""
    texts = [
        _width(text, "kind" if number else "name", bold=not number) / 2
        for node in nodes.values()
        if node.column == column
        for number, text in enumerate(node.texts)
    ]
    return max(*texts, 0.4) + _GAP / 2


def _draw_node(axes: Axes, node: _Node) -> None:
    from lab.icons import icon

    outline, *details = icon(node.plan.kind, node.x, node.y)
    outline.set_gid(f"node-{node.plan.name}")
    for patch in (outline, *details):
        patch.set_zorder(3)
        axes.add_patch(patch)
    y = node.y - 0.38
    for number, text in enumerate(node.texts):
        _text(
            axes,
            node.x,
            y,
            text,
            "kind" if number else "name",
            ha="center",
            va="top",
            weight="normal" if number else "bold",
            box=True,
        )
        y -= _LINE if number else _LINE + 0.025


def _draw_loop_link(axes: Axes, nodes: dict[str, _Node], link: _Link, detour: float) -> None:
    """Draw a link that closes a ring: straight down within a column, else along a lane at the height `detour`."""
    a, b = nodes[link.a.node], nodes[link.b.node]
    if a.column == b.column:
        upper, lower = (link.a, link.b) if a.y > b.y else (link.b, link.a)
        x = a.x
        if any(other.column == a.column and min(a.y, b.y) < other.y < max(a.y, b.y) for other in nodes.values()):
            x += (-1 if a.column < 0 else 1) * (_room(nodes, a.column) - _GAP / 4)
        _line(axes, [(a.x, a.y), (x, a.y), (x, b.y), (b.x, b.y)])
        away, side = (-0.08, "right") if x < a.x else (0.08, "left")
        y = nodes[lower.node].y + 0.42 + _LINE * len(lower.lines)
        for number, text in enumerate(upper.lines + lower.lines):
            shift = 0.06 if number < len(upper.lines) else -0.02
            at = y + shift + (len(upper.lines) - number) * _LINE
            _text(axes, x + away, at, text, "end", ha=side, va="top")
        if link.impairment:
            other = "left" if side == "right" else "right"
            _text(axes, x - away, y, link.impairment, "impairment", ha=other, va="center", style="italic")
        return
    left, right = (link.a, link.b) if a.x < b.x else (link.b, link.a)
    start, end = _climb(nodes, nodes[left.node], 1), _climb(nodes, nodes[right.node], -1)
    a, b = nodes[left.node], nodes[right.node]
    _line(axes, [(a.x, a.y), (start, a.y), (start, detour), (end, detour), (end, b.y), (b.x, b.y)])
    _lane_texts(axes, link, left, right, start + _GAP, end - _GAP, detour)


def _climb(nodes: dict[str, _Node], node: _Node, side: int) -> float:
    """Where a line up from a node stands: over it, or beside its column if another node is in the way."""
    blocked = any(other.column == node.column and other.y > node.y for other in nodes.values())
    return node.x + side * (_room(nodes, node.column) - _GAP / 4) if blocked else node.x


def _line(axes: Axes, points: list[tuple[float, float]]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    line = PathPatch(Outline(points), facecolor="none", edgecolor=_INK, linewidth=1.5, joinstyle="round", zorder=1)
    axes.add_patch(line)


def _text(axes: Axes, x: float, y: float, text: str, what: str, *, box: bool = False, **style: Any) -> Any:
    if box:
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    return axes.text(x, y, text, fontsize=_SIZE[what], color=_INK, zorder=4 if what != "impairment" else 3.5, **style)
