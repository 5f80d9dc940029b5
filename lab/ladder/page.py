"""Where everything in a ladder goes, as lines and texts on a page in inches; y grows downwards.

The scale of time is its own: a step from one event to the next grows with the logarithm of its length, so that both
microseconds and seconds can be read, and a text pushes what comes later down until it overlaps nothing.  Order is
kept exactly.  A long wait with nothing on its way is cut and says how long it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from lab.ladder.model import Column, Hop, Ladder, Message

Anchor = Literal["start", "middle", "end"]

SPACING: Final = 2.05
"""Inches between two nodes."""
LEFT: Final = 1.35
RIGHT: Final = 1.45
"""Room beside the last node, for the names of phases."""
TOP: Final = 1.35
BOTTOM: Final = 0.55
ROW: Final = 0.15
"""Height of a line of text."""
WAIT_NS: Final = 50_000_000
"""A wait this long with nothing on its way is cut."""
CUT: Final = 0.36
SIZES: Final = {"title": 12.0, "outcome": 9.0, "name": 10.0, "small": 7.5, "label": 8.5, "rewritten": 7.5}
"""Font sizes in points."""


@dataclass(frozen=True, slots=True)
class Line:
    points: tuple[tuple[float, float], ...]
    style: str
    """lifeline, signalling, data, native, tcp, icmp or ip."""
    arrow: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    x: float
    y: float
    """The middle of the line of text."""
    text: str
    size: str
    anchor: Anchor = "start"
    style: str = ""
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Cross:
    """Where a packet ended."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    style: str
    hover: str = ""


@dataclass(slots=True)
class Group:
    """A message: what is drawn for it, and what is told to whoever points at it."""

    kind: str
    hover: str
    things: list[Line | Text | Cross] = field(default_factory=list)


@dataclass(slots=True)
class Page:
    """A ladder, laid out."""

    width: float
    height: float
    title: str
    under: list[Box | Line | Text] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    head: float = TOP


_WIDE: Final = set("mwMW@%—")
_NARROW: Final = set("iljI.,:;'|!()[]/ftr 1-")


def width_of(text: str, size: str) -> float:
    """Inches that a text takes, rather more than less."""
    ems = sum(0.95 if c in _WIDE else 0.42 if c in _NARROW else 0.63 for c in text)
    return ems * SIZES[size] / 72


def shorten(text: str, size: str, room: float) -> str:
    """The text, its end cut off when it needs more than `room` inches."""
    if width_of(text, size) <= room:
        return text
    while len(text) > 4 and width_of(text + "...", size) > room:
        text = text[:-1]
    return text.rstrip() + "..."


def in_time(ns: int) -> str:
    """A time since the start, for the margin."""
    if abs(ns) < 999_500:
        return f"{ns / 1e6:.3f} ms"
    if abs(ns) < 999_950_000:
        return f"{ns / 1e6:.2f} ms"
    return f"{ns / 1e9:.4f} s"


def span(ns: int) -> str:
    """A length of time, in a unit that suits it."""
    if ns < 1_000_000:
        return f"{ns / 1e3:.3g} \u00b5s"
    return f"{ns / 1e6:.3g} ms" if ns < 999_500_000 else f"{ns / 1e9:.3g} s"


def lay_out(ladder: Ladder) -> Page:
    """The page of a ladder."""
    return _Layout(ladder).page()


class _Layout:
    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self.x = {column.name: LEFT + number * SPACING for number, column in enumerate(ladder.columns)}
        need = max(width_of(ladder.title, "title"), width_of(ladder.outcome, "outcome")) + 0.4
        self.right = max(self.x.values())
        self.width = max(self.right + RIGHT, min(need, 11.0))
        self.boxes: list[tuple[float, float, float, float]] = []
        self.segments: list[tuple[float, float, float, float]] = []
        self.y: dict[int, float] = {}
        self.texts: dict[int, list[_Placed]] = {}

    def page(self) -> Page:
        groups = [Group(message.kind, message.detail) for message in self.ladder.messages]
        for group, message in zip(groups, self.ladder.messages, strict=True):
            self._texts_of(group, message)
        cuts = self._place()
        end = max(self.y.values()) + 0.35
        page = Page(self.width, 0.0, self.ladder.title, groups=groups)
        self._bands(page)
        for group, message in zip(groups, self.ladder.messages, strict=True):
            self._lines_of(group, message)
        for placed in (text for texts in self.texts.values() for text in texts):
            if placed.group is not None:
                placed.group.things.append(placed.text_at(self.y[placed.t_ns]))
        self._heads(page, end, cuts)
        y = end + 0.45
        for note in ("Time runs down, not to scale: see the margin.", *self.ladder.notes):
            page.under.append(Text(LEFT, y, note, "small", style="quiet"))
            y += ROW + 0.02
        page.height = y + 0.15
        return page

    # --- texts, before anything has its height

    def _texts_of(self, group: Group, message: Message) -> None:
        ladder = self.ladder
        x = self.x[message.origin]
        first = message.hops[0] if message.hops else None
        to_right = first is None or self.x[first.b] >= x
        again = f"again ({message.transmission}): " if message.transmission > 1 else ""
        room = (self.right + 0.25 - x if to_right else x - LEFT) - 0.1
        label = again + message.label
        if not to_right and width_of(label, "label") > room:  # over the whole picture, from its left end
            x, to_right, room = LEFT, True, self.right + 0.25 - LEFT - 0.1
        label = shorten(label, "label", max(room, SPACING * 0.9))
        anchor: Anchor = "start" if to_right else "end"
        shift = 0.06 if to_right else -0.06
        style = "again" if again else ""
        self._add(message.t_ns, group, x + shift, -0.10, label, "label", anchor, style)
        time = in_time(message.t_ns - ladder.began_ns)
        self._add(message.t_ns, group, LEFT - 0.3, 0.0, time, "small", "end", "quiet")
        for hop in message.hops:
            if hop.rewritten:
                here, there = self.x[hop.a], self.x[hop.b]
                side: Anchor = "start" if there >= here else "end"
                shift = 0.06 if there >= here else -0.06
                self._add(hop.left_ns, group, here + shift, -0.09, hop.rewritten, "rewritten", side, "rewritten")
        if message.dropped:
            t_ns, x = self._end(message)
            fits = x + 0.15 + width_of(message.dropped, "rewritten") < self.right + 0.3
            side = "start" if fits else "end"
            self._add(t_ns, group, x + (0.13 if fits else -0.13), 0.02, message.dropped, "rewritten", side, "dropped")

    def _end(self, message: Message) -> tuple[int, float]:
        """When and where a message ended that did not arrive."""
        if not message.hops:
            return message.t_ns, self.x[message.origin]
        last = message.hops[-1]
        if last.arrived_ns is None:
            return last.left_ns, (self.x[last.a] + self.x[last.b]) / 2
        return last.arrived_ns, self.x[last.b]

    def _add(
        self, t_ns: int, group: Group, x: float, shift: float, text: str, size: str, anchor: Anchor, style: str
    ) -> None:
        self.texts.setdefault(t_ns, []).append(_Placed(t_ns, group, x, shift, text, size, anchor, style))

    # --- the scale of time

    def _place(self) -> list[tuple[float, int]]:
        """Give every time its height; where a wait was cut, and how long it was."""
        hops = [hop for message in self.ladder.messages for hop in message.hops]
        times = {self.ladder.began_ns, *self.texts}
        times |= {t for hop in hops for t in (hop.left_ns, hop.arrived_ns) if t is not None}
        times |= {t for band in self.ladder.bands for t in (band.began_ns, band.ended_ns)}
        flying = [(hop.left_ns, hop.arrived_ns) for hop in hops if hop.arrived_ns is not None]
        cuts: list[tuple[float, int]] = []
        before: int | None = None
        y = TOP + 0.12
        for t_ns in sorted(times):
            if before is not None:
                step = t_ns - before
                if step >= WAIT_NS and not any(a < t_ns and b > before for a, b in flying):
                    y += 0.12
                    cuts.append((y + CUT / 2, step))
                    self.boxes.append((0.0, self.width, y, y + CUT))
                    y += CUT
                else:
                    y += _step(step)
            y = self._free(t_ns, y)
            self.y[t_ns] = y
            self._segments_at(t_ns)
            self.boxes += [placed.box(y) for placed in self.texts.get(t_ns, ())]
            before = t_ns
        return cuts

    def _free(self, t_ns: int, y: float) -> float:
        """The first height from `y` on where the texts of a time overlap nothing; those of one time are stacked."""
        placed: list[_Placed] = []
        for text in sorted(self.texts.get(t_ns, ()), key=lambda text: text.size == "label"):
            while any(_overlap(text.box(0.0), other.box(0.0)) for other in placed):
                text.shift -= ROW
            placed.append(text)
        while any(self._hits(text.box(y)) for text in placed):
            y += 0.02
        return y

    def _hits(self, box: tuple[float, float, float, float]) -> bool:
        """Whether a box overlaps a text or a line that has its place."""
        return any(_overlap(box, other) for other in self.boxes[-60:]) or any(
            _crosses(box, segment) for segment in self.segments[-40:]
        )

    def _segments_at(self, t_ns: int) -> None:
        """Remember the lines that end at a time, now that its height is known."""
        for message in self.ladder.messages:
            for hop in message.hops:
                if (hop.left_ns if hop.arrived_ns is None else hop.arrived_ns) != t_ns:
                    continue
                a, b = self.x[hop.a], self.x[hop.b]
                if hop.arrived_ns is None:
                    b = (a + b) / 2
                self.segments.append((a, self.y[hop.left_ns], b, self.y[t_ns]))

    # --- what is drawn

    def _lines_of(self, group: Group, message: Message) -> None:
        for number, hop in enumerate(message.hops):
            group.things.insert(0, self._line(hop, message, number == len(message.hops) - 1))
        if message.dropped:
            t_ns, x = self._end(message)
            y = self.y[t_ns]
            if message.hops and message.hops[-1].arrived_ns is None:
                y += 0.04
            group.things.append(Cross(x, y))

    def _line(self, hop: Hop, message: Message, last: bool) -> Line:
        a, b = self.x[hop.a], self.x[hop.b]
        again = message.transmission > 1
        style = "native" if message.kind == "data" and not hop.tunnelled else message.kind
        if hop.arrived_ns is None:
            y = self.y[hop.left_ns]
            return Line(((a, y), ((a + b) / 2, y + 0.04)), style, again=again)
        arrow = last and not message.dropped
        return Line(((a, self.y[hop.left_ns]), (b, self.y[hop.arrived_ns])), style, arrow=arrow, again=again)

    def _bands(self, page: Page) -> None:
        for number, band in enumerate(self.ladder.bands):
            top, bottom = self.y[band.began_ns], self.y[band.ended_ns]
            hover = f"{band.name}: {span(band.ended_ns - band.began_ns)}"
            x = LEFT - 0.22
            page.under.append(Box(x, top, self.width - x - 0.1, bottom - top, f"band{number % 2}", hover))
            page.under.append(Box(x, top, 0.07, bottom - top, f"edge{number % 2}", hover))
            edge, room = self.width - 0.18, self.width - self.right - 0.5
            if bottom - top > ROW + 0.02:
                page.under.append(Text(edge, top + 0.1, shorten(band.name, "small", room), "small", "end", "phase"))
            if bottom - top > 2 * ROW + 0.02:
                told = span(band.ended_ns - band.began_ns)
                page.under.append(Text(edge, top + 0.1 + ROW, told, "small", "end", "quiet"))

    def _heads(self, page: Page, end: float, cuts: Sequence[tuple[float, int]]) -> None:
        ladder = self.ladder
        page.under.append(Text(0.2, 0.25, shorten(ladder.title, "title", self.width - 0.4), "title", style="bold"))
        page.under.append(Text(0.2, 0.5, shorten(ladder.outcome, "outcome", self.width - 0.4), "outcome"))
        for column in ladder.columns:
            self._column(page, column, end, [y for y, _ in cuts])
        for y, step in cuts:
            page.under.append(Text(LEFT - 0.3, y, f"{span(step)} pass", "small", "end", "quiet"))

    def _column(self, page: Page, column: Column, end: float, cuts: Sequence[float]) -> None:
        x, y = self.x[column.name], TOP
        for cut in cuts:
            page.under.append(Line(((x, y), (x, cut - 0.1)), "lifeline"))
            zigzag = ((x, cut - 0.1), (x + 0.06, cut - 0.05), (x - 0.06, cut + 0.05), (x, cut + 0.1))
            page.under.append(Line(zigzag, "lifeline"))
            y = cut + 0.1
        page.under.append(Line(((x, y), (x, end)), "lifeline"))
        page.under.append(Text(x, TOP - 0.5, column.name, "name", "middle", "bold"))
        page.under.append(Text(x, TOP - 0.32, column.kind, "small", "middle"))
        page.under.append(Text(x, TOP - 0.16, column.address, "small", "middle", "quiet"))
        page.under.append(Text(x, end + 0.14, column.name, "name", "middle", "bold"))


@dataclass(slots=True)
class _Placed:
    """A text that hangs on a time."""

    t_ns: int
    group: Group | None
    x: float
    shift: float
    """From the height of its time to its own middle."""
    text: str
    size: str
    anchor: Anchor
    style: str

    def box(self, y: float) -> tuple[float, float, float, float]:
        width = width_of(self.text, self.size) + 0.04
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return left, left + width, y + self.shift - 0.072, y + self.shift + 0.072

    def text_at(self, y: float) -> Text:
        return Text(self.x, y + self.shift, self.text, self.size, self.anchor, self.style)


def _step(ns: int) -> float:
    return 0.0 if ns == 0 else 0.02 + 0.045 * math.log10(1 + ns / 1000)


def _crosses(box: tuple[float, float, float, float], segment: tuple[float, float, float, float]) -> bool:
    """Whether a line from (x, y) to (x, y) passes through a box."""
    xa, ya, xb, yb = segment
    if xa > xb:
        xa, ya, xb, yb = xb, yb, xa, ya
    left, right = max(box[0], xa), min(box[1], xb)
    if left >= right:
        return False
    rise = (yb - ya) / (xb - xa)
    y0, y1 = ya + (left - xa) * rise, ya + (right - xa) * rise
    return max(y0, y1) > box[2] - 0.035 and min(y0, y1) < box[3] + 0.01


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
