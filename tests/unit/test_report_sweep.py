"""The report of a sweep: plots, figures, what failed and why, and a command for every cell."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from lab.errors import UsageError
from lab.measure import PHASES
from lab.report.sweep import sweep_to_html, write_sweep
from lab.sweep import Sweep
from tests.unit.test_report import Outline


def small(*, measured: bool = True) -> Sweep:
    """Two cells with three trials each; the last trial failed."""
    rows = []
    for number, delay_ms in enumerate((5.0, 25.0)):
        for trial in range(3):
            failed = number == 1 and trial == 2
            row = {
                "cell": f"cell{number}",
                "delay_ms": delay_ms,
                "seed": 7 + number,
                "trial": trial,
                "engine": "virtual",
                "noisy": False,
                "status": "error" if failed else "ok",
                "reason": "<b>no tunnel</b>" if failed else "",
            }
            if measured:
                row |= {f"{phase}_s": None if failed else 0.001 * delay_ms for phase in PHASES}
                row["setup_s"] = None if failed else 0.008 * delay_ms + 0.0001 * trial
            rows.append(row)
    facts = {
        "topology": "setup_time",
        "title": "How long does a set-up take?",
        "seed": 3,
        "trials": 3,
        "on": "virtual",
        "vary": {"delay_ms": [5.0, 25.0]},
        "fixed": {},
        "cells": {"cell0": {"delay_ms": 5.0}, "cell1": {"delay_ms": 25.0}, "cell2": {"delay_ms": 125.0}},
    }
    return Sweep(pd.DataFrame(rows), facts)


def test_a_sweep_is_told_with_plots_figures_and_commands() -> None:
    html = sweep_to_html(small())
    page = Outline(html)
    text = " ".join(" ".join(page.text).split())
    assert page.open == []
    assert html.count("<svg") == 3
    assert "setup_time: 2 of 3 cells, 6 trials, 1 failed, 1 cells not done" in text
    assert "scripts/lab run setup_time --set delay_ms=25.0 --seed 8 --trials 3 --on virtual" in text
    assert "scripts/lab sweep setup_time --vary delay_ms=5.0,25.0 --trials 3 --seed 3 --on virtual" in text
    assert "40.1 ms" in text  # the median of the first cell
    assert len(set(page.ids)) == len(page.ids)
    assert all(link.startswith(("#", "data:")) for link in page.loads)


def test_the_command_for_the_whole_has_all_that_the_seeds_depend_on() -> None:
    done = small()
    made = Sweep(done.table, {**done.facts, "paired": ["transport"], "capture": True}, done.path)
    command = " ".join(re.findall(r"lab sweep [^<]*", sweep_to_html(made)))
    assert "--paired transport" in command
    assert "--capture" in command
    assert "--paired" not in " ".join(re.findall(r"lab sweep [^<]*", sweep_to_html(done)))


def test_some_very_long_set_ups_leave_room_for_the_others() -> None:
    done = small()
    table = done.table.assign(setup_s=done.table["setup_s"] * 1.0)
    table = pd.concat([table] * 20).assign(trial=range(120))
    table.iloc[0, table.columns.get_loc("setup_s")] = 60.0
    text = sweep_to_html(Sweep(table, done.facts, done.path))
    assert "up to " in text
    assert "up to " not in sweep_to_html(done)
    assert plt.get_fignums() == []  # none is left open, for a notebook to show


def test_a_sweep_is_printed_in_a_line() -> None:
    assert re.fullmatch(r"<Sweep of setup_time: .*>", repr(small()))


def test_why_a_trial_failed_is_text() -> None:
    html = sweep_to_html(small())
    assert "&lt;b&gt;no tunnel&lt;/b&gt;" in html
    assert "<b>no tunnel" not in html


def test_a_sweep_that_measured_something_else_has_no_plots() -> None:
    html = sweep_to_html(small(measured=False))
    assert "<svg" not in html
    assert "Trials that failed" in html


def test_where_it_cannot_be_written_is_said(tmp_path: Path) -> None:
    assert write_sweep(small(measured=False), tmp_path / "sweep.html").exists()
    with pytest.raises(UsageError, match="No such file"):
        write_sweep(small(measured=False), tmp_path / "nowhere" / "sweep.html")
