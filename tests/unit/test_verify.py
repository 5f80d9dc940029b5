"""Which measurements of a link pass for what was asked."""

from __future__ import annotations

import math
import random

import pytest

from lab.kernel.verify import acceptable, measurable, summarise, train
from lab.topology.plan import Shape


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


def through(shape: Shape, rng: random.Random, frames: int = 1000) -> list[tuple[int, float]]:
    """(number, delay in ms) of what comes out of netem when frames go in (netem_enqueue in Linux)."""
    arrivals = []
    for number in range(frames):
        copies = 1 + (rng.random() < shape.duplicate_pct / 100) - (rng.random() < shape.loss_pct / 100)
        copies -= copies == 2 and rng.random() < shape.loss_pct / 100  # the copy goes in again, to be lost or not
        for _ in range(copies):
            hurries = rng.random() < shape.reorder_pct / 100
            spread = rng.uniform(-shape.jitter_ms, shape.jitter_ms)
            arrivals.append((number, 0.02 if hurries else shape.delay_ms + spread))
    return arrivals


@pytest.mark.parametrize(
    "impairments",
    [
        {"loss_pct": 0.1},
        {"loss_pct": 3.0},
        {"loss_pct": 50.0},
        {"loss_pct": 97.0},
        {"loss_pct": 100.0, "delay_ms": 20.0},
        {"duplicate_pct": 1.0},
        {"duplicate_pct": 100.0},
        {"loss_pct": 50.0, "duplicate_pct": 50.0},
        {"loss_pct": 90.0, "duplicate_pct": 5.0},
        {"delay_ms": 20.0, "jitter_ms": 20.0, "loss_pct": 80.0},
        {"delay_ms": 50.0, "jitter_ms": 10.0, "loss_pct": 5.0, "duplicate_pct": 2.0, "reorder_pct": 10.0},
        {"delay_ms": 50.0, "jitter_ms": 50.0, "reorder_pct": 10.0},
        {"delay_ms": 50.0, "reorder_pct": 100.0},
    ],
    ids=str,
)
def test_a_link_that_does_what_was_asked_is_hardly_ever_measured_wrong(impairments: dict[str, float]) -> None:
    """Three times in a row it has to be: at 1 % each, once in a million links."""
    shape = Shape("a", "e0", 2, **impairments)
    requested = measurable(impairments)
    rng = random.Random(1)
    wrong = 0
    for _ in range(400):
        achieved = summarise(shape, through(shape, rng), 1000)
        wrong += not acceptable(requested, achieved)
    assert wrong <= 4, "of 400; at 1 in 1,000 more than 4 has odds of 1 in 20,000"


@pytest.mark.parametrize("loss_pct", [0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 50.0, 90.0, 99.0])
def test_a_count_of_losses_is_a_false_alarm_once_in_a_thousand_at_most(loss_pct: float) -> None:
    share = loss_pct / 100
    alarm = sum(
        math.comb(1000, lost) * share**lost * (1 - share) ** (1000 - lost)
        for lost in range(1001)
        if not acceptable({"loss_pct": loss_pct}, {"loss_pct": lost / 10})
    )
    assert alarm < 1e-3
    assert not acceptable({"loss_pct": loss_pct}, {"loss_pct": loss_pct + 7}), "and a link that is far off is found out"


@pytest.mark.parametrize("loss_pct", [0, 5, 10, 30, 85])
@pytest.mark.parametrize("rate_mbit", [0.1, 1, 20, 300])
def test_enough_frames_of_a_train_arrive_whatever_is_lost(rate_mbit: float, loss_pct: float) -> None:
    """Too few would say nothing of the rate: it takes two behind those that did not have to wait."""
    count, unpaced = train(Shape("a", "e0", 2, rate_mbit=rate_mbit, loss_pct=loss_pct), 1500)
    share = 1 - loss_pct / 100
    few = sum(math.comb(count, n) * share**n * (1 - share) ** (count - n) for n in range(min(count, unpaced + 1) + 1))
    assert few < 1e-2


def test_jitter_does_not_leave_a_limited_link_idle() -> None:
    shape = Shape("a", "e0", 2, delay_ms=100, jitter_ms=50, rate_mbit=10)
    count, _ = train(shape, 1500)
    assert count * 1514 * 8 > 2 * shape.rate_mbit * 1e6 * 2 * shape.jitter_ms / 1000
