"""A clock that moves only when a test moves it."""

from __future__ import annotations


class Clock:
    """Seconds from zero; never goes back."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def advance(self, seconds: float) -> float:
        """Move on; gives the new time."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self.now += seconds
        return self.now

    def advance_to(self, when: float) -> float:
        """Move on to `when`, or stay if it has passed."""
        self.now = max(self.now, when)
        return self.now
