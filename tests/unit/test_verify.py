"""Which measurements of a link pass for what was asked."""

from __future__ import annotations

import math

import pytest

from lab.kernel.verify import acceptable


@pytest.mark.parametrize(
    ("requested", "achieved", "verdict"),
    [
        ({"delay_ms": 20.0}, {"delay_ms": 20.9}, True),
        ({"delay_ms": 20.0}, {"delay_ms": 21.1}, False),
        ({"delay_ms": 20.0}, {"delay_ms": 0.05}, False),
        ({"delay_ms": 200.0}, {"delay_ms": 209.0}, True),
        ({"delay_ms": 20.0}, {"delay_ms": math.inf}, False),
        ({"delay_ms": 20.0}, {}, False),
        ({"delay_ms": 20.0, "jitter_ms": 8.0}, {"delay_ms": 23.0, "jitter_ms": 7.0}, True),
        ({"delay_ms": 20.0, "jitter_ms": 8.0}, {"delay_ms": 20.0, "jitter_ms": 0.1}, False),
        ({"loss_pct": 1.0}, {"loss_pct": 2.0}, True),
        ({"loss_pct": 1.0}, {"loss_pct": 3.0}, False),
        ({"loss_pct": 10.0}, {"loss_pct": 0.0}, False),
        ({"rate_mbit": 10.0}, {"rate_mbit": 9.2}, True),
        ({"rate_mbit": 10.0}, {"rate_mbit": 12.0}, False),
        ({"rate_mbit": 10.0}, {"rate_mbit": math.nan}, False),
        ({"mtu": 1280.0}, {"mtu": 1280.0}, True),
        ({"mtu": 1280.0}, {"mtu": 1281.0}, False),
        ({"delay_ms": 20.0, "mtu": 1280.0}, {"delay_ms": 20.0, "mtu": 0.0}, False),
        ({}, {}, True),
    ],
)
def test_a_measurement_is_acceptable_when_its_sample_cannot_tell_it_from_the_request(
    requested: dict[str, float], achieved: dict[str, float], verdict: bool
) -> None:
    assert acceptable(requested, achieved) is verdict
