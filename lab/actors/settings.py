"""What an operator decides about a broker, with defaults fit for a lab and for a small real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address
from typing import Any, Final

from lab.encap import IPV6_MIN_MTU
from lab.errors import UsageError
from lab.tsp import PORT, BrokerConfig, Mechanism

KEEPALIVE_S: Final = (1, 3600)
"""Shortest and longest keepalive interval a client is granted, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what strangers can make a broker hold or do (RFC 5572 section 8)."""

    setups: int = 4096
    """UDP set-ups under way; one more pushes out the oldest."""
    tunnels: int = 20_000
    tunnels_per_ipv4: int = 256
    """Tunnels and offers for one IPv4 address, which may be a NAT with many clients behind it."""
    connections: int = 1024
    """TCP connections at once, and of them from one IPv4 address:"""
    connections_per_ipv4: int = 128
    connection_bytes: int = 65_536
    """Bytes taken from, or waiting for, one TCP client."""
    datagrams_per_s: float = 500.0
    """Signalling datagrams and TCP connections a second from one IPv4 address, for long; `burst` at once."""
    burst: float = 2000.0
    setup_s: float = 150.0
    """Seconds from the first byte to an accepted tunnel; slower clients are forgotten.

    More than `BrokerConfig.idle_timeout_s`, so that a client on a bad link that still resends is still answered.
    """
    connection_linger_s: float = 60.0
    """Seconds that a TCP connection may stay open once its tunnel is up."""
    idle_intervals: float = 5.0
    """Keepalive intervals without a packet from the client, after which its tunnel is taken down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """One broker."""

    address: IPv4Address
    """Where it listens, and the outer address of its end of every tunnel."""
    session: BrokerConfig = field(default_factory=BrokerConfig)
    port: int = PORT
    device: str = "tsp0"
    mtu: int = IPV6_MIN_MTU
    lifetime_min: int = 1440
    """After that a tunnel is taken down (RFC 5572 section 4.7.1)."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not IPV6_MIN_MTU <= self.mtu <= 65_535:
            raise UsageError(f"a tunnel MTU is {IPV6_MIN_MTU} to 65535 bytes, not {self.mtu}")
        if self.lifetime_min < 1:
            raise UsageError(f"a tunnel lives at least a minute, not {self.lifetime_min}")


def settings_from_options(name: str, address: IPv4Address, options: Mapping[str, Any]) -> BrokerSettings:
    """The settings that a topology's broker options ask for; UsageError for an option that does not exist.

    Apart from the fields of BrokerSettings (mtu, lifetime_min, ...) and Limits (tunnels_per_ipv4, ...), `options`
    may hold `realm` and `anonymous`.
    """
    mechanisms = tuple(m for m in Mechanism if options.get("anonymous", True) or m is not Mechanism.ANONYMOUS)
    own = {f.name for f in fields(BrokerSettings)} - {"address", "session", "limits"}
    bounds = {f.name for f in fields(Limits)}
    unknown = set(options) - own - bounds - {"realm", "anonymous"}
    if unknown:
        known = ", ".join(sorted(own | bounds | {"realm", "anonymous", "pool", "users", "shortest_prefix"}))
        raise UsageError(f"{name}: a broker has no option {', '.join(sorted(unknown))}; it has {known}")
    return BrokerSettings(
        address=address,
        session=BrokerConfig(name=name, realm=options.get("realm", "lab"), mechanisms=mechanisms),
        limits=Limits(**{key: value for key, value in options.items() if key in bounds}),
        **{key: value for key, value in options.items() if key in own},
    )
