"""The client's side of a TSP session (RFC 5572 section 4.4), without I/O."""

from __future__ import annotations

import random

from lab.tsp.config import ClientConfig
from lab.tsp.events import ClientEvent
from lab.tsp.parameters import Counters, Phase, Transport
from lab.tsp.states import ClientState


class ClientSession:
    """One attempt to get one tunnel from one broker.  Make a new one, on a new socket, for the next attempt."""

    state: ClientState
    phase: Phase | None
    """The phase under way; None before `start` and after the end."""
    counters: Counters

    def __init__(self, config: ClientConfig, transport: Transport, *, rng: random.Random) -> None: ...

    def start(self, now: float) -> None: ...

    def receive(self, data: bytes, now: float) -> None: ...

    def eof(self, now: float) -> None: ...

    def to_send(self, now: float) -> list[bytes]: ...

    def timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def delete(self, now: float) -> None: ...

    def next_event(self) -> ClientEvent | None: ...
