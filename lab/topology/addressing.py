"""Prefixes for segments and addresses for ports.

The sizes keep small topologies legible: up to three public segments get a documentation /24 each, up to 48 a /28
each, and beyond that a link between two nodes gets a /30.  Inside a NAT every segment has its own /24.  Whoever is
nearest to the domain's root has the first address, so a gateway is .1 and hosts follow from .2.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TypeVar

from lab.errors import TopologyError
from lab.topology.domains import Domain, Prefix
from lab.topology.nat_sides import more_addresses
from lab.topology.nodes import Broker
from lab.topology.ranges import Allocator, Exhausted, Ranges
from lab.topology.wiring import Port, Segment, Wiring

_P = TypeVar("_P", IPv4Network, IPv6Network)


def address_ipv4(wiring: Wiring, domains: Mapping[Segment, Domain], ranges: Ranges) -> dict[Segment, Prefix]:
    """Give every port of an IPv4 segment its address; returns the segments' prefixes."""
    segments = [segment for segment in wiring.segments if 4 in segment.families]
    chosen = {segment: prefix for segment in segments if (prefix := _override(segment, 4)) is not None}
    with_nat_inside = {domain.parent for domain in domains.values() if domain.parent is not None}
    reserved = [prefix for prefix in chosen.values() if isinstance(prefix, IPv4Network)]
    public_segments = sum(s not in chosen and domains[s].gateway is None for s in segments)
    public_length = 24 if public_segments <= 3 else 28 if public_segments <= 48 else 30
    pools = {
        "public": (_allocator4(ranges.public_ipv4, reserved), public_length),
        "inside": (_allocator4(ranges.inside_ipv4, reserved), 24),
        "carrier": (_allocator4(ranges.carrier_ipv4, reserved), 24),
    }
    more = more_addresses(wiring, domains)
    prefixes: dict[Segment, Prefix] = {}
    for segment in segments:
        domain = domains[segment]
        needed = len(segment.ports) + sum(more.get(port, 0) for port in segment.ports)
        override = chosen.get(segment)
        if override is None:
            where = "public" if domain.gateway is None else "carrier" if domain in with_nat_inside else "inside"
            allocator, length = pools[where]
            override = _take(allocator, min(length, 32 - (needed + 1).bit_length()), segment, where)
        _check_room(segment, override, needed, 2)
        prefixes[segment] = override
    _check_overlaps(chosen, prefixes, domains)
    for segment, prefix in prefixes.items():
        members = _in_order([port for port in segment.ports if 4 in port.node.speaks], domains[segment])
        for number, port in enumerate(members, start=1):
            port.ipv4 = IPv4Interface((int(prefix.network_address) + number, prefix.prefixlen))
        last = int(prefix.network_address) + len(members)
        for port in members:
            for _ in range(more.get(port, 0)):
                last += 1
                port.more_ipv4.append(IPv4Interface((last, prefix.prefixlen)))
    return prefixes


def address_ipv6(
    wiring: Wiring, domains: Mapping[Segment, Domain], ranges: Ranges, brokers: list[Broker]
) -> dict[Segment, Prefix]:
    """Give every port of an IPv6 segment its address; returns the segments' prefixes, a /64 each."""
    segments = [segment for segment in wiring.segments if 6 in segment.families]
    chosen = {segment: prefix for segment in segments if (prefix := _override(segment, 6)) is not None}
    _check_pools(brokers, chosen)
    reserved = [prefix for prefix in chosen.values() if isinstance(prefix, IPv6Network)]
    sources = [IPv6Network(source) for source in ranges.ipv6]
    allocator = Allocator(sources, [*reserved, *(broker.pool for broker in brokers)], skip=1)
    prefixes: dict[Segment, Prefix] = {}
    for segment in segments:
        override = chosen.get(segment)
        prefix = _take(allocator, 64, segment, "IPv6") if override is None else override
        _check_room(segment, prefix, len(segment.ports), 1)
        prefixes[segment] = prefix
    _check_overlaps(chosen, prefixes, domains)
    for segment, prefix in prefixes.items():
        members = _in_order([port for port in segment.ports if 6 in port.node.speaks], domains[segment])
        for number, port in enumerate(members, start=1):
            port.ipv6 = IPv6Interface((int(prefix.network_address) + number, prefix.prefixlen))
    return prefixes


def _allocator4(sources: tuple[str, ...], reserved: list[IPv4Network]) -> Allocator[IPv4Network]:
    return Allocator([IPv4Network(source) for source in sources], reserved)


def _take(allocator: Allocator[_P], length: int, segment: Segment, where: str) -> _P:
    try:
        return allocator.take(length)
    except Exhausted:
        ranges = ", ".join(str(prefix) for prefix in allocator)
        raise TopologyError(
            f"no {where} addresses are left for {segment.name}: it needs a /{length} and {ranges or 'nothing'} is "
            "used up; give the link a prefix of its own, or the Network wider ranges",
            node=segment.ports[0].node.name,
        ) from None


def _override(segment: Segment, family: int) -> Prefix | None:
    """The prefix its links ask for, or None; TopologyError when two of them disagree."""
    asked: dict[Prefix, str] = {}
    for link in segment.links:
        prefix = link.ipv4 if family == 4 else link.ipv6
        if prefix is not None:
            asked.setdefault(prefix, link.name)
    if len(asked) > 1:
        (one, first), (two, second) = list(asked.items())[:2]
        raise TopologyError(
            f"{segment.name} cannot be both {one} (link {first}) and {two} (link {second}); give one of them",
            node=segment.ports[0].node.name,
        )
    return next(iter(asked), None)


def _check_room(segment: Segment, prefix: Prefix, addresses: int, unusable: int) -> None:
    if prefix.num_addresses < addresses + unusable:
        raise TopologyError(
            f"{prefix} is too small for {segment.name}, which needs {addresses} addresses; use a shorter prefix",
            node=segment.ports[0].node.name,
        )


def _check_overlaps(
    chosen: Mapping[Segment, Prefix], prefixes: Mapping[Segment, Prefix], domains: Mapping[Segment, Domain]
) -> None:
    """Refuse a chosen prefix that overlaps one it can meet: in its own domain, or in one around or inside that."""
    spans = {s: (int(p.network_address), int(p.broadcast_address)) for s, p in prefixes.items()}
    for segment in chosen:
        low, high = spans[segment]
        for other, (start, end) in spans.items():
            if other is segment or start > high or end < low:
                continue
            mine, theirs = domains[segment], domains[other]
            if mine in _outwards(theirs) or theirs in _outwards(mine):
                raise TopologyError(
                    f"{prefixes[segment]} of {segment.name} overlaps {prefixes[other]} of {other.name}; "
                    "choose another prefix for one of them",
                    node=segment.ports[0].node.name,
                )


def _outwards(domain: Domain | None) -> list[Domain]:
    """A domain and those it lies behind, innermost first."""
    found = []
    while domain is not None:
        found.append(domain)
        domain = domain.parent
    return found


def _check_pools(brokers: list[Broker], chosen: Mapping[Segment, Prefix]) -> None:
    for number, broker in enumerate(brokers):
        for other in brokers[:number]:
            if broker.pool.overlaps(other.pool):
                raise TopologyError(
                    f"the pools of {other.name} ({other.pool}) and {broker.name} ({broker.pool}) overlap; "
                    f"give one another: net.broker({broker.name!r}, pool=...)",
                    node=broker.name,
                )
        for segment, prefix in chosen.items():
            if isinstance(prefix, IPv6Network) and prefix.overlaps(broker.pool):
                raise TopologyError(
                    f"{prefix} of {segment.name} overlaps the pool {broker.pool} of {broker.name}; "
                    "choose another prefix",
                    node=broker.name,
                )


def _in_order(ports: list[Port], domain: Domain) -> list[Port]:
    """Gateways first, nearest to the root first; then the rest in the order they were linked."""
    far = len(domain.routers) + 1
    return sorted(ports, key=lambda port: domain.distance[port.node.name] if port.forwards(domain.family) else far)
