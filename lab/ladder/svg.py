"""A ladder as SVG text: pointing at a packet shows all that is known of it.

The text stands alone, in a file, a notebook or a page; its colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

from html import escape
from typing import Final

from lab.ladder.model import Ladder
from lab.ladder.page import SIZES, Box, Cross, Group, Line, Text, lay_out

_SCALE: Final = 96.0
"""Pixels an inch."""

STYLE: Final = """
.ladder { --ink: #1f2937; --quiet: #5b6472; --paper: #ffffff; --signalling: #0072b2; --data: #00785a; --tcp: #8a4a78;
  --icmp: #b34700; --ip: #5b6472; --bad: #b3261e; --band: #eef3f8; --edge: #b9cfe3; --band1: #f8f4ea; --edge1: #dfcf9f;
  font-family: "DejaVu Sans", Verdana, Arial, sans-serif; background: var(--paper); }
.ladder text { fill: var(--ink); dominant-baseline: central; paint-order: stroke; stroke: var(--paper);
  stroke-width: 3px; stroke-linejoin: round; }
.ladder .quiet, .ladder .phase { fill: var(--quiet); } .ladder .bold { font-weight: bold; }
.ladder .rewritten { fill: var(--quiet); font-style: italic; } .ladder .dropped { fill: var(--bad); font-weight: bold; }
.ladder path { fill: none; stroke-width: 1.6; } .ladder .lifeline { stroke: var(--quiet); stroke-width: 1; }
.ladder .signalling { stroke: var(--signalling); } .ladder .data { stroke: var(--data); stroke-width: 3.2; }
.ladder .native { stroke: var(--data); }
.ladder .tcp { stroke: var(--tcp); stroke-width: 1.1; } .ladder .icmp { stroke: var(--icmp); stroke-dasharray: 2 3; }
.ladder .ip { stroke: var(--ip); } .ladder .again { stroke-dasharray: 8 4; }
.ladder path.head { stroke: none; } .ladder .head.signalling { fill: var(--signalling); }
.ladder .head.native, .ladder .head.data { fill: var(--data); } .ladder .head.tcp { fill: var(--tcp); }
.ladder .head.icmp { fill: var(--icmp); } .ladder .head.ip { fill: var(--ip); }
.ladder .cross { stroke: var(--bad); stroke-width: 2.4; } .ladder .hit { stroke: transparent; stroke-width: 14; }
.ladder .band0 { fill: var(--band); } .ladder .band1 { fill: var(--band1); }
.ladder .edge0 { fill: var(--edge); } .ladder .edge1 { fill: var(--edge1); }
.ladder .message:hover path, .ladder .message:focus path { stroke-width: 4; }
.ladder .message:hover .hit, .ladder .message:focus .hit { stroke-width: 14; }
.ladder .message:focus { outline: none; }
@media (prefers-color-scheme: dark) { .ladder { --ink: #e6e9ee; --quiet: #a3adba; --paper: #14181f;
  --signalling: #56b4e9; --data: #2fcf9f; --tcp: #d99ac4; --icmp: #ff9a4d; --ip: #a3adba; --bad: #ff8a80;
  --band: #1b2430; --edge: #35516c; --band1: #262218; --edge1: #5f5330; } }
""".strip()


def to_svg(ladder: Ladder, *, style: bool = True) -> str:
    """The ladder as an SVG element; without `style` for a page that has `STYLE` already."""
    page = lay_out(ladder)
    width, height = page.width * _SCALE, page.height * _SCALE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ladder" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(page.title)}">'
    ]
    if style:
        parts.append(f"<style>{STYLE}</style>")
        parts.append(f'<rect width="{width:.0f}" height="{height:.0f}" fill="var(--paper)"/>')
    parts += [_thing(thing) for thing in sorted(page.under, key=lambda thing: not isinstance(thing, Box))]
    parts += [_group(group) for group in page.groups]
    parts.append("</svg>")
    return "\n".join(part for part in parts if part)


def _group(group: Group) -> str:
    lines = [thing for thing in group.things if isinstance(thing, Line)]
    hits = [f'<path class="hit" d="{_path(line.points)}"/>' for line in lines]
    drawn = [_thing(thing) for thing in sorted(group.things, key=lambda thing: isinstance(thing, Text))]
    return (
        f'<g class="message" tabindex="0" data-kind="{group.kind}"><title>{escape(group.hover)}</title>'
        f"{''.join(hits)}{''.join(drawn)}</g>"
    )


def _thing(thing: Line | Text | Cross | Box) -> str:
    match thing:
        case Box():
            told = f"<title>{escape(thing.hover)}</title>" if thing.hover else ""
            return (
                f'<rect class="{thing.style}" x="{thing.x * _SCALE:.1f}" y="{thing.y * _SCALE:.1f}" '
                f'width="{thing.width * _SCALE:.1f}" height="{max(thing.height, 0.01) * _SCALE:.1f}">{told}</rect>'
            )
        case Line():
            again = " again" if thing.again else ""
            head = _head(thing) if thing.arrow else ""
            return f'<path class="{thing.style}{again}" d="{_path(thing.points)}"/>{head}'
        case Cross():
            x, y = thing.x * _SCALE, thing.y * _SCALE
            return f'<path class="cross" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"/>'
        case Text():
            size = SIZES[thing.size] / 72 * _SCALE
            anchor = "" if thing.anchor == "start" else f' text-anchor="{thing.anchor}"'
            kind = f' class="{thing.style}"' if thing.style else ""
            return (
                f'<text x="{thing.x * _SCALE:.1f}" y="{thing.y * _SCALE:.1f}" font-size="{size:.1f}"{anchor}{kind}>'
                f"{escape(thing.text)}</text>"
            )


def _path(points: tuple[tuple[float, float], ...]) -> str:
    return "M" + "L".join(f"{x * _SCALE:.1f} {y * _SCALE:.1f}" for x, y in points)


def _head(line: Line) -> str:
    """An arrow head at the end of a line."""
    (x0, y0), (x1, y1) = ((x * _SCALE, y * _SCALE) for x, y in line.points[-2:])
    length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-6)
    dx, dy = (x1 - x0) / length * 9, (y1 - y0) / length * 9
    left, right = (x1 - dx - dy / 2.4, y1 - dy + dx / 2.4), (x1 - dx + dy / 2.4, y1 - dy - dx / 2.4)
    corners = f"M{x1:.1f} {y1:.1f}L{left[0]:.1f} {left[1]:.1f}L{right[0]:.1f} {right[1]:.1f}Z"
    return f'<path class="head {line.style}" d="{corners}"/>'
