"""Figures of sweeps: medians with intervals, pairs, and what was left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab import stats
from lab.errors import UsageError
from tests.unit import sweeps


def test_a_summary_counts_what_failed_and_leaves_it_out_of_the_median() -> None:
    found = stats.summary(sweeps.table(trials=12, failing=3), ["delay_ms", "transport"])
    assert list(found["n"]) == [12] * 4
    assert list(found["ready"]) == [12, 9, 12, 9]
    assert list(found["share_ready"]) == [1, 0.75, 1, 0.75]
    assert (found["low"] <= found["median"]).all()
    assert (found["median"] <= found["high"]).all()
    assert (found["q90"] >= found["median"]).all()
    assert not found["noisy"].any()


def test_the_same_table_gives_the_same_figures() -> None:
    table = sweeps.table()
    assert stats.summary(table, "delay_ms").equals(stats.summary(table, "delay_ms"))


def test_an_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Nine times of ten.  That a right one holds it fewer than 92 times of 120, or always, has odds below 1e-4."""
    rng = np.random.default_rng(1)
    held = 0
    for number in range(120):
        low, high = stats.interval(rng.exponential(size=40), seed=number, confidence=0.9)
        held += low <= math.log(2) <= high
    assert 92 <= held < 120


def test_an_interval_of_nothing_is_nothing_and_of_equals_has_no_width() -> None:
    assert all(math.isnan(end) for end in stats.interval([1.0]))
    assert stats.interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


def test_pairs_show_a_difference_that_luck_would_hide() -> None:
    table = sweeps.table(trials=20, failing=2)
    found = stats.compare(table, "transport", "udp", "tcp")
    assert (found.pairs, found.left_out) == (36, 4)
    assert found.difference == pytest.approx(0.001)
    assert [found.low, found.high] == pytest.approx([0.001, 0.001])
    udp = stats.summary(table, "transport").to_dict("records")[0]
    assert udp["high"] - udp["low"] > 10 * found.difference
    assert "36 pairs, 4 left out" in str(found)
    assert "noisy" not in str(found)
    assert "noisy" in str(stats.compare(sweeps.table(noisy=True), "transport", "udp", "tcp"))


def test_trials_without_a_common_seed_are_not_compared() -> None:
    table = sweeps.table()
    table["seed"] = table["seed"].astype(str) + table["transport"]
    with pytest.raises(UsageError, match=r"paired=\['transport'\]"):
        stats.compare(table, "transport", "udp", "tcp")
    with pytest.raises(UsageError, match="transport is never 'sctp' here; it is udp, tcp"):
        stats.compare(table, "transport", "udp", "sctp")


def test_the_warm_up_goes() -> None:
    assert set(stats.without_warm_up(sweeps.table(trials=4), 2)["trial"]) == {2, 3}


def test_a_column_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match="no column 'speed'; there are cell"):
        stats.summary(sweeps.table(), value="speed")
