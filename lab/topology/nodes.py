"""What a topology is made of: nodes and links, as data.

Nothing here has an address; `lab.topology.planner` decides those.  A node says which address families it
speaks and whether it forwards packets of a family from one link to another, and that is all the planner
asks of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar, Literal

from lab.rules.nat_behaviour import NatBehaviour

Family = Literal[4, 6]

_V4: frozenset[Family] = frozenset({4})
_V6: frozenset[Family] = frozenset({6})
_BOTH: frozenset[Family] = frozenset({4, 6})
_NONE: frozenset[Family] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine or box, known by its name."""

    kind: ClassVar[str] = "node"
    name: str

    @property
    def speaks(self) -> frozenset[Family]:
        """Address families the plan gives it addresses of."""
        return _V4

    @property
    def forwards(self) -> frozenset[Family]:
        """Address families it carries from one of its links to another."""
        return _NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Node):
    """A machine whose native network is IPv4 only; it asks a broker for a tunnel."""

    kind: ClassVar[str] = "client"
    gateway: str | None = None
    """The neighbour its default route goes to, where there is more than one to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Node):
    """A machine that only sends and receives; dual stack unless told otherwise."""

    kind: ClassVar[str] = "host"
    ipv6_only: bool = False
    slaac: bool = False
    """No planned address: it takes one from the Router Advertisements on its link (RFC 4862)."""
    gateway: str | None = None

    @property
    def speaks(self) -> frozenset[Family]:
        if self.slaac:
            return _NONE
        return _V6 if self.ipv6_only else _BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat(Node):
    """A box that rewrites IPv4 addresses and ports between its inside and its outside (RFC 4787)."""

    kind: ClassVar[str] = "nat"
    behaviour: NatBehaviour = field(default_factory=NatBehaviour)
    preset: str | None = None
    """The kind of box its behaviour was taken from (`lab.rules.nat_presets`), for people."""
    outside: str | None = None
    """The neighbour on its outside; None: the one on the way to the broker."""
    gateway: str | None = None
    """The neighbour its default route goes to, where its outside link offers more than one."""

    @property
    def forwards(self) -> frozenset[Family]:
        return _V4


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall(Node):
    """A router that lets through what its policy lets through (see `lab.rules.firewall`)."""

    kind: ClassVar[str] = "firewall"
    policy: str = "allow"
    """One of the policies, or several joined by "+"."""
    ipv6: bool = False
    """Whether it carries IPv6 too."""
    outside: str | None = None

    @property
    def speaks(self) -> frozenset[Family]:
        return _BOTH if self.ipv6 else _V4

    @property
    def forwards(self) -> frozenset[Family]:
        return self.speaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Router(Node):
    """A router of IPv4 and, if asked for, of IPv6."""

    kind: ClassVar[str] = "router"
    ipv6: bool = False

    @property
    def speaks(self) -> frozenset[Family]:
        return _BOTH if self.ipv6 else _V4

    @property
    def forwards(self) -> frozenset[Family]:
        return self.speaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch(Node):
    """An Ethernet switch: all its links are one segment."""

    kind: ClassVar[str] = "switch"

    @property
    def speaks(self) -> frozenset[Family]:
        return _NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker(Node):
    """A tunnel broker and server (RFC 5572): dual stack, hands out prefixes of its pool."""

    kind: ClassVar[str] = "broker"
    pool: IPv6Network
    users: MappingABC[str, str] = field(default_factory=dict, hash=False)
    """Passwords by user name."""
    anonymous: bool = True
    """Whether it serves clients that do not log in (SASL ANONYMOUS)."""
    realm: str = "lab"
    """SASL realm of its users."""
    options: MappingABC[str, object] = field(default_factory=dict, hash=False)
    """Further options for the broker program, JSON values, handed on as they are."""

    @property
    def speaks(self) -> frozenset[Family]:
        return _BOTH

    @property
    def forwards(self) -> frozenset[Family]:
        return _BOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A wire between two nodes.  What impairs it holds for each direction: 20 ms make 40 ms of round trip."""

    a: str
    b: str
    delay_ms: float = 0.0
    """One way."""
    jitter_ms: float = 0.0
    loss_pct: float = 0.0
    rate_mbit: float = 0.0
    """Megabits a second; 0: not limited."""
    duplicate_pct: float = 0.0
    """Share of packets that arrive twice."""
    reorder_pct: float = 0.0
    """Share of packets that are not delayed and so overtake the others."""
    mtu: int = 1500
    """Bytes of IP packet."""
    ipv4: IPv4Network | None = None
    """Prefix of the segment; None: chosen by the planner."""
    ipv6: IPv6Network | None = None
    plugged: bool = True
    """False: a client's link to where it is not at first (`lab.scenario.LabNode.move_to`)."""

    @property
    def name(self) -> str:
        """The link as messages call it, e.g. "laptop-nat"."""
        return f"{self.a}-{self.b}"

    @property
    def impaired(self) -> bool:
        """True when any impairment was asked for."""
        return any((self.delay_ms, self.jitter_ms, self.loss_pct, self.rate_mbit, self.duplicate_pct, self.reorder_pct))

    def peer(self, node: str) -> str:
        """The other end."""
        return self.b if node == self.a else self.a
