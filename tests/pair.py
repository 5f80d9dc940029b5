"""A TSP client and a broker joined by a link that can drop, repeat, delay and so reorder.

Everything happens on one hand-moved clock, in the order of time, from one seed.  `Pair.run` goes on until no
event is left or a condition holds; a test that waits for something that never comes ends when nothing moves.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from lab.tsp import (
    BrokerConfig,
    BrokerEvent,
    BrokerSession,
    ClientConfig,
    ClientEvent,
    ClientSession,
    Closed,
    Transport,
    TunnelAccepted,
    TunnelParameters,
    TunnelRequest,
    TunnelRequested,
    digest_ha1,
)
from tests.clock import Clock

CLIENT = IPv4Address("192.0.2.10")
PRIVATE = IPv4Address("192.168.0.2")
SERVER = IPv4Address("198.51.100.1")
USERS = {"ann": "secret"}


def credentials(user: str) -> bytes | None:
    return digest_ha1(user, "lab", USERS[user]) if user in USERS else None


def tunnel_for(request: TunnelRequest, peer: IPv4Address) -> TunnelParameters:
    """A broker's answer to a request: fixed addresses, and a prefix when one is asked for."""
    return TunnelParameters(
        type=request.type,
        client_ipv4=peer,
        client_ipv6=IPv6Address("2001:db8:f000::2"),
        server_ipv4=SERVER,
        server_ipv6=IPv6Address("2001:db8:f000::1"),
        prefix=IPv6Network(("2001:db8:f100::", request.prefix_length)) if request.prefix_length else None,
        keepalive_interval_s=request.keepalive_interval_s,
    )


@dataclass
class Link:
    """What happens to each datagram, in each direction; all zero: it arrives at once."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    drop: float = 0.0
    repeat: float = 0.0

    def arrivals(self, rng: random.Random) -> list[float]:
        """After how many seconds each copy arrives; none: lost."""
        copies = 0 if rng.random() < self.drop else 2 if rng.random() < self.repeat else 1
        return [self.delay_s + rng.random() * self.jitter_s for _ in range(copies)]


@dataclass
class Pair:
    """One client, one broker, one link.  Over TCP nothing is lost or reordered, whatever the link says."""

    config: ClientConfig = field(default_factory=lambda: ClientConfig(client_address=CLIENT))
    transport: Transport = Transport.UDP
    link: Link = field(default_factory=Link)
    peer: IPv4Address = CLIENT
    broker_config: BrokerConfig = field(default_factory=BrokerConfig)
    seed: int = 0
    decide: Callable[[BrokerSession, TunnelRequest, float], None] | None = None
    """What the broker does with a request; None: it offers `tunnel_for`."""

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.rng = random.Random(self.seed)
        self.client = ClientSession(self.config, self.transport, rng=random.Random(self.seed + 1))
        self.broker = BrokerSession(
            self.broker_config,
            self.transport,
            self.peer,
            rng=random.Random(self.seed + 2),
            credentials=credentials,
        )
        self.client_events: list[ClientEvent] = []
        self.broker_events: list[BrokerEvent] = []
        self.log: list[tuple[str, bytes]] = []
        """Every piece sent: ("C" or "B", bytes)."""
        self._order = itertools.count()
        self._flying: list[tuple[float, int, str, bytes]] = []

    def run(self, until: Callable[[], bool] = lambda: False, *, horizon_s: float = 600.0) -> None:
        """Start the client if need be and move time until `until` holds, nothing is left to happen, or `horizon_s`."""
        if self.client.phase is None and not self.client_events:
            self.client.start(self.clock.now)
        self.settle()
        while not until():
            times = [self.client.timer(), self.broker.timer(), self._flying[0][0] if self._flying else None]
            when = min((at for at in times if at is not None), default=None)
            if when is None or when > horizon_s:
                return
            now = self.clock.advance_to(when)
            while self._flying and self._flying[0][0] <= now:
                _, _, to, data = heapq.heappop(self._flying)
                (self.broker if to == "B" else self.client).receive(data, now)
                self.settle()
            self.client.handle_timer(now)
            self.broker.handle_timer(now)
            self.settle()

    def settle(self) -> None:
        """Let both ends say what they have to say now."""
        now = self.clock.now
        while (broker_event := self.broker.next_event()) is not None:
            self.broker_events.append(broker_event)
            if isinstance(broker_event, TunnelRequested):
                if self.decide is None:
                    self.broker.offer(tunnel_for(broker_event.request, self.peer), now)
                else:
                    self.decide(self.broker, broker_event.request, now)
            elif isinstance(broker_event, TunnelAccepted):
                self.broker.confirm(now)
        while (client_event := self.client.next_event()) is not None:
            self.client_events.append(client_event)
        for who, to, session in (("C", "B", self.client), ("B", "C", self.broker)):
            for data in session.to_send(now):
                self.log.append((who, data))
                arrivals = [self.link.delay_s] if self.transport is Transport.TCP else self.link.arrivals(self.rng)
                for after in arrivals:
                    heapq.heappush(self._flying, (now + after, next(self._order), to, data))
        if any(isinstance(event, Closed) for event in self.broker_events[-1:]) and self.transport is Transport.TCP:
            self.client.eof(now)

    def bodies(self) -> list[tuple[str, bytes]]:
        """The log without UDP headers."""
        skip = 8 if self.transport is Transport.UDP else 0
        return [(who, data[skip:]) for who, data in self.log]
