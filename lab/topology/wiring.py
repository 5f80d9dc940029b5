"""From nodes and links to interfaces and segments: who shares a wire with whom, and which way is out.

A `Segment` is everything that hears the same broadcast: one link between two nodes, or switches with all their
links.  It carries IPv4 when at least two of the nodes on it speak IPv4, and IPv6 likewise.  A host with `slaac`
has no planned address, so its segment has no planned IPv6: the client on it advertises the prefix it was given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface
from itertools import islice
from typing import Final

from lab.errors import TopologyError
from lab.topology.network import Network
from lab.topology.nodes import Broker, Client, Family, Firewall, Host, Link, Nat, Node, Router, Switch

FAMILIES: tuple[Family, Family] = (4, 6)


FIRST_INDEX: Final = 16
"""Of a node's interfaces.  A kernel with tunnel drivers puts its own fallback devices (sit0, tunl0, gre0, ip6tnl0 ...)
into every new namespace first, from 2 on."""


@dataclass(slots=True, eq=False)
class Port:
    """One interface of one node."""

    node: Node
    iface: str
    index: int
    mac: str
    link: Link
    outside: bool = False
    """On a NAT or a firewall: the side of the broker."""
    segment: Segment = field(init=False)
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    more_ipv4: list[IPv4Interface] = field(default_factory=list)
    """A NAT's further outside addresses."""

    @property
    def peer(self) -> str:
        """The node at the other end of the link."""
        return self.link.peer(self.node.name)

    def address(self, family: Family) -> IPv4Interface | IPv6Interface | None:
        """The planned address, or None."""
        return self.ipv4 if family == 4 else self.ipv6

    def forwards(self, family: Family) -> bool:
        """Whether others on this segment may use this port as their gateway."""
        return family in self.node.forwards and not (isinstance(self.node, Nat) and self.outside)


@dataclass(slots=True, eq=False)
class Segment:
    """Links and switches that hear the same broadcast, and the ports of other nodes on them."""

    links: list[Link] = field(default_factory=list)
    switches: list[str] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)
    families: frozenset[Family] = frozenset()
    slaac: bool = False

    @property
    def name(self) -> str:
        """How messages call it: the switch, or the link."""
        return self.switches[0] if self.switches else self.links[0].name


@dataclass(slots=True)
class Wiring:
    """All ports by node, in link order, and all segments, in order of their first link."""

    ports: dict[str, list[Port]]
    segments: list[Segment]


def wire(net: Network) -> Wiring:
    """The ports and segments of a network; TopologyError when its shape makes no sense."""
    _check_connected(net)
    outsides = _outsides(net)
    ports = _ports(net, outsides)
    segments = _segments(net, ports)
    for segment in segments:
        _decide_families(segment)
    mute = [
        port
        for segment in segments
        for port in segment.ports
        if not segment.families & port.node.speaks and not segment.slaac
    ]
    if mute:
        port = min(mute, key=lambda port: len(port.node.forwards))  # of two that cannot talk, blame the smaller
        raise TopologyError(_nothing_in_common(port), node=port.node.name)
    for node in net.nodes:
        _check_places(node, ports[node.name])
    return Wiring(ports, segments)


def _check_places(node: Node, ports: list[Port]) -> None:
    """A client that moves is in one place at a time."""
    here = [port for port in ports if port.link.plugged and not port.segment.slaac]
    if not isinstance(node, Client) or len(here) == 1 or all(port.link.plugged for port in ports):
        return
    if here:
        why = f"is at {_and([port.peer for port in here])} at first; say plugged=False for all of its places but one"
    else:
        why = "is nowhere at first; leave plugged=False out of the link to where it is"
    raise TopologyError(f"{node.name} moves, and {why}", node=node.name)


def _check_connected(net: Network) -> None:
    if not net.nodes:
        raise TopologyError("the network is empty: build() added no node")
    linked = {end for link in net.links for end in (link.a, link.b)}
    for node in net.nodes:
        if node.name not in linked:
            raise TopologyError(
                f"{node.name} has no link; add net.link({node.name!r}, ...) or remove it", node=node.name
            )
    import networkx as nx

    first, *others = list(nx.connected_components(net.graph))
    if others:
        raise TopologyError(
            f"no path joins {_some(first, net)} and {_some(others[0], net)}; "
            "link one of the first to one of the second",
            node=next(node.name for node in net.nodes if node.name in others[0]),
        )


def _some(names: Iterable[str], net: Network) -> str:
    names = set(names)
    ordered = list(islice((node.name for node in net.nodes if node.name in names), 3))
    return " and ".join(ordered) if len(names) < 3 else f"{', '.join(ordered)}" + (" ..." if len(names) > 3 else "")


def _outsides(net: Network) -> dict[str, str]:
    """The outside neighbour of every NAT and firewall.

    It is the one on every path to the core: the brokers, or the routers where there is no broker.  With an
    extra node joined to all of the core, that neighbour is the box's only one in the block (the maximal part without
    a cut vertex) that holds the way there; networkx finds all blocks in one pass over the graph.
    """
    boxes = [node for node in net.nodes if isinstance(node, Nat | Firewall)]
    if not boxes:
        return {}
    neighbours: dict[str, list[str]] = {node.name: [] for node in boxes}
    for link in net.links:
        for end in (link.a, link.b):
            if end in neighbours:
                neighbours[end].append(link.peer(end))
    for box in boxes:
        if box.outside is not None and box.outside not in neighbours[box.name]:
            raise TopologyError(
                f"{box.name}: outside={box.outside!r} is not a neighbour; "
                f"{box.name} is linked to {_and(neighbours[box.name])}",
                node=box.name,
            )
        if len(neighbours[box.name]) < 2:
            raise TopologyError(
                f"{box.name} needs an inside and an outside, but is linked only to {neighbours[box.name][0]}",
                node=box.name,
            )
    core = [n.name for n in net.nodes if isinstance(n, Broker)] or [n.name for n in net.nodes if isinstance(n, Router)]
    ways = _ways_to(core, net, neighbours)
    return {box.name: box.outside or _only_way(box, core, ways[box.name], neighbours[box.name]) for box in boxes}


def _ways_to(core: list[str], net: Network, boxes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Neighbours through which each box reaches the core without passing itself."""
    import networkx as nx

    root = ""
    graph = net.graph
    graph.remove_edges_from([(link.a, link.b) for link in net.links if not link.plugged])  # nobody forwards there
    graph.add_edges_from((root, name) for name in core)
    ways: dict[str, list[str]] = {name: [] for name in boxes}
    if not core:
        return ways
    depth = nx.single_source_shortest_path_length(graph, root)
    for block in nx.biconnected_component_edges(graph):
        edges = list(block)
        top = min((end for edge in edges for end in edge), key=lambda end: depth.get(end, math.inf))
        for edge in edges:
            for box, other in (edge, edge[::-1]):
                if box in ways and box != top and other != root:
                    ways[box].append(other)
    return ways


def _only_way(box: Nat | Firewall, core: list[str], ways: list[str], neighbours: list[str]) -> str:
    if len(ways) == 1:
        return ways[0]
    if not ways:
        why = "there is no broker or router to tell its outside by"
    else:
        why = f"{_and([n for n in neighbours if n in ways])} both lead to {_and(core)}"
    raise TopologyError(
        f"{box.name}: {why}; say which neighbour is outside: net.{box.kind}({box.name!r}, outside={neighbours[-1]!r})",
        node=box.name,
    )


def _and(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ports(net: Network, outsides: dict[str, str]) -> dict[str, list[Port]]:
    number = {node.name: count for count, node in enumerate(net.nodes, start=1)}
    ports: dict[str, list[Port]] = {node.name: [] for node in net.nodes}
    for link in net.links:
        for name in (link.a, link.b):
            node, known = net[name], ports[name]
            outside = outsides.get(name) == link.peer(name)
            if isinstance(node, Switch):
                iface = f"p{len(known)}"
            elif name in outsides:
                iface = "wan0" if outside else f"lan{sum(not port.outside for port in known)}"
            else:
                iface = f"eth{len(known)}"
            index = FIRST_INDEX + len(known)
            known.append(Port(node, iface, index, mac_address(number[name], index), link, outside))
    return ports


def mac_address(node: int, index: int) -> str:
    """A locally administered MAC address for interface `index` of the `node`-th node."""
    return "02:00:" + ":".join(f"{byte:02x}" for byte in (*node.to_bytes(2, "big"), *index.to_bytes(2, "big")))


def _segments(net: Network, ports: dict[str, list[Port]]) -> list[Segment]:
    of_switch: dict[str, Segment] = {}
    segments: list[Segment] = []
    by_link: dict[int, Segment] = {}
    for link in net.links:
        if id(link) in by_link:
            continue
        segment = Segment()
        segments.append(segment)
        waiting = [link]
        while waiting:
            here = waiting.pop()
            if id(here) in by_link:
                continue
            by_link[id(here)] = segment
            for name in (here.a, here.b):
                if isinstance(net[name], Switch) and name not in of_switch:
                    of_switch[name] = segment
                    segment.switches.append(name)
                    waiting.extend(port.link for port in ports[name])
    for link in net.links:
        by_link[id(link)].links.append(link)
    for node in net.nodes:
        for port in ports[node.name]:
            port.segment = by_link[id(port.link)]
            if not isinstance(node, Switch):
                port.segment.ports.append(port)
    for segment in segments:
        _check_loops(segment)
    return segments


def _check_loops(segment: Segment) -> None:
    switches = set(segment.switches)
    if sum(link.a in switches and link.b in switches for link in segment.links) >= max(len(switches), 1):
        raise TopologyError(
            f"the switches {_and(sorted(switches))} form a loop, in which a broadcast never ends; remove a link",
            node=segment.name,
        )
    seen: dict[str, Port] = {}
    for port in segment.ports:
        if port.node.name in seen:
            raise TopologyError(
                f"{port.node.name} is linked to {seen[port.node.name].peer} and to {port.peer}, which are one segment; "
                "remove a link",
                node=port.node.name,
            )
        seen[port.node.name] = port


def _decide_families(segment: Segment) -> None:
    nodes = [port.node for port in segment.ports]
    segment.slaac = any(isinstance(node, Host) and node.slaac for node in nodes)
    segment.families = frozenset(family for family in FAMILIES if sum(family in node.speaks for node in nodes) >= 2)
    if not segment.slaac:
        return
    host = next(node.name for node in nodes if isinstance(node, Host) and node.slaac)
    clients = [node.name for node in nodes if isinstance(node, Client)]
    if len(clients) != 1:
        found = f"{_and(clients)} are" if clients else "none is"
        raise TopologyError(
            f"{host} waits for Router Advertisements (slaac) from one client on its link, but {found} there", node=host
        )
    others = [
        node.name for node in nodes if not isinstance(node, Client) and not (isinstance(node, Host) and node.slaac)
    ]
    if others:
        raise TopologyError(
            f"{others[0]} shares the link of {host}, where only {clients[0]} and hosts with slaac can be; "
            f"make it a host with slaac or link it elsewhere",
            node=others[0],
        )


def _nothing_in_common(port: Port) -> str:
    others = [other.node for other in port.segment.ports if other is not port]
    if not others:
        return f"{port.node.name} is alone on {port.segment.name}; link another node to it"
    spoken = {4: "IPv4", 6: "IPv6"}
    mine = " and ".join(spoken[family] for family in sorted(port.node.speaks))
    theirs = ", ".join(
        f"{other.name} (a {other.kind}) " + " and ".join(spoken[family] for family in sorted(other.speaks))
        for other in others[:3]
    )
    way_out = "link it elsewhere"
    if any(isinstance(other, Router) for other in others):
        way_out = "use net.router(..., ipv6=True)"
    elif 4 not in port.node.speaks:
        way_out = "use a host that speaks both, or link it to a broker"
    return f"{port.node.name} speaks {mine} and finds nobody to speak it with: {theirs}; {way_out}"
