"""Plots of sweeps and runs: tables in, matplotlib Axes in and out, so that they can be put together.

    plots.ecdf(sweep)                                    a figure of its own
    fig, (left, right) = plt.subplots(1, 2)
    plots.setup_phases(sweep, ax=left); plots.ecdf(sweep, ax=right)

Every sample is drawn, not only its mean; what has no value (a tunnel that never got ready) is drawn or counted as
well.  Groups differ in colour (Okabe and Ito's, for every kind of colour vision), in marker and in line, so that a
print in black and white can be read.  Figures taken in real time say that they are noisy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from lab.errors import UsageError
from lab.measure import PHASES
from lab.stats import interval, table_of
from lab.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from lab.run import Run

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, without the yellow, which white paper swallows."""

_MARKERS: Final = "osD^vPX"
_LINES: Final = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_HATCHES: Final = ("", "////", "....", "\\\\\\\\", "xxxx", "")
_INK: Final = "#1f2937"
_GREY: Final = "#8a93a0"
_UNITS: Final = {"_ms": "ms", "_s": "s", "_pct": "%", "_mbit": "Mbit/s"}
_MOST_BANDS: Final = 3
_MOST_DOTS: Final = 30
"""Trials of a matrix's cell that are drawn one by one."""


def setup_phases(
    data: Sweep | pd.DataFrame,
    by: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    limit_s: float | None = None,
) -> Axes:
    """Where the time of a set-up goes: for each setting the means of its phases, stacked, and every sample's total.

    Means, because they add up to the mean total; medians do not: under loss most phases are quick in most trials.  A
    stroke marks the median total.  The first packet follows when the tunnel is up, so it stands outside the total.
    Under loss a few set-ups take very long: with `limit_s` the axis ends there, and what lies beyond is an arrow each,
    with the longest time.
    """
    import numpy as np

    table = _with(data, *(f"{phase}_s" for phase in PHASES), "setup_s")
    groups = list(_groups(data, by))
    ax = _axes(ax, (6.4, 1.3 + 0.55 * len(groups)))
    scale, unit = _unit(table["setup_s"].max())
    farthest = max(
        (float(ready[[f"{phase}_s" for phase in PHASES]].sum(axis=1).max()) for _, group in groups
         if len(ready := group[group["setup_s"].notna()])),
        default=1.0,
    )  # fmt: skip
    for place, (_, group) in enumerate(groups):
        ready = group[group["setup_s"].notna()]
        left = 0.0
        for number, phase in enumerate(PHASES):
            width = float(ready[f"{phase}_s"].fillna(0.0).mean()) if len(ready) else 0.0
            outside = phase == "first_packet"
            ax.barh(
                place, width * scale, left=left * scale, height=0.62, color="white" if outside else COLOURS[number],
                edgecolor=_GREY if outside else "white", hatch=_HATCHES[number], linewidth=0.8, alpha=0.85,
                linestyle="--" if outside else "-", label=phase.replace("_", " ") if place == 0 else None, zorder=2,
            )  # fmt: skip
            left += width
        totals = ready["setup_s"].to_numpy(dtype=float) * scale
        spread = place + 0.26 * np.linspace(-1, 1, max(len(totals), 2))[: len(totals)]
        beyond = totals > (math.inf if limit_s is None else limit_s * scale)
        _samples(ax, totals[~beyond], spread[~beyond], _INK, "o")
        notes = []
        if beyond.any() and limit_s is not None:
            _samples(ax, np.full(beyond.sum(), limit_s * scale), spread[beyond], _INK, ">")
            notes.append(f"up to {totals.max():.3g} {unit}")
        if len(totals):
            ax.vlines(np.median(totals), place - 0.36, place + 0.36, color=_INK, linewidth=2, zorder=4)
        if len(ready) < len(group):
            notes.append(f"{len(group) - len(ready)} of {len(group)} never ready")
        at = min(max([left * scale, *totals]), math.inf if limit_s is None else limit_s * scale)
        if notes:
            ax.annotate(
                "; ".join(notes), (at, place), (7, 0), textcoords="offset points", va="center", ha="left", fontsize=8,
                color=_INK, bbox=_PLATE, zorder=5,
            )  # fmt: skip
    ax.set_yticks(range(len(groups)), [label for label, _ in groups])
    ax.set_ylim(len(groups) - 0.4, -0.6)
    noted = limit_s is not None or any(group["setup_s"].isna().any() for _, group in groups)
    ax.set_xlim(0, (farthest if limit_s is None else limit_s) * scale * (1.35 if noted else 1.05))
    ax.set_xlabel(f"time since the start ({unit}); bars: means, stroke: median, dots: every set-up")
    _dress(ax, table, grid="x")
    ax.legend(
        ncols=6, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, handlelength=1.4, columnspacing=1
    )
    return ax


def ecdf(
    data: Sweep | pd.DataFrame,
    by: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    value: str = "setup_s",
    confidence: float = 0.95,
    band: bool | None = None,
    log: bool = False,
) -> Axes:
    """The share of trials whose value is at most x, every trial a mark on the curve, with a band.

    A trial without a value counts too: the curve then ends below 1.  The band holds the whole true curve with this
    confidence (Dvoretzky, Kiefer and Wolfowitz), which needs no assumption and many trials to be narrow.  Without
    `band` being said, up to three groups have one: more could not be told apart.
    """
    import numpy as np

    table = _with(data, value)
    groups = list(_groups(data, by))
    banded = len(groups) <= _MOST_BANDS if band is None else band
    ax = _axes(ax, (7.2, 4))
    scale, unit = _unit(table[value].max(), value)
    end = float(table[value].max()) * scale * 1.05 if table[value].notna().any() else 1.0
    for number, (label, group) in enumerate(groups):
        sample = np.sort(group[value].dropna().to_numpy(dtype=float)) * scale
        n = len(group)
        share = np.arange(1, len(sample) + 1) / n
        colour = COLOURS[number % len(COLOURS)]
        start = sample[:1] if log else np.zeros(1)
        x = np.concatenate([start, sample, [end]])
        y = np.concatenate([[0.0], share, share[-1:] if len(share) else [0.0]])
        half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * n))
        low, high = np.clip(y - half, 0, 1), np.clip(y + half, 0, 1)
        if banded:
            ax.fill_between(x, low, high, step="post", color=colour, alpha=0.13, linewidth=0)
        text = f"{label} ({len(sample)} of {n})" if label else f"{len(sample)} of {n}"
        ax.step(x, y, where="post", color=colour, linestyle=_line(number), linewidth=1.8, label=text)
        _samples(ax, sample, share, colour, _marker(number))
    if log:
        ax.set_xscale("log")
    else:
        ax.set_xlim(0, end)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel(f"{_words(value)} ({unit})" if unit else _words(value))
    ax.set_ylabel("share of trials")
    _dress(ax, table)
    title = f"trials with a value\nband: {confidence:.0%}" if banded else "trials with a value"
    ax.legend(frameon=False, fontsize=8, title=title, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def against(
    data: Sweep | pd.DataFrame,
    x: str,
    by: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    value: str = "setup_s",
    confidence: float = 0.95,
    log: bool = False,
) -> Axes:
    """A value against a number that was varied (delay_ms, loss_pct, or a column of your own such as rtt_ms).

    Every sample, the medians joined by lines, and bootstrap intervals of the medians.  Trials without a value are
    crosses above the plot, with their count.
    """
    import numpy as np

    table = _with(data, x, value)
    if by is None and isinstance(data, Sweep):
        by = [name for name in data.varied if name != x]
    groups = list(_groups(table, by or []))
    ax = _axes(ax, (6.4, 4))
    scale, unit = _unit(table[value].max(), value)
    places = np.sort(table[x].unique().astype(float))
    step = float(np.min(np.diff(places))) if len(places) > 1 else 1.0
    lost: dict[float, int] = {}
    for number, (label, group) in enumerate(groups):
        colour, marker = COLOURS[number % len(COLOURS)], _marker(number)
        shift = step * 0.14 * (number - (len(groups) - 1) / 2)
        middles = []
        for place in places:
            here = group[group[x] == place]
            sample = here[value].dropna().to_numpy(dtype=float) * scale
            missing = len(here) - len(sample)
            if missing:
                lost[place + shift] = missing
                ax.plot(place + shift, 1.03, "x", color=colour, clip_on=False, transform=ax.get_xaxis_transform())
            if not len(sample):
                continue
            spread = place + shift + step * 0.045 * np.linspace(-1, 1, max(len(sample), 2))[: len(sample)]
            _samples(ax, spread, sample, colour, marker)
            low, high = interval(sample, confidence=confidence)
            middles.append((place + shift, float(np.median(sample)), low, high))
        if middles:
            xs, ys, lows, highs = (np.array(part) for part in zip(*middles, strict=True))
            line = _line(number)
            ax.plot(xs, ys, line, color=colour, linewidth=1.6, label=label or None, zorder=3)
            sure = ~np.isnan(lows)
            around = np.vstack([ys - lows, highs - ys])[:, sure]
            ax.errorbar(xs[sure], ys[sure], around, fmt="none", ecolor=colour, elinewidth=1.6, capsize=3, zorder=4)
    for place, missing in lost.items():
        ax.text(place, 1.05, str(missing), transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
    if lost:
        ax.text(1.01, 1.05, "never", transform=ax.transAxes, ha="left", va="bottom", fontsize=8)
    ax.set_xticks(places)
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_xlabel(_with_unit(x))
    ax.set_ylabel(f"{_words(value)} ({unit})" if unit else _words(value))
    _dress(ax, table)
    if any(label for label, _ in groups):
        ax.legend(frameon=False, fontsize=8, title=f"line: median, {confidence:.0%} interval", title_fontsize=8)
    return ax


def matrix(
    data: Sweep | pd.DataFrame,
    rows: str,
    columns: str,
    ax: Axes | None = None,
    *,
    value: str = "ready",
    kind: str = "type",
) -> Axes:
    """Which combinations work: for each pair the share of trials with a true `value`, and every trial as a dot.

    A full dot is a trial with it, a ring one without.  Below stands what they got (`kind`, a column; the commonest).
    """
    table = _with(data, rows, columns, value)
    down, across = (list(dict.fromkeys(table[name])) for name in (rows, columns))
    ax = _axes(ax, (1.6 + 1.5 * len(across), 1.2 + 1.0 * len(down)))
    for r, one in enumerate(down):
        for c, other in enumerate(across):
            here = table[(table[rows] == one) & (table[columns] == other)]
            if here.empty:
                ax.text(c, r, "not tried", ha="center", va="center", fontsize=8, color=_GREY)
                continue
            good = int(here[value].astype(bool).sum())
            shade = good / len(here)
            face = (1 - 0.55 * shade, 1 - 0.32 * shade, 1 - 0.12 * shade)  # white to a light blue: text stays legible
            ax.add_patch(_box(c, r, face, hatch="////" if good == 0 else None))
            got = here.loc[here[value].astype(bool), kind].dropna() if kind in here else here.iloc[:0][value]
            text = f"{good} of {len(here)}" + (f"\n{got.mode().iloc[0]}" if len(got) else "")
            ax.text(c, r + 0.17, text, ha="center", va="center", fontsize=8.5, color=_INK, bbox=_PLATE, zorder=4)
            _dots(ax, c, r - 0.24, [bool(x) for x in here[value]])
    ax.set_xticks(range(len(across)), [_setting(columns, name) for name in across])
    ax.set_yticks(range(len(down)), [_setting(rows, name) for name in down])
    ax.set_xlim(-0.5, len(across) - 0.5)
    ax.set_ylim(len(down) - 0.5, -0.5)
    ax.set_xlabel(_words(columns))
    ax.set_ylabel(_words(rows))
    ax.set_title(f"trials that are {_words(value)}: full dots", fontsize=9, color=_INK)
    ax.tick_params(length=0)
    ax.set_frame_on(False)
    _note(ax, table)
    return ax


def survival(
    data: Run | pd.DataFrame,
    by: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    *,
    alive: str = "alive_s",
    ended: str = "ended",
    confidence: float = 0.95,
) -> Axes:
    """How long tunnels live: the share still alive after a time (Kaplan and Meier), for example by keepalive interval.

    `data` is a run, whose `tables.lifetimes` is taken, or has a row for each tunnel: `alive_s`, the seconds from its
    set-up to the last sign of life, `ended`, false where it was still alive when nobody looked any more, and the
    columns of `by`, for example `keepalive_s`.  A mark is a tunnel that died, a stroke one that was alive to the end.
    """
    import numpy as np
    from scipy import stats as scipy_stats

    from lab.run import Run

    table = _with(data.tables.lifetimes.assign(noisy=data.noisy) if isinstance(data, Run) else data, alive, ended)
    ax = _axes(ax, (6.4, 4))
    scale, unit = _long(float(table[alive].max()))
    for number, (label, group) in enumerate(_groups(table, by or [])):
        times, died = group[alive].to_numpy(dtype=float) * scale, group[ended].to_numpy(dtype=bool)
        colour, line = COLOURS[number % len(COLOURS)], _line(number)
        curve = scipy_stats.ecdf(scipy_stats.CensoredData(uncensored=times[died], right=times[~died])).sf
        x = np.concatenate([[0.0], curve.quantiles, [float(times.max())]])
        y = np.concatenate([[1.0], curve.probabilities, curve.probabilities[-1:]])
        text = f"{label} ({died.sum()} of {len(group)} ended)" if label else f"{died.sum()} of {len(group)} ended"
        ax.step(x, y, where="post", color=colour, linestyle=line, linewidth=1.8, label=text)
        if died.any():
            with warnings.catch_warnings(action="ignore"):  # where all or none are left there is no interval
                band = curve.confidence_interval(confidence, method="log-log")
            low = np.nan_to_num(np.concatenate([[1.0], band.low.probabilities]), nan=0.0)
            high = np.nan_to_num(np.concatenate([[1.0], band.high.probabilities]), nan=1.0)
            ax.fill_between(x[:-1], low, high, step="post", color=colour, alpha=0.13, linewidth=0)
        at = np.searchsorted(x[1:-1], times, side="right")
        _samples(ax, times[died], y[at][died], colour, _marker(number))
        ax.plot(times[~died], y[at][~died], "|", color=colour, markersize=11, markeredgewidth=1.8, zorder=4)
    ax.set_ylim(0, 1.04)
    ax.set_xlim(left=0)
    ax.set_xlabel(f"time since the tunnel was up ({unit})")
    ax.set_ylabel("share of tunnels alive")
    _dress(ax, table)
    names = [by] if isinstance(by, str) else list(by or [])
    title = f"band: {confidence:.0%}; strokes: alive to the end"
    title = f"{', '.join(map(_words, names))}\n{title}" if names else title
    ax.legend(frameon=False, fontsize=8, title=title, title_fontsize=8)
    return ax


def timeline(data: Run | pd.DataFrame, ax: Axes | None = None, *, pings: pd.DataFrame | None = None) -> Axes:
    """Which addresses a node had when: a bar for each, a lane for each kind, one below the other.

    `data` is a run (its trial is drawn, with its echo requests over IPv6), or a table like `Run.tables.addresses`, of
    one trial, with the columns node, what, address, from_s, until_s and, for a second line in the bars, event.
    `pings` (like `Run.tables.echoes`: at_s, answered) adds a lane: what was answered is a stroke above, what was not
    one below.
    """
    from lab.run import Run

    if isinstance(data, Run):
        if pings is None:
            pings = data.tables.echoes
            pings = pings[(pings["trial"] == data.trial) & (pings["family"] == 6)]
        noisy, data = data.noisy, data.tables.addresses[lambda table: table["trial"] == data.trial]
        data = data.assign(noisy=noisy)
    table = _with(data, "node", "what", "address", "from_s", "until_s")
    pings = None if pings is None or pings.empty else pings
    lanes = list(dict.fromkeys(zip(table["node"], table["what"], strict=True)))
    several = table["node"].nunique() > 1
    names = [f"{node}: {what}" if several else what for node, what in lanes]
    ax = _axes(ax, (8.5, 1.3 + 0.62 * (len(lanes) + (pings is not None))))
    end_s = max(float(table["until_s"].max()), 0.0 if pings is None else float(pings["at_s"].max()))
    scale, unit = _long(end_s)
    for lane, key in enumerate(lanes):
        here = table[(table["node"] == key[0]) & (table["what"] == key[1])]
        known = list(dict.fromkeys(here["address"]))
        for row in here.to_dict("records"):
            number, start, width = known.index(row["address"]), row["from_s"] * scale, row["until_s"] - row["from_s"]
            ax.barh(
                lane, width * scale, left=start, height=0.66, facecolor=_light(COLOURS[number % 6]),
                edgecolor=COLOURS[number % 6], hatch=_HATCHES[number % 5], linewidth=1.2,
            )  # fmt: skip
            text = row["address"] + (f"\n{row['event']}" if row.get("event") else "")
            ax.text(
                start + width * scale / 2, lane, text, ha="center", va="center", fontsize=7.5, color=_INK, bbox=_PLATE,
                clip_on=True,
            )  # fmt: skip
    if pings is not None:
        names.append("pings")
        for answered, place, colour in ((True, -0.17, COLOURS[0]), (False, 0.17, COLOURS[1])):
            at = pings[pings["answered"].astype(bool) == answered]["at_s"] * scale
            label = f"{len(at)} {'answered (above)' if answered else 'not answered (below)'}"
            places = [len(lanes) + place] * len(at)
            ax.plot(at, places, "|", color=colour, markersize=9, markeredgewidth=0.9, label=label)
        ax.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, end_s * scale * 1.02)
    ax.set_xlabel(f"time since the network was up ({unit})")
    _dress(ax, table, grid="x")
    return ax


# --- what the plots share ----------------------------------------------------------------------------------------

_PLATE: Final = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.2}


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def _dress(ax: Axes, table: pd.DataFrame, grid: str = "both") -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#d6dae0", linewidth=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    _note(ax, table)


def _note(ax: Axes, table: pd.DataFrame) -> None:
    """Say so where times were taken in real time."""
    if "noisy" in table and table["noisy"].any():
        text = "taken in real time: noisy"
        ax.annotate(
            text, (1, 0), (-2, 3), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom",
            fontsize=8, style="italic", color=_INK, bbox=_PLATE, zorder=6,
        )  # fmt: skip


def _line(number: int) -> Any:
    """The line of a group: after seven the colours begin again, with other lines."""
    return _LINES[(number + number // len(COLOURS)) % len(_LINES)]


def _marker(number: int) -> str:
    return _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]


def _light(colour: str) -> tuple[float, ...]:
    """The colour as an opaque tint.  In SVG a hatch is as transparent as what it is drawn on, and unseen there."""
    from matplotlib.colors import to_rgb

    return tuple(0.35 * part + 0.65 for part in to_rgb(colour))


def _samples(ax: Axes, x: Any, y: Any, colour: str, marker: str) -> None:
    ax.plot(
        x, y, marker, markersize=4.5, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1, alpha=0.85,
        zorder=3.5,
    )  # fmt: skip


def _box(x: float, y: float, face: tuple[float, float, float], hatch: str | None) -> Any:
    from matplotlib.patches import Rectangle

    style = {"facecolor": face, "edgecolor": _GREY, "linewidth": 0.8, "hatch": hatch}
    return Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, **style)  # type: ignore[arg-type]


def _dots(ax: Axes, x: float, y: float, good: list[bool]) -> None:
    """A row of dots, ten in a row; more than can be told apart are left to the figures."""
    if len(good) > _MOST_DOTS:
        return
    top = y - 0.055 * ((len(good) - 1) // 10)
    for number, full in enumerate(good):
        row, column = divmod(number, 10)
        width = min(len(good), 10)
        ax.plot(
            x + 0.085 * (column - (width - 1) / 2), top + 0.11 * row, "o", markersize=4.5, markeredgecolor=_INK,
            markerfacecolor=_INK if full else "white", markeredgewidth=0.9, zorder=4,
        )  # fmt: skip


def _with(data: Sweep | pd.DataFrame, *names: str) -> pd.DataFrame:
    """The table, which has these columns."""
    table = table_of(data)
    for name in names:
        if name not in table:
            raise UsageError(f"this plot needs a column {name!r}; there are {', '.join(table.columns)}")
    if table.empty:
        raise UsageError("there is nothing to plot: the table has no rows")
    return table


def _groups(data: Sweep | pd.DataFrame, by: str | Sequence[str] | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """(what to call it, its rows) for each setting of `by`; by default of what a sweep varied."""
    table = table_of(data)
    names = [by] if isinstance(by, str) else list(by) if by is not None else None
    if names is None:
        names = data.varied if isinstance(data, Sweep) else []
    _with(table, *names)
    if not names:
        yield "", table
        return
    for key, group in table.groupby(names, sort=False, dropna=False):
        yield ", ".join(_setting(name, value) for name, value in zip(names, key, strict=True)), group


def _setting(name: str, value: Any) -> str:
    """`delay_ms`, 20.0 as "20 ms"; words as they are; numbers without a unit with their name."""
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value) if not isinstance(value, bool) else f"{_words(name)}: {'yes' if value else 'no'}"
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            return f"{value:g} {unit}"
    return f"{_words(name)} {value:g}"


def _words(name: str) -> str:
    """A column's name without its unit, in words."""
    known = {"setup_s": "set-up time", "total_s": "time until the client knew", "delay_ms": "delay, one way"}
    known |= {"rtt_ms": "round-trip time", "rtt_s": "round-trip time"}
    if name in known:
        return known[name]
    for suffix in _UNITS:
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def _with_unit(name: str) -> str:
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    return f"{_words(name)} ({unit})" if unit else _words(name)


def _unit(largest: float, name: str = "setup_s") -> tuple[float, str]:
    """(factor, unit) to show values of a column: seconds below two in milliseconds."""
    if not name.endswith("_s"):
        return 1.0, next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    return (1.0, "s") if largest >= 2 else (1000.0, "ms")


def _long(seconds: float) -> tuple[float, str]:
    """(factor, unit) to show times up to a day and more."""
    if seconds >= 2 * 3600:
        return 1 / 3600, "h"
    return (1 / 60, "min") if seconds >= 300 else (1.0, "s")
