"""The keepalive clock (RFC 5572 section 4.6): when to send, when to give up."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from lab.actors.keepalive import Keepalive
from lab.scenario.node import LabNode

if TYPE_CHECKING:
    from lab.actors.client import TunnelClient


def run(keepalive: Keepalive, until: float, answer: bool) -> list[float]:
    """Walk from timer to timer up to `until`; the times at which echoes were sent."""
    sent = []
    while (at := keepalive.timer()) is not None and at <= until:
        if keepalive.handle_timer(at):
            sent.append(at)
            if answer:
                keepalive.heard()
    return sent


def test_intervals_are_drawn_from_three_quarters_to_the_whole_of_t() -> None:
    keepalive = Keepalive(30, 0.0, rng=random.Random(1))
    sent = [0.0, *run(keepalive, 3000, answer=True)]
    waits = [b - a for a, b in itertools.pairwise(sent)]
    assert all(22.5 <= wait <= 30 for wait in waits)
    assert max(waits) - min(waits) > 5
    assert not keepalive.dead


@pytest.mark.parametrize("interval", [1, 2, 12, 30])
def test_three_unanswered_echoes_in_a_row_mean_dead_within_3t_and_5s(interval: float) -> None:
    keepalive = Keepalive(interval, 100.0, rng=random.Random(2))
    last = 100.0
    while (at := keepalive.timer()) is not None:
        last = at
        keepalive.handle_timer(at)
    assert keepalive.dead
    assert keepalive.sent == 3
    assert last - 100.0 <= 3 * interval + 5
    assert not keepalive.handle_timer(last + 1000)


def test_a_sign_of_life_starts_the_count_again() -> None:
    keepalive = Keepalive(10, 0.0, rng=random.Random(3))
    while keepalive.missed < 2:
        at = keepalive.timer()
        assert at is not None
        keepalive.handle_timer(at)
    keepalive.heard()
    assert keepalive.missed == 0
    sent = run(keepalive, 10_000, answer=False)
    assert keepalive.dead
    assert len(sent) == 3


def test_a_late_timer_counts_the_miss_and_still_sends() -> None:
    keepalive = Keepalive(10, 0.0, rng=random.Random(4))
    assert keepalive.handle_timer(10.0)
    assert keepalive.handle_timer(60.0)
    assert keepalive.missed == 1


def test_calling_early_changes_nothing() -> None:
    keepalive = Keepalive(10, 0.0, rng=random.Random(5))
    assert not keepalive.handle_timer(1.0)
    assert keepalive.sent == 0


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_is_positive(interval: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Keepalive(interval, 0.0, rng=random.Random(0))


def test_the_end_of_a_silence_is_not_after_the_keepalive_though_the_machine_stood_still() -> None:
    async def wait() -> float:
        """Seconds from the last keepalive to what is taken for the end of a silence."""
        loop = asyncio.get_running_loop()
        keepalive = Keepalive(0.4, loop.time(), rng=random.Random(1))
        sent = [loop.time()]

        def due() -> None:
            if keepalive.handle_timer(loop.time()):
                sent.append(loop.time())
                keepalive.heard()
            loop.call_at(keepalive.next_echo or 0.0, due)

        first = keepalive.next_echo
        assert first is not None
        loop.call_at(first, due)
        loop.call_at(first - 0.12, time.sleep, 0.2)  # the wait is over, and the keepalive due, in the meantime
        node = LabNode.__new__(LabNode)
        node._tunnel = cast("TunnelClient", SimpleNamespace(keepalive=keepalive))
        await node.until_keepalive()
        return loop.time() - sent[-1]

    assert asyncio.run(wait()) > 0.45 * 0.4  # else some microseconds
