"""What a kernel has to do to make a topology real: an ordered list of steps, as data.

A `Plan` is all that crosses from the pure side (networkx, addressing, routing, nftables text) to an agent, as
JSON.  Every name, address, MAC address and interface index is decided here, so the agent decides nothing and
two builds of one plan are the same.  Steps are in an order that works when carried out one by one; the kernel
package may batch steps of one namespace, it never reorders them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Final, get_args


@dataclass(frozen=True, slots=True)
class AddNode:
    """Make a network namespace, loopback up."""

    op: ClassVar[str] = "node"
    node: str


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Write `value` to /proc/sys/KEY of the node's namespace; `key` uses slashes ("net/ipv4/ip_forward")."""

    op: ClassVar[str] = "sysctl"
    node: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class AddLink:
    """Make a veth pair between two nodes; both ends stay down."""

    op: ClassVar[str] = "link"
    a: str
    a_iface: str
    a_index: int
    a_mac: str
    b: str
    b_iface: str
    b_index: int
    b_mac: str
    mtu: int = 1500
    """Bytes of IP packet."""
    offload: bool = False
    """False: no TSO, GSO or transmit checksum offload, so that a capture looks like the wire."""


@dataclass(frozen=True, slots=True)
class AddBridge:
    """Make a Linux bridge, down, in a switch's namespace, with existing `ports` enslaved."""

    op: ClassVar[str] = "bridge"
    node: str
    iface: str
    index: int
    mac: str
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give an interface an address; `address` is "192.0.2.1/24" or "2001:db8::1/64" (no DAD)."""

    op: ClassVar[str] = "address"
    node: str
    iface: str
    index: int
    address: str


@dataclass(frozen=True, slots=True)
class SetUp:
    """Bring an interface up."""

    op: ClassVar[str] = "up"
    node: str
    iface: str
    index: int


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add a route; `dst` is a prefix ("0.0.0.0/0" for the default), `via` a gateway or None (on-link)."""

    op: ClassVar[str] = "route"
    node: str
    dst: str
    via: str | None
    iface: str
    index: int


@dataclass(frozen=True, slots=True)
class AddNeighbor:
    """Enter a neighbour's MAC address for good, so that its resolution costs no time on a delayed link."""

    op: ClassVar[str] = "neighbor"
    node: str
    iface: str
    index: int
    address: str
    """Without prefix length."""
    mac: str


@dataclass(frozen=True, slots=True)
class Prohibit:
    """Have routing refuse IPv4 packets with a mark, with ICMP "communication administratively prohibited"."""

    op: ClassVar[str] = "prohibit"
    node: str
    mark: int


@dataclass(frozen=True, slots=True)
class LoadRules:
    """Load a node's whole nftables ruleset, atomically, as text."""

    op: ClassVar[str] = "rules"
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class Shape:
    """Impair what leaves an interface (one way). Zero means: not asked for."""

    op: ClassVar[str] = "shape"
    node: str
    iface: str
    index: int
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_pct: float = 0.0
    rate_mbit: float = 0.0
    duplicate_pct: float = 0.0
    """Share of packets sent twice."""
    reorder_pct: float = 0.0
    """Share of packets that are not delayed and so overtake the others; needs a delay."""

    @property
    def needs_netem(self) -> bool:
        """Whether anything but a limited rate was asked for."""
        return any((self.delay_ms, self.jitter_ms, self.loss_pct, self.duplicate_pct, self.reorder_pct))


Step = (
    AddNode
    | SetSysctl
    | AddLink
    | AddBridge
    | AddAddress
    | SetUp
    | AddRoute
    | AddNeighbor
    | Prohibit
    | LoadRules
    | Shape
)

_STEPS: Final[dict[str, type[Any]]] = {step.op: step for step in get_args(Step)}


@dataclass(frozen=True, slots=True)
class InterfacePlan:
    """One interface of a node, for people and captures; the steps do the work."""

    name: str
    peer: str
    """The node at the other end (a switch counts as a node)."""
    ipv4: str | None = None
    """Address with prefix length, e.g. "192.0.2.1/24"."""
    ipv6: str | None = None
    role: str = ""
    """"inside" or "outside" on a NAT or firewall, else ""."""
    plugged: bool = True
    """False on the links of a client to where it is not at first."""
    gateway: str | None = None
    """On a client that moves: the IPv4 address its default route goes to when it is here."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node as the agent's actors and a scenario see it."""

    name: str
    kind: str
    """client, host, nat, firewall, router, switch or broker."""
    interfaces: tuple[InterfacePlan, ...]
    ipv4: str | None = None
    """Main IPv4 address, without prefix length: what other nodes reach it by."""
    ipv6: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """The node's own parameters (a broker's pool and users, a NAT's mapping, a firewall's policy ...)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes to know and steps to take, in order."""

    name: str
    nodes: tuple[NodePlan, ...]
    steps: tuple[Step, ...]
    version: int = 1

    def node(self, name: str) -> NodePlan:
        """The node called `name`; KeyError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def moved(self, name: str, place: str) -> Plan:
        """The plan as it is when the client called `name` is at another `place`, a node that it is linked to.

        What was done to make the network, the steps, is as before.
        """
        node = self.node(name)
        interfaces = tuple(replace(i, plugged=i.peer == place or i.gateway is None) for i in node.interfaces)
        ipv4 = next((i.ipv4.partition("/")[0] for i in interfaces if i.peer == place and i.ipv4), node.ipv4)
        there = replace(node, interfaces=interfaces, ipv4=ipv4)
        return replace(self, nodes=tuple(there if one is node else one for one in self.nodes))

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; `Plan.from_json` is the inverse."""
        return {
            "version": self.version,
            "name": self.name,
            "nodes": [asdict(node) for node in self.nodes],
            "steps": [{"op": step.op, **asdict(step)} for step in self.steps],
        }

    def dumps(self) -> str:
        """`to_json` as text, one step a line's worth of indentation."""
        return json.dumps(self.to_json(), indent=1)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """A plan from what `to_json` gave; ValueError if it is of another version."""
        if value["version"] != 1:
            raise ValueError(f"plan version {value['version']} is not understood; this lab reads version 1")
        nodes = tuple(
            NodePlan(**{**node, "interfaces": tuple(InterfacePlan(**i) for i in node["interfaces"])})
            for node in value["nodes"]
        )
        return cls(name=value["name"], nodes=nodes, steps=tuple(_step(step) for step in value["steps"]))


def _step(value: Mapping[str, Any]) -> Step:
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items() if key != "op"}
    step: Step = _STEPS[value["op"]](**fields)
    return step
