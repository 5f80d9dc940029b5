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
    Header,
    Transport,
    TunnelAccepted,
    TunnelParameters,
    TunnelRequest,
    TunnelRequested,
    digest_ha1,
    format_header,
    parse_header,
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


class RawClient:
    """Bytes against a broker session, one request a call, as a foreign client would send them."""

    def __init__(self, session: BrokerSession, *, now: float = 0.0, first_sequence: int = 240) -> None:
        self.session = session
        self.now = now
        self.sequence = first_sequence - 1
        self.events: list[BrokerEvent] = []

    def ask(self, body: bytes, *, sequence: int | None = None, timestamp: int | None = None) -> list[bytes]:
        """Send one message; gives the bodies sent back at once.  Over UDP it gets a number, the next by default."""
        if self.session.transport is Transport.UDP:
            self.sequence = self.sequence + 1 if sequence is None else sequence
            stamp = int(self.now * 1000) if timestamp is None else timestamp
            body = format_header(Header(self.sequence, stamp)) + body
        self.session.receive(body, self.now)
        return self.answers()

    def answers(self) -> list[bytes]:
        """What the session has to send now, without headers; its events go to `events`."""
        self.take_events()
        skip = 8 if self.session.transport is Transport.UDP else 0
        bodies = [data[skip:] for data in self.session.to_send(self.now)]
        self.take_events()
        return bodies

    def take_events(self) -> None:
        while (event := self.session.next_event()) is not None:
            self.events.append(event)

    def pass_time(self, seconds: float) -> list[bytes]:
        """Let time pass and the session's timers run as they fall due; gives what was sent meanwhile."""
        end = self.now + seconds
        sent: list[bytes] = []
        while (at := self.session.timer()) is not None and at <= end:
            self.now = max(self.now, at)
            self.session.handle_timer(self.now)
            sent += self.answers()
        self.now = end
        return sent


class RawBroker:
    """Bytes against a client session: answers with the header of the request, as a foreign broker would."""

    def __init__(self, config: ClientConfig, transport: Transport = Transport.UDP, *, seed: int = 1) -> None:
        self.session = ClientSession(config, transport, rng=random.Random(seed))
        self.now = 0.0
        self.requests: list[bytes] = []
        self.header = Header(0, 0)
        self.events: list[ClientEvent] = []
        self.session.start(self.now)
        self.take()

    def answer(self, body: bytes) -> list[bytes]:
        """Answer the last request; gives what the client sends next, without headers."""
        if self.session.transport is Transport.UDP:
            body = format_header(self.header) + body
        self.session.receive(body, self.now)
        return self.take()

    def take(self) -> list[bytes]:
        """What the client has to send now; its events go to `events`."""
        while (event := self.session.next_event()) is not None:
            self.events.append(event)
        bodies: list[bytes] = []
        for data in self.session.to_send(self.now):
            if self.session.transport is Transport.UDP:
                self.header, data = parse_header(data)
            bodies.append(data)
        self.requests += bodies
        return bodies

    def pass_time(self, seconds: float) -> list[tuple[float, bytes]]:
        """Let time pass; gives (when, what) of everything sent meanwhile."""
        end = self.now + seconds
        sent: list[tuple[float, bytes]] = []
        while (at := self.session.timer()) is not None and at <= end:
            self.now = max(self.now, at)
            self.session.handle_timer(self.now)
            sent += [(self.now, body) for body in self.take()]
        self.now = end
        return sent


def broker_session(
    transport: Transport = Transport.UDP,
    config: BrokerConfig | None = None,
    peer: IPv4Address = CLIENT,
) -> BrokerSession:
    """A broker session with the one user of these tests."""
    return BrokerSession(config or BrokerConfig(), transport, peer, rng=random.Random(7), credentials=credentials)
