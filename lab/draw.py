"""A drawing of a topology: icons by kind, addresses at both ends of every link, impairments on it.

What belongs to the left end of a link stands above its line, what belongs to the right end below.  Where things go is
decided in `lab.layout`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.layout import (
    FAN,
    GAP,
    LINE,
    MARGIN,
    SIZE,
    End,
    Placed,
    Wire,
    arrange,
    climb,
    in_order,
    left_right,
    needs_detour,
    outer_inner,
    room,
    shoulder,
)
from lab.pictures import SCREEN, check_picture
from lab.topology.network import Network
from lab.topology.plan import Plan
from lab.topology.planner import make_plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK: Final = "#1f2937"
_DPI: Final = 160
_MOST_PIXELS: Final = 16_000


def draw(topology: Plan | Network, path: str | Path, *, title: str = "") -> Path:
    """Draw a plan, or the plan of a network, into `path` (.png or .svg); the path.

    In an SVG text is text, and each node is a group with the id `node-NAME`.  UsageError for another suffix.
    """
    path = check_picture(path, SCREEN)
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
    layout = arrange(plan, title=title)
    nodes, detours = layout.nodes, list(layout.detours)
    width, height = layout.width, layout.height
    made = Figure(figsize=(width, height))
    axes = made.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    title = title.removesuffix(".")
    if title:
        _text(axes, width / 2, height - MARGIN, title, "title", ha="center", va="center", weight="bold")
    for link in layout.wires:
        if link in layout.fans:
            _draw_fan_link(axes, nodes, link)
        elif not _draw_tree_link(axes, nodes, link):
            _draw_loop_link(axes, nodes, link, detours.pop(0) if needs_detour(nodes, link) else 0.0)
    for node in nodes.values():
        _draw_node(axes, node)
    return made


def _draw_tree_link(axes: Axes, nodes: dict[str, Placed], link: Wire) -> bool:
    """Draw a link of the tree in its lane; False, with nothing drawn, for one that closes a ring."""
    ends = left_right(nodes, link)
    if ends is None:
        return False
    left, right = ends
    a, b = nodes[left.node], nodes[right.node]
    outer = a if a.parent == b.plan.name else b
    start, end = a.x + room(nodes, a.column), b.x - room(nodes, b.column)
    if outer is a:
        if a.y != b.y:
            end -= FAN
        _line(axes, link, [(a.x, a.y), (end, a.y), (b.x - shoulder(a, b), b.y), (b.x, b.y)])
    else:
        if a.y != b.y:
            start += FAN
        _line(axes, link, [(a.x, a.y), (a.x + shoulder(b, a), a.y), (start, b.y), (b.x, b.y)])
    _lane_texts(axes, link, left, right, start, end, outer.y)
    return True


def _draw_fan_link(axes: Axes, nodes: dict[str, Placed], link: Wire) -> None:
    """Draw a link that closes a ring in a lane of its inner node."""
    left, right = in_order(nodes, link)
    a, b = nodes[left.node], nodes[right.node]
    start, end = a.x + room(nodes, a.column), b.x - room(nodes, b.column)
    outer, inner = outer_inner(nodes, link)
    if outer is a:
        start += FAN
        _line(axes, link, [(a.x + shoulder(inner, outer), a.y), (start, b.y), (b.x, b.y)])
    else:
        end -= FAN
        _line(axes, link, [(a.x, a.y), (end, a.y), (b.x - shoulder(inner, outer), b.y)])
    _lane_texts(axes, link, left, right, start, end, inner.y)


def _lane_texts(axes: Axes, link: Wire, left: End, right: End, start: float, end: float, y: float) -> None:
    """What is written along a lane from `start` to `end`: above it, below it, and on it."""
    away = 0.1 if link.impairment else 0.06
    for number, text in enumerate(reversed(left.lines)):
        _text(axes, start, y + away + number * LINE, text, "end", ha="left", va="bottom")
    for number, text in enumerate(right.lines):
        _text(axes, end, y - away - number * LINE, text, "end", ha="right", va="top")
    if link.impairment:
        middle = (start + end) / 2
        _text(axes, middle, y, link.impairment, "impairment", ha="center", va="center", style="italic", box=True)


def _draw_node(axes: Axes, node: Placed) -> None:
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
        y -= LINE if number else LINE + 0.025


def _draw_loop_link(axes: Axes, nodes: dict[str, Placed], link: Wire, detour: float) -> None:
    """Draw a link that closes a ring: straight down within a column, else along a lane at the height `detour`."""
    a, b = nodes[link.a.node], nodes[link.b.node]
    if a.column == b.column:
        upper, lower = (link.a, link.b) if a.y > b.y else (link.b, link.a)
        x = a.x
        if any(other.column == a.column and min(a.y, b.y) < other.y < max(a.y, b.y) for other in nodes.values()):
            x += (-1 if a.column < 0 else 1) * (room(nodes, a.column) - GAP / 4)
        _line(axes, link, [(a.x, a.y), (x, a.y), (x, b.y), (b.x, b.y)])
        away, side = (-0.08, "right") if x < a.x else (0.08, "left")
        y = nodes[lower.node].y + 0.42 + LINE * len(lower.lines)
        for number, text in enumerate(upper.lines + lower.lines):
            shift = 0.06 if number < len(upper.lines) else -0.02
            at = y + shift + (len(upper.lines) - number) * LINE
            _text(axes, x + away, at, text, "end", ha=side, va="top")
        if link.impairment:
            other = "left" if side == "right" else "right"
            _text(axes, x - away, y, link.impairment, "impairment", ha=other, va="center", style="italic")
        return
    left, right = (link.a, link.b) if a.x < b.x else (link.b, link.a)
    start, end = climb(nodes, nodes[left.node], 1), climb(nodes, nodes[right.node], -1)
    a, b = nodes[left.node], nodes[right.node]
    _line(axes, link, [(a.x, a.y), (start, a.y), (start, detour), (end, detour), (end, b.y), (b.x, b.y)])
    _lane_texts(axes, link, left, right, start + GAP, end - GAP, detour)


def _line(axes: Axes, link: Wire, points: list[tuple[float, float]]) -> None:
    """The line of a link, dashed if nobody is at its other end at first."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    dashes = "-" if link.plugged else (0, (4, 3))
    line = PathPatch(
        Outline(points), facecolor="none", edgecolor=_INK, linewidth=1.5, linestyle=dashes, joinstyle="round", zorder=1
    )
    axes.add_patch(line)


def _text(axes: Axes, x: float, y: float, text: str, what: str, *, box: bool = False, **style: Any) -> Any:
    if box:
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    return axes.text(x, y, text, fontsize=SIZE[what], color=_INK, zorder=4 if what != "impairment" else 3.5, **style)
