"""When to send a keepalive echo and when to call a tunnel dead (RFC 5572 section 4.6).

The broker decides the interval T and the address to ping; each wait is drawn from [0.75 T, T], so that clients do
not march in step.  An echo that no sign of life follows within `REPLY_WAIT_S` (or 0.75 T, if that is less) is
missed; after `MISSED_LIMIT` missed in a row the tunnel is dead.  A reply, or any packet out of the tunnel, starts
the count again.  So a break is noticed after at most 3 T + 5 s, as with the clients in the field.

Pure: no clock, no socket.  Callers pass `now` in seconds and send what they are told to send.
"""

from __future__ import annotations

import random
from typing import Final

MISSED_LIMIT: Final = 3
REPLY_WAIT_S: Final = 5.0


class Keepalive:
    """The keepalive clock of one tunnel."""

    def __init__(self, interval_s: float, now: float, *, rng: random.Random, missed_limit: int = MISSED_LIMIT) -> None:
        if interval_s <= 0:
            raise ValueError(f"a keepalive interval is positive, not {interval_s}")
        self.interval_s = interval_s
        self.sent = 0
        self.missed = 0
        """Echoes in a row without a sign of life."""
        self.dead = False
        self._missed_limit = missed_limit
        self._reply_wait_s = min(REPLY_WAIT_S, 0.75 * interval_s)
        self._rng = rng
        self._next_echo = now + self._draw()
        self._late_at: float | None = None

    @property
    def next_echo(self) -> float | None:
        """When the next echo is to be sent; None once the tunnel is dead."""
        return None if self.dead else self._next_echo

    def timer(self) -> float | None:
        """When `handle_timer` is due; None once the tunnel is dead."""
        if self.dead:
            return None
        return self._next_echo if self._late_at is None else min(self._next_echo, self._late_at)

    def handle_timer(self, now: float) -> bool:
        """True if an echo is to be sent now.  May set `dead`."""
        if self.dead:
            return False
        if self._late_at is not None and now >= self._late_at:
            self._late_at = None
            self.missed += 1
            if self.missed >= self._missed_limit:
                self.dead = True
                return False
        if now < self._next_echo:
            return False
        self.sent += 1
        self._late_at = now + self._reply_wait_s
        self._next_echo = now + self._draw()
        return True

    def heard(self) -> None:
        """A packet came out of the tunnel: it lives."""
        self.missed = 0
        self._late_at = None

    def _draw(self) -> float:
        return self._rng.uniform(0.75 * self.interval_s, self.interval_s)
