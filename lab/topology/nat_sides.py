"""What lies inside a NAT and what it is called by outside: the names and addresses its rules need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network

from lab.errors import TopologyError
from lab.rules.nat_behaviour import BehaviourError
from lab.rules.nat_udp import NatPlace, shares
from lab.topology.domains import Domain, Prefix
from lab.topology.nodes import Firewall, Nat, Router
from lab.topology.wiring import Port, Segment, Wiring


def inside_hosts(ports: list[Port], domains: Mapping[Segment, Domain]) -> list[Port]:
    """The ports of whoever is behind a NAT with these ports and speaks for itself, in the order they were linked.

    Another NAT in there is one of them, with its outside; what is behind that one is not.
    """
    inner = domains[_inside(ports)[0].segment]
    return [
        port
        for segment in inner.segments
        for port in segment.ports
        if 4 in port.node.speaks and port.node is not ports[0].node and not isinstance(port.node, Router | Firewall)
    ]


def more_addresses(wiring: Wiring, domains: Mapping[Segment, Domain]) -> dict[Port, int]:
    """How many addresses the outside port of each NAT needs besides its own; TopologyError for a host not inside."""
    found = {}
    for ports in wiring.ports.values():
        nat = ports[0].node
        if isinstance(nat, Nat):
            alone = _alone(nat, inside_hosts(ports, domains))
            found[_outside(ports)] = nat.behaviour.pool - 1 + len(alone)
    return found


def nat_place(
    nat: Nat, ports: list[Port], domains: Mapping[Segment, Domain], prefixes: Mapping[Segment, Prefix]
) -> NatPlace:
    """Where the NAT stands, once everybody has addresses.

    TopologyError when a host it is to favour is not inside, or when its inside is too many for its ports.
    """
    outside, inside = _outside(ports), _inside(ports)
    assert outside.ipv4 is not None
    hosts = inside_hosts(ports, domains)
    behaviour = nat.behaviour
    pool = [outside.ipv4.ip, *(more.ip for more in outside.more_ipv4)]
    alone = _alone(nat, hosts)
    place = NatPlace(
        outside=outside.iface,
        inside=tuple(port.iface for port in inside),
        addresses=tuple(pool[: behaviour.pool]),
        hosts=tuple(address for port in hosts for address in _addresses(port)),
        networks=tuple(_networks(inside, domains, prefixes)),
        own=tuple(zip((_addresses(port)[0] for port in alone), pool[behaviour.pool :], strict=True)),
        proto41_host=None
        if behaviour.proto41_host is None
        else _addresses(_named(nat, hosts, "proto41_host", behaviour.proto41_host))[0],
    )
    try:
        shares(behaviour, place)
    except BehaviourError as exc:
        raise TopologyError(f"{nat.name}: {exc}", node=nat.name) from None
    return place


def _outside(ports: list[Port]) -> Port:
    return next(port for port in ports if port.outside)


def _inside(ports: list[Port]) -> list[Port]:
    return [port for port in ports if not port.outside]


def _alone(nat: Nat, hosts: list[Port]) -> list[Port]:
    """The hosts with an outside address of their own."""
    wanted = nat.behaviour.one_to_one
    if isinstance(wanted, bool):
        return hosts if wanted else []
    return [_named(nat, hosts, "one_to_one", name) for name in wanted]


def _named(nat: Nat, hosts: list[Port], option: str, name: str) -> Port:
    for port in hosts:
        if port.node.name == name:
            return port
    known = ", ".join(dict.fromkeys(port.node.name for port in hosts)) or "nobody"
    raise TopologyError(f"{nat.name}: {option}={name!r} is not inside {nat.name}; there is {known}", node=nat.name)


def _addresses(port: Port) -> list[IPv4Address]:
    assert port.ipv4 is not None
    return [port.ipv4.ip, *(more.ip for more in port.more_ipv4)]


def _networks(
    inside: list[Port], domains: Mapping[Segment, Domain], prefixes: Mapping[Segment, Prefix]
) -> Iterator[IPv4Network]:
    for segment in domains[inside[0].segment].segments:
        prefix = prefixes[segment]
        assert isinstance(prefix, IPv4Network)
        yield prefix
