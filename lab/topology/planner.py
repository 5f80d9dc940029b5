"""From a `Network` to a `Plan`: every name, address, route, rule and impairment decided, nothing built.

    wiring.py      interfaces, segments, which side of a NAT is outside
    domains.py     what routers join, gateways, routes
    addressing.py  prefixes and addresses
    planner.py     the order of the steps, and the checks that need everything

What does not make sense is a `TopologyError` that names the node and the way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lab.errors import TopologyError
from lab.rules.firewall import PROHIBITED_MARK, firewall_ruleset
from lab.rules.nat import nat_ruleset, nat_sysctls
from lab.rules.nat_udp import NatPlace, Share, shares
from lab.topology.addressing import address_ipv4, address_ipv6
from lab.topology.domains import Domain, Route, find_domains, gateway_at, routes
from lab.topology.nat_sides import nat_place
from lab.topology.network import Network
from lab.topology.nodes import Broker, Client, Firewall, Host, Nat, Node, Switch
from lab.topology.plan import (
    AddAddress,
    AddBridge,
    AddLink,
    AddNeighbor,
    AddNode,
    AddRoute,
    InterfacePlan,
    LoadRules,
    NodePlan,
    Plan,
    Prohibit,
    SetSysctl,
    SetUp,
    Shape,
    Step,
)
from lab.topology.wiring import FIRST_INDEX, Port, Segment, Wiring, mac_address, wire


def make_plan(net: Network) -> Plan:
    """The plan of a network; TopologyError when the description makes no sense.

    The steps are: all nodes with their sysctls, all links, then node by node its bridge, addresses, interfaces
    up, routes and rules, and last the impairments.
    """
    wiring = wire(net)
    ipv4 = find_domains(wiring, net.nodes, 4)
    ipv6 = find_domains(wiring, net.nodes, 6)
    _check_one_internet(ipv4)
    brokers = [node for node in net.nodes if isinstance(node, Broker)]
    prefixes4 = address_ipv4(wiring, ipv4, net.ranges)
    prefixes6 = address_ipv6(wiring, ipv6, net.ranges, brokers)
    _check_mtu(wiring)
    found = {
        node.name: [
            *routes(node, wiring.ports[node.name], ipv4, prefixes4, 4),
            *routes(node, wiring.ports[node.name], ipv6, prefixes6, 6),
        ]
        for node in net.nodes
    }
    places = {
        node.name: nat_place(node, wiring.ports[node.name], ipv4, prefixes4)
        for node in net.nodes
        if isinstance(node, Nat)
    }
    number = {node.name: count for count, node in enumerate(net.nodes, start=1)}
    steps: list[Step] = []
    for node in net.nodes:
        steps.append(AddNode(node.name))
        steps.extend(_sysctls(node, wiring.ports[node.name]))
    steps.extend(_links(net, wiring))
    for node in net.nodes:
        steps.extend(_node_steps(node, number[node.name], wiring.ports[node.name], found[node.name]))
        if isinstance(node, Nat):
            steps.append(LoadRules(node.name, nat_ruleset(node.behaviour, places[node.name])))
            steps.extend(SetSysctl(node.name, key, value) for key, value in nat_sysctls(node.behaviour).items())
    steps.extend(_shapes(net, wiring))
    return Plan(
        name=net.name or "network",
        nodes=tuple(_node_plan(node, wiring.ports[node.name], places.get(node.name), ipv4) for node in net.nodes),
        steps=tuple(steps),
    )


def _check_one_internet(domains: dict[Segment, Domain]) -> None:
    first, *others = dict.fromkeys(domain for domain in domains.values() if domain.gateway is None) or [None]
    if first is not None and others and others[0] is not None:
        one, other = first.segments[0], others[0].segments[0]
        raise TopologyError(
            f"no IPv4 path joins {one.name} and {other.name}: what lies between them does not forward IPv4; "
            "put a router there",
            node=other.ports[0].node.name,
        )


def _check_mtu(wiring: Wiring) -> None:
    for segment in wiring.segments:
        for link in segment.links:
            if link.mtu < 1280 and (6 in segment.families or segment.slaac):
                raise TopologyError(
                    f"link {link.name}: mtu={link.mtu} is too small for the IPv6 on it; use 1280 or more (RFC 8200)",
                    node=link.a,
                )


def _lans(node: Node, ports: list[Port]) -> list[Port]:
    """The client's ports on which it advertises its delegated prefix."""
    return [port for port in ports if port.segment.slaac] if isinstance(node, Client) else []


def _sysctls(node: Node, ports: list[Port]) -> Iterator[SetSysctl]:
    """What must be set before links exist: an interface takes its defaults when it is made.

    Few, because each costs a system call.  Duplicate address detection is off wherever IPv6 is planned, or the
    first packet waits a second for it; nodes and interfaces without planned IPv6 have none, which keeps neighbour
    and multicast chatter out of captures.
    """

    def set_to(value: int, *keys: str) -> Iterator[SetSysctl]:
        for key in keys:
            yield SetSysctl(node.name, key, str(value))

    slaac_host = isinstance(node, Host) and node.slaac
    tunnels = isinstance(node, Client | Broker)
    if 4 in node.forwards:
        yield from set_to(1, "net/ipv4/ip_forward")
        yield from set_to(0, "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter")
    if not tunnels and not slaac_host and all(port.ipv6 is None for port in ports):
        yield from set_to(1, "net/ipv6/conf/all/disable_ipv6")
        return
    if 6 in node.forwards or _lans(node, ports):
        yield from set_to(1, "net/ipv6/conf/all/forwarding")
    elif not tunnels:
        yield from set_to(int(slaac_host), "net/ipv6/conf/default/accept_ra")
    if slaac_host or _lans(node, ports) or any(port.ipv6 is not None for port in ports):
        yield from set_to(0, "net/ipv6/conf/default/accept_dad")


def _links(net: Network, wiring: Wiring) -> Iterator[AddLink]:
    ends = {(name, port.link.name): port for name, ports in wiring.ports.items() for port in ports}
    for link in net.links:
        a, b = ends[link.a, link.name], ends[link.b, link.name]
        yield AddLink(link.a, a.iface, a.index, a.mac, link.b, b.iface, b.index, b.mac, mtu=link.mtu)


def _node_steps(node: Node, number: int, ports: list[Port], found: list[Route]) -> Iterator[Step]:
    name = node.name
    if isinstance(node, Switch):
        index = FIRST_INDEX + len(ports)
        yield AddBridge(name, "br0", index, mac_address(number, index), tuple(port.iface for port in ports))
        for port in ports:
            yield SetUp(name, port.iface, port.index)
        yield SetUp(name, "br0", index)
        return
    mixed = isinstance(node, Client | Broker) or any(port.ipv6 is not None for port in ports)
    for port in ports:
        if mixed and port.ipv6 is None and not port.segment.slaac:
            yield SetSysctl(name, f"net/ipv6/conf/{port.iface}/disable_ipv6", "1")
        for address in (port.ipv4, *port.more_ipv4, port.ipv6):
            if address is not None:
                yield AddAddress(name, port.iface, port.index, str(address))
    for port in ports:
        yield SetUp(name, port.iface, port.index)
    for route in found:
        via = route.gateway.address(4 if route.dst.version == 4 else 6)
        assert via is not None
        yield AddRoute(name, str(route.dst), str(via.ip), route.port.iface, route.port.index)
    yield from _neighbors(name, ports)
    if isinstance(node, Firewall):
        yield Prohibit(name, PROHIBITED_MARK)
        yield LoadRules(name, firewall_ruleset(node.policy))


def _neighbors(name: str, ports: list[Port]) -> Iterator[AddNeighbor]:
    """The other ends of impaired links between two nodes that speak IP.

    A delayed link stands for a long way through networks; that it looks like one Ethernet here must not cost a round
    trip of address resolution, nor lose one in a hundred of them.
    """
    for port in ports:
        if not port.link.impaired or len(port.segment.ports) != 2:
            continue
        (other,) = (end for end in port.segment.ports if end is not port)
        for mine, address in ((port.ipv4, other.ipv4), (port.ipv6, other.ipv6)):
            if mine is not None and address is not None:
                yield AddNeighbor(name, port.iface, port.index, str(address.ip), other.mac)


def _shapes(net: Network, wiring: Wiring) -> Iterator[Shape]:
    for node in net.nodes:
        for port in wiring.ports[node.name]:
            link = port.link
            if link.impaired:
                yield Shape(
                    node.name,
                    port.iface,
                    port.index,
                    delay_ms=link.delay_ms,
                    jitter_ms=link.jitter_ms,
                    loss_pct=link.loss_pct,
                    rate_mbit=link.rate_mbit,
                    duplicate_pct=link.duplicate_pct,
                    reorder_pct=link.reorder_pct,
                )


def _node_plan(node: Node, ports: list[Port], place: NatPlace | None, domains: dict[Segment, Domain]) -> NodePlan:
    boxes = isinstance(node, Nat | Firewall)
    moves = not all(port.link.plugged for port in ports) and isinstance(node, Client)
    ordered = sorted(ports, key=lambda port: (not port.link.plugged, not port.outside, _only_hosts_beyond(port)))
    return NodePlan(
        name=node.name,
        kind=node.kind,
        interfaces=tuple(
            InterfacePlan(
                port.iface,
                port.peer,
                ipv4=None if port.ipv4 is None else str(port.ipv4),
                ipv6=None if port.ipv6 is None else str(port.ipv6),
                role=("outside" if port.outside else "inside") if boxes else "",
                plugged=port.link.plugged or not isinstance(node, Client),
                gateway=_gateway(port, domains) if moves else None,
            )
            for port in ports
        ),
        ipv4=next((str(port.ipv4.ip) for port in ordered if port.ipv4 is not None), None),
        ipv6=next((str(port.ipv6.ip) for port in ordered if port.ipv6 is not None), None),
        options=_options(node, ports, place),
    )


def _gateway(port: Port, domains: dict[Segment, Domain]) -> str | None:
    gateway = gateway_at(port, domains)
    return None if gateway is None or gateway.ipv4 is None else str(gateway.ipv4.ip)


def _only_hosts_beyond(port: Port) -> bool:
    return all(isinstance(other.node, Host) for other in port.segment.ports if other is not port)


def _options(node: Node, ports: list[Port], place: NatPlace | None) -> dict[str, Any]:
    """The node's own parameters as JSON values."""
    sides = {
        "inside": [port.iface for port in ports if not port.outside],
        "outside": next((port.iface for port in ports if port.outside), None),
    }
    match node:
        case Client():
            return {"lans": [port.iface for port in _lans(node, ports)]}
        case Host():
            return {"ipv6_only": node.ipv6_only, "slaac": node.slaac}
        case Nat():
            assert place is not None
            return {
                **node.behaviour.to_json(),
                "preset": node.preset,
                **sides,
                "hosts": [str(host) for host in place.hosts],
                "shares": [_share(share, alone) for share, alone in _shares(node, place)],
                "proto41_address": None if place.proto41_host is None else str(place.proto41_host),
            }
        case Firewall():
            return {"policy": node.policy, **sides}
        case Broker():
            return {
                "pool": str(node.pool),
                "users": dict(node.users),
                "anonymous": node.anonymous,
                "realm": node.realm,
                **node.options,
            }
    return {}


def _shares(node: Nat, place: NatPlace) -> Iterator[tuple[Share, bool]]:
    """Each outside address of a NAT with who has it, and whether that is one host by itself."""
    for number, share in enumerate(shares(node.behaviour, place)):
        yield share, number >= len(place.addresses)


def _share(share: Share, alone: bool) -> dict[str, Any]:
    return {
        "address": str(share.address),
        "alone": alone,
        "hosts": [str(host) for host in share.hosts],
        "blocks": [{"host": str(host), "first": first, "last": last} for host, first, last in share.blocks],
    }
