"""A token bucket for every source address, in bounded memory.

A source may send `burst` at once and `rate` a second for ever.  A bucket that has filled up again says no more than
one that never was, so it is forgotten; when too many sources are active at once the oldest are forgotten early,
which errs on the side of letting them in.  Pure: callers pass `now` in seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class RateLimiter:
    """Answers "may this source do it now?"."""

    def __init__(self, rate: float, burst: float, *, sources: int = 65_536) -> None:
        self.rate = rate
        self.burst = burst
        self._limit = sources
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # source -> tokens left, at time

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, source: Hashable, now: float) -> bool:
        """Take one token from the bucket of `source`; False if it is empty."""
        tokens, then = self._buckets.get(source, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        self._buckets.move_to_end(source)
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        return allowed

    def sweep(self, now: float) -> None:
        """Forget the buckets that are full again."""
        full_after_s = self.burst / self.rate
        while self._buckets:
            source, (_, then) = next(iter(self._buckets.items()))
            if now - then < full_after_s:
                return
            del self._buckets[source]
