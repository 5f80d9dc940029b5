"""One icon for each kind of node, told apart by shape alone: drawings are printed in black and white too.

An icon is a list of matplotlib patches around a centre, in the drawing's unit (inches).  The first one is the outline.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin
from typing import Any, Final

from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path

WIDTH: Final = 0.66
HEIGHT: Final = 0.56
_INK: Final = "#1f2937"


def icon(kind: str, x: float, y: float) -> list[Patch]:
    """The patches of a node of this kind, centred on (x, y)."""
    return _ICONS.get(kind, _host)(x, y)


def _style(face: str = "white", width: float = 1.3) -> dict[str, Any]:
    return {"facecolor": face, "edgecolor": _INK, "linewidth": width}


def _line(*points: tuple[float, float], width: float = 1.1) -> Patch:
    return PathPatch(Path(list(points)), facecolor="none", edgecolor=_INK, linewidth=width, capstyle="round")


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Patch:
    return FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=7, color=_INK, linewidth=1.1, shrinkA=0, shrinkB=0
    )


def _client(x: float, y: float) -> list[Patch]:
    """A laptop."""
    w, h = 0.23, 0.17
    base = [(x - 0.33, y - 0.24), (x + 0.33, y - 0.24), (x + w + 0.02, y - 0.13), (x - w - 0.02, y - 0.13)]
    screen = FancyBboxPatch(
        (x - w, y - 0.11), 2 * w, 2 * h + 0.02, boxstyle="round,pad=0.02,rounding_size=0.04", **_style("#e8f0fe")
    )
    return [
        screen,
        Polygon(base, closed=True, **_style("#e8f0fe")),
        Rectangle((x - w + 0.05, y - 0.06), 2 * w - 0.1, 2 * h - 0.08, **_style(width=0.8)),
    ]


def _host(x: float, y: float) -> list[Patch]:
    """A server tower: slots and a lamp."""
    body = FancyBboxPatch(
        (x - 0.18, y - 0.26), 0.36, 0.52, boxstyle="round,pad=0.01,rounding_size=0.03", **_style("#eef2f1")
    )
    slots = [Rectangle((x - 0.12, y + up), 0.24, 0.07, **_style(width=0.9)) for up in (0.13, 0.02)]
    return [body, *slots, Circle((x, y - 0.16), 0.03, **_style(_INK, 0.8))]


def _nat(x: float, y: float) -> list[Patch]:
    """A diamond with one address going in as another."""
    diamond = Polygon([(x - 0.36, y), (x, y + 0.29), (x + 0.36, y), (x, y - 0.29)], closed=True, **_style("#fff4e0"))
    return [
        diamond,
        _arrow((x - 0.19, y + 0.06), (x + 0.19, y + 0.06)),
        _arrow((x + 0.19, y - 0.06), (x - 0.19, y - 0.06)),
    ]


def _firewall(x: float, y: float) -> list[Patch]:
    """A brick wall."""
    left, bottom, wide, course = x - 0.3, y - 0.24, 0.6, 0.12
    patches: list[Patch] = [Rectangle((left, bottom), wide, 4 * course, **_style("#fdeae7"))]
    for row in range(4):
        low = bottom + row * course
        if row:
            patches.append(_line((left, low), (left + wide, low), width=0.9))
        for brick in (0.2, 0.4) if row % 2 else (0.1, 0.3, 0.5):
            patches.append(_line((left + brick, low), (left + brick, low + course), width=0.9))
    return patches


def _router(x: float, y: float) -> list[Patch]:
    """A disc with arrows out to both sides and in from above and below."""
    return [
        Circle((x, y), 0.28, **_style("#e9f5ec")),
        _arrow((x - 0.05, y), (x - 0.23, y)),
        _arrow((x + 0.05, y), (x + 0.23, y)),
        _arrow((x, y + 0.24), (x, y + 0.06)),
        _arrow((x, y - 0.24), (x, y - 0.06)),
    ]


def _switch(x: float, y: float) -> list[Patch]:
    """A flat box with arrows to both sides."""
    return [
        Rectangle((x - 0.33, y - 0.18), 0.66, 0.36, **_style("#f1edf9")),
        _arrow((x - 0.22, y + 0.07), (x + 0.24, y + 0.07)),
        _arrow((x + 0.22, y - 0.07), (x - 0.24, y - 0.07)),
    ]


def _broker(x: float, y: float) -> list[Patch]:
    """A hexagon with a piece of tunnel in it."""
    corners = [(x + 0.34 * cos(k * pi / 3), y + 0.32 * sin(k * pi / 3)) for k in range(6)]
    return [
        Polygon(corners, closed=True, **_style("#fff9d6")),
        Rectangle((x - 0.14, y - 0.1), 0.28, 0.2, facecolor="white", edgecolor="none"),
        _line((x - 0.14, y + 0.1), (x + 0.14, y + 0.1)),
        _line((x - 0.14, y - 0.1), (x + 0.14, y - 0.1)),
        Ellipse((x + 0.14, y), 0.1, 0.2, **_style(width=1.1)),
        Ellipse((x - 0.14, y), 0.1, 0.2, **_style("#c9ced6", 1.1)),
    ]


_ICONS: Final[dict[str, Callable[[float, float], list[Patch]]]] = {
    "client": _client,
    "host": _host,
    "nat": _nat,
    "firewall": _firewall,
    "router": _router,
    "switch": _switch,
    "broker": _broker,
}
