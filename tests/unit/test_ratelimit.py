"""Token buckets by source."""

from __future__ import annotations

from lab.actors.ratelimit import RateLimiter


def test_a_burst_passes_and_then_only_the_rate() -> None:
    limiter = RateLimiter(rate=10, burst=5)
    assert [limiter.allow("a", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert limiter.allow("a", 0.1)
    assert not limiter.allow("a", 0.1)


def test_a_storm_of_refused_ones_does_not_delay_the_next_good_one() -> None:
    limiter = RateLimiter(rate=1, burst=1)
    limiter.allow("a", 0.0)
    for _ in range(1000):
        limiter.allow("a", 0.5)
    assert limiter.allow("a", 1.0)


def test_sources_do_not_disturb_each_other() -> None:
    limiter = RateLimiter(rate=1, burst=1)
    assert limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)
    assert not limiter.allow("a", 0.0)


def test_a_full_bucket_is_forgotten_by_the_sweep() -> None:
    limiter = RateLimiter(rate=1, burst=4)
    limiter.allow("a", 0.0)
    limiter.allow("b", 3.0)
    limiter.sweep(4.0)
    assert len(limiter) == 1
    limiter.sweep(7.0)
    assert len(limiter) == 0


def test_memory_is_bounded_however_many_sources_come() -> None:
    limiter = RateLimiter(rate=1, burst=1, sources=100)
    for number in range(10_000):
        limiter.allow(number, 0.0)
    assert len(limiter) == 100
