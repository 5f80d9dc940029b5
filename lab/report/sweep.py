"""The report of a sweep as one HTML file: plots, figures, failures, and how to run any cell again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lab.errors import UsageError
from lab.report.content import Table, milliseconds
from lab.report.figure import Plot, to_svg
from lab.report.page import render
from lab.sweep import Sweep

_MOST_CELLS: Final = 200
"""Cells whose command is told."""
_MOST_FAILURES: Final = 100
_WIDE: Final = 10
"""Where the longest set-up takes so many times what the median does, plots have logarithmic axes, or end earlier."""


def write_sweep(sweep: Sweep, out: Path | str) -> Path:
    """Write the report of a sweep to `out`; the path.  Raises UsageError."""
    path = Path(out)
    text = sweep_to_html(sweep)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
    return path


def sweep_to_html(sweep: Sweep) -> str:
    """The report of a sweep, as text."""
    failed = len(sweep.failures)
    complete = "" if not sweep.missing else f", {sweep.missing} cells not done"
    return render(
        "sweep.html.j2",
        title=str(sweep.facts["topology"]),
        lesson=str(sweep.facts.get("title", "")),
        ok=not failed and not sweep.missing,
        verdict=f"{sweep}{complete}",
        facts=list(_facts(sweep)),
        plots=list(_plots(sweep)),
        tables=[table for table in (_summary(sweep), _failures(sweep), _cells(sweep)) if table.rows],
        rerun=list(_rerun(sweep)),
    )


def _facts(sweep: Sweep) -> Iterator[tuple[str, str]]:
    facts = sweep.facts
    for name, values in facts["vary"].items():
        yield name, ", ".join(str(value) for value in values)
    for name, value in facts.get("fixed", {}).items():
        yield name, str(value)
    yield "Trials a cell", str(facts["trials"])
    yield "Seed", str(facts["seed"])
    noisy = "noisy" in sweep.table and bool(sweep.table["noisy"].any())
    yield "Kernel", str(facts["on"])
    yield "Time", "real time: every time holds what else the machine did" if noisy else "virtual time: exact"
    yield "Lab", str(facts.get("lab", ""))


def _plots(sweep: Sweep) -> Iterator[Plot]:
    """What can be drawn of set-up times; nothing when the sweep measured something else."""
    from lab import plots

    if "setup_s" not in sweep.table or not sweep.table["setup_s"].notna().any():
        return
    times = sweep.table["setup_s"].dropna()
    wide = bool(times.max() > _WIDE * times.median())  # a few very long ones would leave no room for the others
    longest_bar_s = sweep.table.groupby("cell")["setup_s"].mean().max()
    limit_s = 1.1 * float(max(times.quantile(0.95), longest_bar_s)) if wide else None
    note = "Bars: means of the phases, a stroke: the median total, dots: every set-up."
    yield Plot("Where the time goes", note, to_svg(plots.setup_phases(sweep, limit_s=limit_s), "a"))
    note = "Every trial is a mark; a curve that ends below 1 had trials without a tunnel."
    yield Plot("Distribution", note, to_svg(plots.ecdf(sweep, log=wide), "b"))
    for number, name in enumerate(sweep.varied):
        values = sweep.facts["vary"][name]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            note = "Every sample, medians, and their bootstrap intervals."
            yield Plot(f"Against {name}", note, to_svg(plots.against(sweep, name, log=wide), f"c{number}"))


def _summary(sweep: Sweep) -> Table:
    from lab import stats

    if "setup_s" not in sweep.table:
        return Table("Set-up times", (), ())
    found = stats.summary(sweep)
    times = [name for name in found.columns if name in ("median", "low", "high") or re.match(r"q[\d.]+", name)]
    rows = [
        tuple(
            ("" if value != value else milliseconds(value)) if name in times else _word(value)
            for name, value in zip(found.columns, row, strict=True)
        )
        for row in found.itertuples(index=False)
    ]
    note = "low and high: a bootstrap interval of the median, 95 %."
    return Table("Set-up times", [str(name) for name in found.columns], rows, note)


def _failures(sweep: Sweep) -> Table:
    rows = [
        (str(row["cell"]), str(row["trial"]), str(row["status"]), str(row["reason"]))
        for _, row in sweep.failures.head(_MOST_FAILURES).iterrows()
    ]
    return Table("Trials that failed", ("cell", "trial", "status", "reason"), rows)


def _cells(sweep: Sweep) -> Table:
    done = list(dict.fromkeys(sweep.table["cell"]))[:_MOST_CELLS]
    rows = [(str(cell), sweep.rerun(cell)) for cell in done]
    return Table("Any cell again, alone, with captures", ("cell", "command"), rows)


def _rerun(sweep: Sweep) -> Iterator[tuple[str, str]]:
    facts = sweep.facts
    words = ["scripts/lab", "sweep", str(facts["topology"])]
    for name, values in facts["vary"].items():
        words += ["--vary", f"{name}={','.join(str(value) for value in values)}"]
    for name, value in facts.get("fixed", {}).items():
        words += ["--set", f"{name}={value}"]
    for name in facts.get("paired", ()):  # without, the seeds are others
        words += ["--paired", str(name)]
    words += ["--trials", str(facts["trials"]), "--seed", str(facts["seed"]), "--on", str(facts["on"])]
    words += ["--capture"] if facts.get("capture") else []
    yield shlex.join([*words, "--out", "again.parquet"]), "the whole sweep once more"


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
