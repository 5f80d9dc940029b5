"""A timeout that does not take a pause of this process for the silence of others.

On the host engine all that a scenario does, the brokers and both ends of each tunnel, is one process.  When that does
not get to run for seconds, every timeout is over at once, before anybody could do the work that was waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_LATE_S: Final = 0.1
"""A timer that goes off so late shows that the process stood still, or had too much to do."""
_GRACE_S: Final = 0.5
"""What the others get then, to catch up."""
_GRACES: Final = 10


@asynccontextmanager
async def patient_timeout_at(deadline: float) -> AsyncIterator[None]:
    """As asyncio.timeout_at, but where the process stood still at the deadline it is some half second later."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def due(at: float, graces: int) -> None:
        nonlocal timer
        now = loop.time()
        if now - at > _LATE_S and graces:
            timer = loop.call_at(now + _GRACE_S, due, now + _GRACE_S, graces - 1)
        else:
            limit.reschedule(now)

    async with asyncio.timeout(None) as limit:
        timer = loop.call_at(deadline, due, deadline, _GRACES)
        try:
            yield
        finally:
            timer.cancel()
