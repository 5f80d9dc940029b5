"""The broker's side of a TSP session (RFC 5572 section 4.4), without I/O."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address

from lab.tsp.config import BrokerConfig
from lab.tsp.events import BrokerEvent
from lab.tsp.parameters import Counters, Mechanism, Phase, Transport, TunnelParameters
from lab.tsp.states import BrokerState


class BrokerSession:
    """One client, known by its address and port over UDP, by its connection over TCP."""

    state: BrokerState
    phase: Phase
    counters: Counters
    user: str | None
    mechanism: Mechanism | None
    peer: IPv4Address

    def __init__(
        self,
        config: BrokerConfig,
        transport: Transport,
        peer: IPv4Address,
        *,
        rng: random.Random,
        credentials: Callable[[str], bytes | None],
    ) -> None: ...

    @property
    def closed(self) -> bool: ...

    def receive(self, data: bytes, now: float) -> None: ...

    def eof(self, now: float) -> None: ...

    def to_send(self, now: float) -> list[bytes]: ...

    def timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def next_event(self) -> BrokerEvent | None: ...

    def offer(self, tunnel: TunnelParameters, now: float) -> None: ...

    def refuse(self, status: int, text: str | None, now: float, *, brokers: tuple[str, ...] = ()) -> None: ...

    def confirm(self, now: float) -> None: ...

    def close(self, now: float, reason: str) -> None: ...
