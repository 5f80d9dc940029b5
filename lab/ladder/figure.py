"""A ladder drawn with matplotlib, for paper: PNG, SVG or PDF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import UsageError
from lab.ladder.model import Ladder
from lab.ladder.page import SIZES, Box, Cross, Line, Text, lay_out
from lab.pictures import PAPER, check_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK: Final = "#1f2937"
_QUIET: Final = "#5b6472"
_BAD: Final = "#b3261e"
# Okabe and Ito's colours, darkened to be read on white; style and width tell the kinds apart without colour.
_LINES: Final[dict[str, dict[str, Any]]] = {
    "lifeline": {"color": _QUIET, "linewidth": 0.8},
    "signalling": {"color": "#0072b2", "linewidth": 1.3},
    "data": {"color": "#00785a", "linewidth": 2.6},
    "native": {"color": "#00785a", "linewidth": 1.1},
    "tcp": {"color": "#8a4a78", "linewidth": 0.9},
    "icmp": {"color": "#b34700", "linewidth": 1.3, "linestyle": (0, (1.5, 2))},
    "ip": {"color": _QUIET, "linewidth": 1.3},
}
_FILLS: Final = {"band0": "#eef3f8", "band1": "#f8f4ea", "edge0": "#b9cfe3", "edge1": "#dfcf9f"}
_MOST_PIXELS: Final = 16_000


def draw(ladder: Ladder, path: str | Path, *, dpi: float = 160) -> Path:
    """Draw a ladder into `path` (.png, .svg or .pdf); the path.  UsageError for another suffix."""
    path = check_picture(path, PAPER)
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lab", "font.family": "DejaVu Sans"}):
        made = figure(ladder)
        dpi = min(dpi, _MOST_PIXELS / max(made.get_size_inches()))
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        try:
            made.savefig(path, dpi=dpi, metadata=undated.get(path.suffix.lower(), {}))
        except OSError as exc:
            raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
    return path


def figure(ladder: Ladder) -> Figure:
    """The ladder as a matplotlib figure, one unit of its axes an inch."""
    from matplotlib.figure import Figure

    page = lay_out(ladder)
    made = Figure(figsize=(page.width, page.height), facecolor="white")
    axes = made.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, page.width), ylim=(page.height, 0))
    axes.set_axis_off()
    for thing in page.under:
        _draw(axes, thing)
    for group in page.groups:
        for part in group.things:
            _draw(axes, part)
    return made


def _draw(axes: Axes, thing: Line | Text | Cross | Box) -> None:
    from matplotlib.patches import Rectangle

    match thing:
        case Box():
            box = Rectangle((thing.x, thing.y), thing.width, thing.height, facecolor=_FILLS[thing.style], linewidth=0)
            box.set_zorder(0.5)
            axes.add_patch(box)
        case Line():
            _line(axes, thing)
        case Cross():
            axes.plot([thing.x], [thing.y], marker="x", markersize=8, markeredgewidth=2, color=_BAD, zorder=3)
        case Text():
            color = {"quiet": _QUIET, "phase": _QUIET, "rewritten": _QUIET, "dropped": _BAD}.get(thing.style, _INK)
            axes.text(
                thing.x,
                thing.y,
                thing.text,
                fontsize=SIZES[thing.size],
                color=color,
                ha={"start": "left", "middle": "center", "end": "right"}[thing.anchor],
                va="center",
                weight="bold" if thing.style in ("bold", "dropped") else "normal",
                style="italic" if thing.style == "rewritten" else "normal",
                zorder=4,
                parse_math=False,
                path_effects=_halo(),
            )


def _line(axes: Axes, line: Line) -> None:
    look = dict(_LINES[line.style])
    if line.again:
        look["linestyle"] = (0, (6, 3))
    xs, ys = zip(*line.points, strict=True)
    axes.plot(xs, ys, zorder=1 if line.style == "lifeline" else 2, solid_capstyle="butt", **look)
    if line.arrow:
        (x0, y0), (x1, y1) = line.points[-2:]
        share = min(0.02 / max(abs(x1 - x0), 0.02), 1.0)
        start = (x1 - (x1 - x0) * share, y1 - (y1 - y0) * share)
        head = {"arrowstyle": "-|>", "color": look["color"], "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x1, y1), start, arrowprops={**head, "mutation_scale": 10}, zorder=3)


def _halo() -> list[Any]:
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=2.2, foreground="white"), Normal()]
