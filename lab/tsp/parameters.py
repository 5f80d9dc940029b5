"""The words both ends of a TSP session share: tunnel types, mechanisms, transports, phases, one tunnel.

Nothing here reads or writes bytes.  The values of the enumerations are the words that travel on the wire,
in the case in which they travel: tunnel types in lower case as an XML attribute (RFC 5572 section 4.7.1),
mechanisms in upper case as SASL names (RFC 5572 section 4.4.2).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from lab.errors import TunnelRefused
from lab.tsp.status import Status

PORT: Final = 3653
"""The port of TSP, UDP and TCP alike (RFC 5572 section 7); v6udpv4 data uses the same one."""


class TunnelType(Enum):
    """A tunnel type of the IANA registry "tunnel-setup-protocol"."""

    V6V4 = "v6v4"
    """IPv6 in IPv4, protocol 41 (RFC 5572 section 4.5.1, RFC 4213)."""
    V6UDPV4 = "v6udpv4"
    """IPv6 in UDP over IPv4, on the addresses and ports of the signalling (RFC 5572 section 4.5.2)."""
    V6ANYV4 = "v6anyv4"
    """Only ever a request: the broker picks one of the two above (RFC 5572 section 5.4)."""
    V4V6 = "v4v6"
    """IPv4 in IPv6 (RFC 5572 section 5.3).  Read and refused here: no part of the lab carries it."""


class Mechanism(Enum):
    """A SASL mechanism, by its registered name."""

    ANONYMOUS = "ANONYMOUS"
    """RFC 4505, without trace information."""
    PLAIN = "PLAIN"
    """RFC 4616: the password crosses the network in clear."""
    DIGEST_MD5 = "DIGEST-MD5"
    """RFC 2831 (Historic): challenge and response, and the broker proves that it knows the password too."""


class Transport(Enum):
    """What carries the signalling."""

    UDP = "udp"
    """Eight header bytes before each message, resent by the client (RFC 5572 section 4.4.1.2)."""
    TCP = "tcp"
    """Bare text on a stream (RFC 5572 section 4.4.1.1)."""


class Phase(Enum):
    """A phase of the set-up as the client sees it.  Each ends with the broker's answer, the last with none over TCP."""

    VERSION = "version"
    AUTH = "auth"
    CREATE = "create"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retransmission:
    """When a client sends an unanswered datagram again: the arithmetic of RFC 6298 with Karn's rule.

    RFC 5572 section 4.4.1.2 asks for a back-off and the same sequence number, and gives no figures.
    """

    initial_rto_s: float = 1.0
    """Seconds before the first resend while no round trip has been measured (RFC 6298 section 2.1)."""
    min_rto_s: float = 1.0
    """Lower bound of the measured timeout, in seconds (RFC 6298 section 2.4)."""
    max_rto_s: float = 30.0
    """Upper bound of the timeout, also of the doubled one, in seconds."""
    first_transmissions: int = 3
    """Sendings of one message, the first included, while the peer has never answered anything."""
    transmissions: int = 8
    """Sendings of one message, the first included, once the peer has answered."""

    def __post_init__(self) -> None:
        if not 0 < self.min_rto_s <= self.max_rto_s or not 0 < self.initial_rto_s <= self.max_rto_s:
            raise ValueError("the timeouts must be positive and at most max_rto_s")
        if self.first_transmissions < 1 or self.transmissions < 1:
            raise ValueError("a message is sent at least once")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelParameters:
    """One tunnel as the broker offers it and both ends configure it (RFC 5572 section 4.7)."""

    type: TunnelType
    """V6V4 or V6UDPV4; an offer never says V6ANYV4."""
    client_ipv4: IPv4Address
    """The client's outer address as the offer states it: behind a NAT, the one the broker sees."""
    client_ipv6: IPv6Address
    server_ipv4: IPv4Address
    server_ipv6: IPv6Address
    lifetime_min: int = 1440
    """Minutes by RFC 5572 section 4.7.1, though several brokers send seconds; 1440 is safe in both readings."""
    prefix: IPv6Network | None = None
    """The delegated prefix, when the client asked for one (RFC 5572 section 5.2)."""
    keepalive_interval_s: int | None = None
    """Longest time between two echo requests, in seconds; None: no keepalive (RFC 5572 section 4.6)."""
    keepalive_address: IPv6Address | None = None
    """Where the echo requests go; None with an interval: the broker's IPv6 address."""
    dns_servers: tuple[str, ...] = ()
    """Name servers of the delegated reverse zone, as text (RFC 5572 section 4.7.2)."""

    def __post_init__(self) -> None:
        if self.type not in (TunnelType.V6V4, TunnelType.V6UDPV4):
            raise ValueError(f"a tunnel is v6v4 or v6udpv4, not {self.type.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRequest:
    """A create message after the broker's checks, with the tunnel type decided."""

    type: TunnelType
    """V6V4 or V6UDPV4: what the tunnel will be if the request is granted."""
    requested: TunnelType
    """What the client asked for, V6ANYV4 for instance."""
    client_address: IPv4Address
    """The client's own IPv4 address, from the XML.  A private one behind a NAT; never where packets go."""
    behind_nat: bool
    """True when `client_address` is not the source address the broker sees (RFC 5572 section 5.4)."""
    router: bool = False
    """True when the client asks to be a router, that is for a prefix."""
    prefix_length: int | None = None
    """The prefix length asked for; None: none asked, or the broker may choose (see `router`)."""
    keepalive_interval_s: int | None = None
    """The interval the client proposes, in seconds; None: it proposes none."""
    dns_servers: tuple[str, ...] = ()
    user: str | None = None
    """The authenticated user; None: anonymous."""


CARRIED: Final = (TunnelType.V6V4, TunnelType.V6UDPV4)
"""The types a tunnel can really have here."""


@dataclass(slots=True)
class Counters:
    """What one end of a session sent and received.  Over TCP a "datagram" is one piece handed over."""

    datagrams_sent: int = 0
    datagrams_received: int = 0
    bytes_sent: int = 0
    """Bytes above UDP or TCP, the 8-byte UDP header included."""
    bytes_received: int = 0
    retransmissions: int = 0
    """Client: requests sent again.  Broker: answers sent again."""
    ignored: int = 0
    """Datagrams that changed nothing: repeated, late or not TSP."""
    round_trips: int = 0
    """Client: requests that were answered.  Broker: requests answered, repeats not counted."""

    def sent(self, pieces: list[bytes]) -> None:
        self.datagrams_sent += len(pieces)
        self.bytes_sent += sum(len(piece) for piece in pieces)

    def received(self, data: bytes) -> None:
        self.datagrams_received += 1
        self.bytes_received += len(data)


def decide_tunnel_type(
    requested: TunnelType,
    transport: Transport,
    outer: IPv4Address,
    inner: IPv4Address,
    *,
    offered: Collection[TunnelType] = CARRIED,
) -> TunnelType:
    """The type a broker gives: V6V4 or V6UDPV4 (RFC 5572 sections 2.1, 4.4.1 and 5.4).

    `outer` is the source address the broker sees, `inner` the one the client wrote in its request; when they
    differ there is a NAT between them.  Over TCP that says nothing about UDP, and no v6udpv4 tunnel can use
    the ports of a TCP connection, so such a request is refused with a text that says what to do.
    An explicit v6v4 is granted behind a NAT too: some forward protocol 41, and finding out is the client's wish.

    Raises `TunnelRefused` with status 303.
    """
    behind_nat = outer != inner

    def refused(why: str) -> TunnelRefused:
        return TunnelRefused(Status.TUNNEL_TYPE_NOT_PROVIDED, why)

    if requested is TunnelType.V4V6:
        raise refused("v4v6 is not provided by this broker")
    if requested is TunnelType.V6UDPV4 and transport is Transport.TCP:
        raise refused("v6udpv4 needs UDP signalling, ask over UDP")
    if requested is TunnelType.V6ANYV4:
        if behind_nat and transport is Transport.TCP:
            raise refused("there is a NAT on the path, ask over UDP for v6udpv4")
        if transport is Transport.TCP:
            decided = TunnelType.V6V4
        else:
            decided = TunnelType.V6UDPV4 if behind_nat or TunnelType.V6V4 not in offered else TunnelType.V6V4
    else:
        decided = requested
    if decided not in offered:
        raise refused(f"{decided.value} is not provided by this broker")
    return decided
