"""Who stood still does not call others silent."""

from __future__ import annotations

import asyncio
import time

import pytest

from lab.actors.patience import patient_timeout_at


def stand_still(seconds: float) -> None:
    """What a busy machine does to a process."""
    time.sleep(seconds)


def in_steps(loop: asyncio.AbstractEventLoop, then: asyncio.Event, steps: int) -> None:
    """Set `then` after so many turns of the event loop: what each of several programs does in its turn."""
    if steps:
        loop.call_soon(in_steps, loop, then, steps - 1)
    else:
        then.set()


def test_after_a_pause_of_the_process_the_others_have_their_turn() -> None:
    async def scenario() -> bool:
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        async with patient_timeout_at(loop.time() + 0.02):
            in_steps(loop, answered, 20)
            stand_still(0.3)
            await answered.wait()
        return answered.is_set()

    assert asyncio.run(scenario())


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
def test_of_what_never_comes_it_tires_with_a_pause_and_without(pause_s: float) -> None:
    async def scenario() -> None:
        async with patient_timeout_at(asyncio.get_running_loop().time() + 0.02):
            stand_still(pause_s)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())


def test_what_ends_before_its_deadline_leaves_no_timer() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with patient_timeout_at(loop.time() + 0.05):
            pass
        await asyncio.sleep(0.1)

    asyncio.run(scenario())
