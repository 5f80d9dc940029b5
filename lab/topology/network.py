"""What a topology file talks to: `Network`, a description being written down.

    net = Network("home_nat")
    laptop, nat = net.client("laptop"), net.nat("nat")
    net.link(laptop, nat, delay_ms=20)

Every call checks what can be checked by itself (names, numbers, enumerations) and raises `TopologyError` at
once, so that the traceback points at the line to change.  What needs the whole picture (paths, gateways,
address ranges) is checked by `lab.topology.planner.make_plan`.  Nothing here touches a kernel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError
from typing import TYPE_CHECKING, Final, TypeVar

from lab.errors import TopologyError
from lab.rules.firewall import check_policy
from lab.rules.nat_behaviour import (
    BehaviourError,
    Filtering,
    Hairpinning,
    Mapping,
    NatBehaviour,
    Pooling,
    Ports,
    Refresh,
)
from lab.rules.nat_presets import PRESETS
from lab.topology.nodes import Broker, Client, Firewall, Host, Link, Nat, Node, Router, Switch
from lab.topology.ranges import Ranges

if TYPE_CHECKING:
    import networkx as nx

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,14}")
_N = TypeVar("_N", bound=Node)
_LONGEST_MS: Final = 3_600_000.0
_SLOWEST_MBIT: Final = 0.001
_FASTEST_MBIT: Final = 100_000.0


class Network:
    """Nodes and links, in the order they were added; the order decides interface numbers and addresses."""

    def __init__(self, name: str = "", *, ranges: Ranges | None = None) -> None:
        self.name = name
        self.ranges = ranges or Ranges()
        """Where automatic addresses come from."""
        self._nodes: dict[str, Node] = {}
        self._links: dict[frozenset[str], Link] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order they were added."""
        return tuple(self._nodes.values())

    @property
    def links(self) -> tuple[Link, ...]:
        """The links, in the order they were added."""
        return tuple(self._links.values())

    @property
    def graph(self) -> nx.Graph[str]:
        """A networkx graph of names; each node has a `node` and each edge a `link` attribute."""
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph(name=self.name)
        for node in self.nodes:
            graph.add_node(node.name, node=node)
        for link in self.links:
            graph.add_edge(link.a, link.b, link=link)
        return graph

    def __getitem__(self, name: str) -> Node:
        """The node called `name`; TopologyError, with what was probably meant, if there is none."""
        if name not in self._nodes:
            close = get_close_matches(name, self._nodes, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(self._nodes) or 'none yet'}"
            raise TopologyError(f"there is no node {name!r}; {known}", node=name)
        return self._nodes[name]

    def client(self, name: str, *, gateway: str | Node | None = None) -> Client:
        """A machine with IPv4 only, which asks a broker for a tunnel."""
        return self._add(Client(name=name, gateway=_name_of(gateway)))

    def host(
        self, name: str, *, ipv6_only: bool = False, slaac: bool = False, gateway: str | Node | None = None
    ) -> Host:
        """A machine that only sends and receives: dual stack, `ipv6_only`, or with the address `slaac` gives it."""
        if ipv6_only and slaac:
            raise TopologyError(f"{name}: slaac already means IPv6 only; leave ipv6_only out", node=name)
        return self._add(Host(name=name, ipv6_only=ipv6_only, slaac=slaac, gateway=_name_of(gateway)))

    def nat(
        self,
        name: str,
        *,
        preset: str | None = None,
        mapping: Mapping | str | None = None,
        filtering: Filtering | str | None = None,
        hairpinning: Hairpinning | str | None = None,
        ports: Ports | str | None = None,
        parity: bool | None = None,
        block_size: int | None = None,
        pool: int | None = None,
        pooling: Pooling | str | None = None,
        one_to_one: bool | Sequence[str | Node] | None = None,
        proto41_host: str | Node | None = None,
        other_protocols: bool | None = None,
        udp_timeout_s: int | None = None,
        udp_stream_timeout_s: int | None = None,
        refresh: Refresh | str | None = None,
        input_open: bool | None = None,
        outside: str | Node | None = None,
        gateway: str | Node | None = None,
    ) -> Nat:
        """A NAT box that behaves as asked (see `lab.rules.nat_behaviour.NatBehaviour`).

        What is not given is taken from `preset`, one of `lab.rules.nat_presets.PRESETS`, or is that of a
        well-behaved Linux box.  `outside` names the neighbour on its outside where the broker's place does not tell.
        """
        if preset is not None and preset not in PRESETS:
            raise TopologyError(f"{name}: there is no preset {preset!r}; choose one of {', '.join(PRESETS)}", node=name)
        given = {
            "mapping": mapping,
            "filtering": filtering,
            "hairpinning": hairpinning,
            "ports": ports,
            "parity": parity,
            "block_size": block_size,
            "pool": pool,
            "pooling": pooling,
            "one_to_one": one_to_one,
            "proto41_host": proto41_host,
            "other_protocols": other_protocols,
            "udp_timeout_s": udp_timeout_s,
            "udp_stream_timeout_s": udp_stream_timeout_s,
            "refresh": refresh,
            "input_open": input_open,
        }
        base = PRESETS[preset].options if preset is not None else {}
        try:
            behaviour = NatBehaviour.make({key: value for key, value in given.items() if value is not None}, base)
        except BehaviourError as exc:
            raise TopologyError(f"{name}: {exc}", node=name) from None
        return self._add(
            Nat(
                name=name,
                behaviour=behaviour,
                preset=preset,
                outside=_name_of(outside),
                gateway=_name_of(gateway),
            )
        )

    def firewall(
        self,
        name: str,
        *,
        policy: str | tuple[str, ...] = "allow",
        ipv6: bool = False,
        outside: str | Node | None = None,
    ) -> Firewall:
        """A router of IPv4, and of IPv6 too if asked, with a policy of `lab.rules.firewall.POLICIES`.

        Policies may be combined: "drop_teredo+reject_tsp_control" or ("drop_teredo", "reject_tsp_control").
        """
        try:
            policy = check_policy(policy)
        except ValueError as exc:
            raise TopologyError(f"{name}: {exc}", node=name) from None
        return self._add(Firewall(name=name, policy=policy, ipv6=ipv6, outside=_name_of(outside)))

    def router(self, name: str, *, ipv6: bool = False) -> Router:
        """A router of IPv4, and of IPv6 too if asked."""
        return self._add(Router(name=name, ipv6=ipv6))

    def switch(self, name: str) -> Switch:
        """An Ethernet switch."""
        return self._add(Switch(name=name))

    def broker(
        self,
        name: str,
        *,
        pool: str | IPv6Network = "2001:db8:f000::/36",
        users: MappingABC[str, str] | None = None,
        anonymous: bool = True,
        realm: str = "lab",
        **options: object,
    ) -> Broker:
        """A tunnel broker that hands out prefixes of `pool`; `options` go to the broker program as they are."""
        users = dict(users or {})
        if not users and not anonymous:
            raise TopologyError(f"{name}: nobody could log in; give it users or leave anonymous on", node=name)
        words: list[object] = [*users.keys(), *users.values()]
        if not all(isinstance(word, str) and word for word in words):
            raise TopologyError(f"{name}: users must be a dictionary of names and passwords", node=name)
        prefix = _ipv6_prefix(name, "pool", pool)
        if prefix.prefixlen > 60:
            raise TopologyError(
                f"{name}: the pool {prefix} is too small to hand out prefixes of; use a /60 or shorter", node=name
            )
        return self._add(
            Broker(name=name, pool=prefix, users=users, anonymous=anonymous, realm=realm, options=dict(options))
        )

    def link(
        self,
        a: str | Node,
        b: str | Node,
        *,
        delay_ms: float = 0,
        jitter_ms: float = 0,
        loss_pct: float = 0,
        rate_mbit: float = 0,
        duplicate_pct: float = 0,
        reorder_pct: float = 0,
        mtu: int = 1500,
        ipv4: str | IPv4Network | None = None,
        ipv6: str | IPv6Network | None = None,
        plugged: bool = True,
    ) -> Link:
        """A wire between two nodes, each a node or its name.

        The impairments hold in each direction; `reorder_pct` is the share of packets that skip the delay and so
        overtake the others.  `ipv4` and `ipv6` are prefixes to use instead of the planner's own (one of the links of a
        switch speaks for its whole segment).  `plugged=False` is a client's link to a place where it is not at first;
        `await net["laptop"].move_to(PLACE)` takes it there.
        """
        a, b = self._known(a), self._known(b)
        name = f"{a}-{b}"
        if a == b:
            raise TopologyError(f"{a} is linked to itself; a link joins two nodes", node=a)
        if frozenset((a, b)) in self._links:
            raise TopologyError(f"{a} and {b} are linked already; put a switch or a router between them", node=a)
        link = Link(
            a=a,
            b=b,
            delay_ms=_number(name, "delay_ms", delay_ms, highest=_LONGEST_MS),
            jitter_ms=_number(name, "jitter_ms", jitter_ms, highest=_LONGEST_MS),
            loss_pct=_number(name, "loss_pct", loss_pct, highest=100),
            rate_mbit=_number(name, "rate_mbit", rate_mbit, highest=_FASTEST_MBIT),
            duplicate_pct=_number(name, "duplicate_pct", duplicate_pct, highest=100),
            reorder_pct=_number(name, "reorder_pct", reorder_pct, highest=100),
            mtu=_mtu(name, mtu),
            ipv4=None if ipv4 is None else _ipv4_prefix(name, "ipv4", ipv4),
            ipv6=None if ipv6 is None else _ipv6_prefix(name, "ipv6", ipv6),
            plugged=plugged,
        )
        if 0 < link.rate_mbit < _SLOWEST_MBIT:
            raise TopologyError(
                f"link {name}: rate_mbit={rate_mbit} is less than the {_SLOWEST_MBIT:g} a kernel can be told", node=a
            )
        if link.jitter_ms > link.delay_ms:
            raise TopologyError(
                f"link {name}: jitter_ms={jitter_ms} is more than delay_ms={delay_ms}; a packet cannot arrive "
                "before it was sent",
                node=a,
            )
        if link.reorder_pct and not link.delay_ms:
            raise TopologyError(
                f"link {name}: reorder_pct={reorder_pct} needs delay_ms: packets overtake by not being delayed", node=a
            )
        if not plugged and sum(isinstance(self[end], Client) for end in (a, b)) != 1:
            raise TopologyError(f"link {name}: plugged=False is for a client's link to a place it may move to", node=a)
        self._links[frozenset((a, b))] = link
        return link

    def _add(self, node: _N) -> _N:
        _check_name(node.name)
        if node.name in self._nodes:
            kind = self._nodes[node.name].kind
            raise TopologyError(f"there are two nodes called {node.name!r}; the first is a {kind}", node=node.name)
        self._nodes[node.name] = node
        return node

    def _known(self, end: str | Node) -> str:
        if isinstance(end, Node):
            if self._nodes.get(end.name) is not end:
                raise TopologyError(f"{end.name!r} belongs to another network", node=end.name)
            return end.name
        if not isinstance(end, str):
            raise TopologyError(f"a link joins nodes or names of nodes, not {end!r}")
        return self[end].name


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TopologyError(
            f"{name!r} cannot be a name: use 1 to 15 of a-z, 0-9, _ and -, a letter first", node=str(name)
        )


def _name_of(node: str | Node | None) -> str | None:
    return node.name if isinstance(node, Node) else node


def _number(link: str, option: str, value: object, *, highest: float) -> float:
    limit = f"from 0 to {highest:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TopologyError(f"link {link}: {option} must be a number, not {value!r}")
    if not (math.isfinite(value) and 0 <= value <= highest):
        raise TopologyError(f"link {link}: {option}={value} makes no sense; give a number {limit}")
    return float(value)


def _mtu(link: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 68 <= value <= 65535:
        raise TopologyError(f"link {link}: mtu={value!r} makes no sense; give a whole number of bytes from 68 to 65535")
    return value


def _ipv4_prefix(where: str, option: str, value: str | IPv4Network) -> IPv4Network:
    try:
        prefix = IPv4Network(value)
    except (AddressValueError, NetmaskValueError, ValueError) as exc:
        raise TopologyError(f"{where}: {option}={str(value)!r} is not an IPv4 prefix ({exc})") from None
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local or prefix.prefixlen == 0:
        raise TopologyError(f"{where}: hosts cannot have addresses of {option}={prefix}; choose another prefix")
    return prefix


def _ipv6_prefix(where: str, option: str, value: str | IPv6Network) -> IPv6Network:
    try:
        prefix = IPv6Network(value)
    except (AddressValueError, NetmaskValueError, ValueError) as exc:
        raise TopologyError(f"{where}: {option}={str(value)!r} is not an IPv6 prefix ({exc})") from None
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local or prefix.prefixlen == 0:
        raise TopologyError(f"{where}: hosts cannot have addresses of {option}={prefix}; choose another prefix")
    return prefix
