"""Forwarding domains, gateways and routes.

A domain is the set of segments that routers (anything that forwards) join for one address family.  A NAT ends
an IPv4 domain: on its inside it is the gateway to the rest of the world, on its outside it is one more node with a
default route.  Every domain has a root, which its default routes lead to: the NAT for the inside of a NAT, else the
router nearest a broker.

Shortest paths are counted in hops.  A router with a single neighbouring router needs no search (everything
goes there), so a star of 500 hosts or firewalls around one router costs one search, not 500.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from lab.errors import TopologyError
from lab.topology.nodes import Broker, Client, Family, Host, Nat, Node, Router
from lab.topology.wiring import Port, Segment, Wiring

Prefix = IPv4Network | IPv6Network
ANYWHERE: Mapping[Family, Prefix] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


@dataclass(slots=True, eq=False)
class Route:
    """A prefix, the gateway's port and the port it leaves by."""

    dst: Prefix
    gateway: Port
    port: Port


@dataclass(slots=True, eq=False)
class Domain:
    """Segments joined by forwarding nodes, for one family."""

    family: Family
    segments: list[Segment] = field(default_factory=list)
    routers: list[str] = field(default_factory=list)
    """Names of the forwarding nodes, in the order they were added."""
    gateway: Port | None = None
    """The inside port of the NAT it lies behind, or None."""
    parent: Domain | None = None
    """The domain on that NAT's outside."""
    root: str | None = None
    distance: dict[str, int] = field(default_factory=dict)
    """Hops from the root, by router."""
    hops: dict[str, list[tuple[Port, Port]]] = field(default_factory=dict)
    """For each router, its neighbouring routers: (own port, their port)."""
    _gateways: dict[Segment, list[Port]] = field(default_factory=dict)
    _from: dict[str, dict[str, tuple[int, tuple[Port, Port] | None]]] = field(default_factory=dict)

    def gateways(self, segment: Segment) -> list[Port]:
        """Ports on a segment that forward, nearest to the root first."""
        if segment not in self._gateways:
            ports = [port for port in segment.ports if port.forwards(self.family)]
            self._gateways[segment] = sorted(ports, key=lambda port: self.distance[port.node.name])
        return self._gateways[segment]

    def search(self, source: str) -> dict[str, tuple[int, tuple[Port, Port] | None]]:
        """For every router: hops from `source`, and the first hop there (None for `source` itself)."""
        if source not in self._from:
            found: dict[str, tuple[int, tuple[Port, Port] | None]] = {source: (0, None)}
            waiting = deque([source])
            while waiting:
                here = waiting.popleft()
                hops, first = found[here]
                for own, their in self.hops[here]:
                    if their.node.name not in found:
                        found[their.node.name] = (hops + 1, first or (own, their))
                        waiting.append(their.node.name)
            self._from[source] = found
        return self._from[source]


def find_domains(wiring: Wiring, nodes: Iterable[Node], family: Family) -> dict[Segment, Domain]:
    """The domain of each segment that carries `family`, NAT parents and roots filled in."""
    nodes = list(nodes)
    domains: dict[Segment, Domain] = {}
    for segment in wiring.segments:
        if family not in segment.families or segment in domains:
            continue
        domain = Domain(family)
        crossed: set[str] = set()
        waiting = [segment]
        while waiting:
            here = waiting.pop()
            if here in domains:
                continue
            domains[here] = domain
            for port in here.ports:
                if port.forwards(family) and port.node.name not in crossed:
                    crossed.add(port.node.name)
                    waiting.extend(p.segment for p in _forwarding(wiring, port.node, family))
    for segment in wiring.segments:
        if segment in domains:
            domains[segment].segments.append(segment)
    for node in nodes:
        ports = _forwarding(wiring, node, family)
        if ports:
            domain = domains[ports[0].segment]
            domain.routers.append(node.name)
            domain.hops[node.name] = [
                (port, other)
                for port in ports
                for other in port.segment.ports
                if other is not port and other.forwards(family)
            ]
    unique = list(dict.fromkeys(domains.values()))
    for node in nodes:
        if isinstance(node, Nat) and family == 4:
            _nest(wiring.ports[node.name], domains)
    for domain in unique:
        _find_root(domain, nodes)
    return domains


def _forwarding(wiring: Wiring, node: Node, family: Family) -> list[Port]:
    return [port for port in wiring.ports[node.name] if family in port.segment.families and port.forwards(family)]


def _nest(ports: list[Port], domains: dict[Segment, Domain]) -> None:
    """Make what is inside a NAT a child of what is outside."""
    inside = next(port for port in ports if not port.outside)
    inner, outer = domains[inside.segment], domains[next(port for port in ports if port.outside).segment]
    name = inside.node.name
    if inner is outer:
        raise TopologyError(
            f"{name} has one network on both sides: a path leads around it; remove a link, or put a second NAT there",
            node=name,
        )
    if inner.gateway is not None:
        raise TopologyError(
            f"{_client_of(inner)} has two gateways, the NATs {inner.gateway.node.name} and {name}; "
            "put only one of them on its network",
            node=_client_of(inner),
        )
    inner.gateway, inner.parent = inside, outer
    around: Domain | None = outer
    while around is not None:
        if around is inner:
            raise TopologyError(f"{name} lies behind itself; say which neighbour is outside with outside=", node=name)
        around = around.parent


def _client_of(domain: Domain) -> str:
    leaves = (port.node for segment in domain.segments for port in segment.ports)
    return next((node.name for node in leaves if isinstance(node, Client | Host)), domain.segments[0].name)


def _find_root(domain: Domain, nodes: list[Node]) -> None:
    by_name = {node.name: node for node in nodes}
    if domain.gateway is not None:
        domain.root = domain.gateway.node.name
    elif domain.routers:
        brokers = [name for name in domain.routers if isinstance(by_name[name], Broker)]
        near = domain.search(brokers[0]) if brokers else {}
        candidates = [name for name in domain.routers if isinstance(by_name[name], Router)] or brokers or domain.routers
        domain.root = min(candidates, key=lambda name: near.get(name, (0, None))[0])
    if domain.root is not None:
        domain.distance = {name: hops for name, (hops, _) in domain.search(domain.root).items()}


def routes(
    node: Node, ports: list[Port], domains: dict[Segment, Domain], prefixes: Mapping[Segment, Prefix], family: Family
) -> Iterator[Route]:
    """The routes of a node beyond its own segments, default first; TopologyError when it has two gateways."""
    own = [port for port in ports if family in port.segment.families & node.speaks]
    forwarding = [port for port in own if port.forwards(family)]
    if forwarding:
        yield from _router_routes(node, forwarding, domains[forwarding[0].segment], prefixes)
    leaf = [port for port in own if not port.forwards(family) and port.link.plugged]
    if leaf:
        yield from _leaf_routes(node, leaf, domains, prefixes)


def _router_routes(
    node: Node, ports: list[Port], domain: Domain, prefixes: Mapping[Segment, Prefix]
) -> Iterator[Route]:
    name = node.name
    hops = domain.hops[name]
    default: tuple[Port, Port] | None = None
    if name != domain.root:
        assert domain.root is not None
        if len({their.node.name for _, their in hops}) == 1:
            default = hops[0]
        else:
            default = domain.search(name)[domain.root][1]
        assert default is not None
        yield Route(ANYWHERE[domain.family], default[1], default[0])
    if default is not None and len({their.node.name for _, their in hops}) == 1:
        return
    found = domain.search(name)
    connected = {port.segment for port in ports}
    for dst, holders in _destinations(domain, prefixes, connected):
        if name in holders:
            continue
        hop = min((found[holder] for holder in holders), key=lambda way: way[0])[1]
        assert hop is not None
        if default is None or hop[1] is not default[1]:
            yield Route(dst, hop[1], hop[0])


def _destinations(
    domain: Domain, prefixes: Mapping[Segment, Prefix], connected: set[Segment]
) -> Iterator[tuple[Prefix, list[str]]]:
    """Every prefix of a domain outside `connected`, with the routers that are on it."""
    for segment in domain.segments:
        if segment not in connected:
            yield prefixes[segment], [p.node.name for p in segment.ports if p.forwards(domain.family)]
    if domain.family == 6:
        brokers = {
            port.node.name: port.node
            for segment in domain.segments
            for port in segment.ports
            if isinstance(port.node, Broker)
        }
        for broker in brokers.values():
            yield broker.pool, [broker.name]


def _leaf_routes(
    node: Node, ports: list[Port], domains: dict[Segment, Domain], prefixes: Mapping[Segment, Prefix]
) -> Iterator[Route]:
    family = domains[ports[0].segment].family
    choices = [(port, gateway) for port in ports for gateway in domains[port.segment].gateways(port.segment)]
    default = _choose(node, choices, domains)
    if default is None:
        return
    yield Route(ANYWHERE[family], default[1], default[0])
    if len(choices) == 1 or getattr(node, "gateway", None) is not None:
        return
    connected = {port.segment for port in ports}
    for domain in dict.fromkeys(domains[port.segment] for port in ports):
        here = [choice for choice in choices if domains[choice[0].segment] is domain]
        for dst, holders in _destinations(domain, prefixes, connected):
            port, gateway = min(
                here,
                key=lambda choice: (
                    min(domain.search(choice[1].node.name)[holder][0] for holder in holders),
                    choice[1] is not default[1],
                ),
            )
            if gateway is not default[1]:
                yield Route(dst, gateway, port)


def gateway_at(port: Port, domains: Mapping[Segment, Domain]) -> Port | None:
    """The gateway for who is at this end of a link and nowhere else: the one nearest to the root; None without any."""
    gateways = domains[port.segment].gateways(port.segment) if port.segment in domains else []
    return gateways[0] if gateways else None


def _choose(node: Node, choices: list[tuple[Port, Port]], domains: dict[Segment, Domain]) -> tuple[Port, Port] | None:
    wanted = getattr(node, "gateway", None)
    if wanted is not None:
        for choice in choices:
            if choice[1].node.name == wanted:
                return choice
        known = ", ".join(gateway.node.name for _, gateway in choices) or "none"
        raise TopologyError(
            f"{node.name}: gateway={wanted!r} is no gateway on its links; there are: {known}", node=node.name
        )
    if len(choices) < 2:
        return choices[0] if choices else None
    if len({port for port, _ in choices}) == 1:
        domain = domains[choices[0][0].segment]
        ranked = [domain.distance[gateway.node.name] for _, gateway in choices]
        if ranked[0] < ranked[1]:
            return choices[0]
    names = [gateway.node.name for _, gateway in choices]
    raise TopologyError(
        f"{node.name} has {'two' if len(names) == 2 else len(names)} gateways to choose from, {' and '.join(names)}; "
        f"keep one, or say which: net.{node.kind}({node.name!r}, gateway={names[0]!r})",
        node=node.name,
    )
