"""What an operator decides about a broker, with defaults fit for a lab and for a small real one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final

from lab.actors.store import check_user
from lab.encap import IPV6_MIN_MTU
from lab.errors import UsageError
from lab.tsp import PORT, BrokerConfig, Mechanism

if TYPE_CHECKING:
    from lab.topology.plan import Plan

KEEPALIVE_S: Final = (1, 3600)
"""Shortest and longest keepalive interval a client is granted, in seconds."""
SHORTEST_PREFIX: Final = 48
"""What one client of a topology's broker can be given at most."""

_DEVICE: Final = re.compile(r"[^\s/:%]{1,15}")


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

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value < 0 or (value == 0 and limit.name in ("setups", "datagrams_per_s", "burst")):
                raise UsageError(f"{limit.name}={value} leaves a broker nothing to work with")


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
        if not 1 <= self.port <= 65_535:
            raise UsageError(f"a port is 1 to 65535, not {self.port}")
        check_device(self.device)


def check_device(name: str) -> None:
    """UsageError unless the kernel takes `name` as that of an interface."""
    if not _DEVICE.fullmatch(name) or name in (".", ".."):
        raise UsageError(f"{name!r} cannot be the name of a device: use 1 to 15 characters, no blanks and no /")


def check_brokers(plan: Plan) -> None:
    """UsageError for an option of a broker in `plan` that does not exist, or whose value makes no sense."""
    for node in plan.nodes:
        if node.kind == "broker":
            assert node.ipv4 is not None
            settings_from_options(node.name, IPv4Address(node.ipv4), node.options)
            for user in node.options.get("users", {}):
                check_user(user)


def settings_from_options(name: str, address: IPv4Address, options: Mapping[str, Any]) -> BrokerSettings:
    """The settings that a topology's broker options ask for.

    Apart from the fields of BrokerSettings (mtu, lifetime_min, ...) and Limits (tunnels_per_ipv4, ...), `options`
    may hold `realm` and `anonymous`, and what is the store's business: `pool`, `users` and `shortest_prefix`.
    UsageError, naming the broker, for an option that does not exist or a value that makes no sense.
    """
    own = {f.name: f.default for f in fields(BrokerSettings) if f.name not in ("address", "session", "limits")}
    bounds = {f.name: f.default for f in fields(Limits)}
    plain = {**own, **bounds, "realm": "lab", "anonymous": True, "shortest_prefix": SHORTEST_PREFIX}
    known = {*plain, "pool", "users"}
    if unknown := options.keys() - known:
        raise UsageError(
            f"{name}: a broker has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}"
        )
    for key in options.keys() & plain.keys():
        if not _fits(options[key], type(plain[key])):
            raise UsageError(f"{name}: {key}={options[key]!r} does not fit; it is a {type(plain[key]).__name__}")
    if not 1 <= options.get("shortest_prefix", SHORTEST_PREFIX) <= 64:
        raise UsageError(f"{name}: shortest_prefix is 1 to 64, not {options['shortest_prefix']}")
    mechanisms = tuple(m for m in Mechanism if options.get("anonymous", True) or m is not Mechanism.ANONYMOUS)
    try:
        return BrokerSettings(
            address=address,
            session=BrokerConfig(name=name, realm=options.get("realm", "lab"), mechanisms=mechanisms),
            limits=Limits(**{key: value for key, value in options.items() if key in bounds}),
            **{key: value for key, value in options.items() if key in own},
        )
    except (UsageError, ValueError) as exc:
        raise UsageError(f"{name}: {exc}") from exc


def _fits(value: object, kind: type) -> bool:
    """Whether `value` can be had where a `kind` is wanted: a whole number where any number is, but no truth value."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind
