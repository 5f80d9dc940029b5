"""A plan of the lab as Mininet nodes and links.

Mininet makes the namespaces, the veth pairs and what impairs them; addresses, routes, sysctls and rules of a node are
put there by `lab.kernel.build`, from the very steps that every other engine carries out.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mininet.link import Intf, Link
from mininet.node import Node

from lab.errors import KernelRefused, UsageError
from lab.kernel import links, netlink, settle
from lab.kernel.build import Fabric, carry_out
from lab.kernel.plug import EVERYWHERE
from lab.mininet.base import LabHost, TunnelMethods
from lab.mininet.links import CheckedLink
from lab.mininet.switches import LinuxBridge
from lab.results import MoveRecord
from lab.topology.plan import (
    AddAddress,
    AddBridge,
    AddLink,
    AddNeighbor,
    AddNode,
    AddRoute,
    NodePlan,
    Plan,
    SetSysctl,
    Shape,
    Step,
)

_LONGEST_NAME: Final = 15
"""Of an interface: IFNAMSIZ less the final zero."""


class PlanNode(TunnelMethods, LabHost):
    """A node of a plan.  With `serve` a broker runs, and a client is in its first place, from its configuration on."""

    def __init__(self, name: str, plan: NodePlan, steps: Sequence[Step], serve: bool = False, **params: Any) -> None:
        self._plan = plan
        self._steps = tuple(steps)
        self._serve = serve
        params.update(ip=None)
        super().__init__(name, **params)
        # Before any interface is there: sysctls of "default" hold for what comes afterwards.
        with_interfaces = tuple(f"/conf/{interface.name}/" for interface in plan.interfaces)
        first = [
            step
            for step in self._steps
            if isinstance(step, SetSysctl)
            and not any(part in f"/{step.key}/" for part in with_interfaces)
            and not step.key.startswith("net/netfilter/")
        ]
        self.namespace.sysctls({step.key: step.value for step in first})

    @property
    def kind(self) -> str:  # type: ignore[override]
        """The kind of the plan's node."""
        return self._plan.kind

    def node_plan(self) -> NodePlan:
        return self._plan

    def config(self, **_params: Any) -> dict[str, Any]:
        """Give the node its addresses, routes and rules."""
        fabric = Fabric()
        fabric.add(self.namespace)
        carry_out(fabric, [self._numbered(step) for step in self._steps])
        if self._serve:
            self.member.leave_other_places()
            if self.kind == "broker":
                self.serve()
        return {}

    def serve(self) -> None:
        """Start the broker; a second call does nothing."""
        from lab.mininet.running import running

        if not self.member.broker_counters():
            running().do(self.member.start_broker())

    def move_to(self, place: Node | str) -> MoveRecord:
        """Take a client to another place, a node that one of its links goes to; see `lab.scenario.LabNode.move_to`.

        Raises UsageError when it cannot be there, or when the other end of the link is down.
        """
        from lab.mininet.running import running

        name = place if isinstance(place, str) else place.name
        for end in self.ends_at(name) if name in self.member.places else ():
            with _handle(end.node) as there:
                if not links.link(there, end.name).flags & netlink.IFF_UP:
                    raise UsageError(f"the link from {self.name} to {name} is down; first: link {self.name} {name} up")
        record = running().do(self.member.move_to(name))
        self.restore()
        return record

    def go_home(self) -> None:
        """Put a client that moves where it was at first, wherever others have taken it."""
        first = next((i.peer for i in self._plan.interfaces if i.plugged and i.peer in self.member.places), None)
        if first is not None:
            self.member.leave_other_places()
            self.move_to(first)

    def ends_at(self, place: str) -> list[Intf]:
        """The other ends of this node's links to the node called `place`."""
        made = [intf.link for intf in self.intfList() if intf.link is not None]
        return [end for link in made for end in (link.intf1, link.intf2) if end.node.name == place]

    def is_away_from(self, place: str) -> bool:
        """Whether this is a client that could be at `place`, a node's name, and is elsewhere."""
        here = self.member.place
        return here is not None and here.peer != place and place in self.member.places

    def restore(self) -> None:
        """Give the interfaces what they lose when they go down: addresses, routes and neighbours.

        A client that moves has them where it is, and nowhere else.
        """
        with_fabric = Fabric()
        with_fabric.add(self.namespace)
        for step in self._steps_here():
            try:
                carry_out(with_fabric, [self._numbered(step)])
            except KernelRefused as exc:
                # There still, or of another link that is down.
                if exc.errno not in (errno.EEXIST, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH):
                    raise

    def _steps_here(self) -> list[AddAddress | AddRoute | AddNeighbor]:
        steps = [step for step in self._steps if isinstance(step, AddAddress | AddRoute | AddNeighbor)]
        here = self.member.place
        if here is None:
            return steps
        elsewhere = {i.name for i in self._plan.interfaces if self.is_away_from(i.peer)}
        default = [] if here.gateway is None else [AddRoute(self.name, EVERYWHERE, here.gateway, here.name, 0)]
        return [step for step in steps if step.iface not in elsewhere] + default

    def _numbered(self, step: Step) -> Step:
        """The step with the number that Mininet's interface has got."""
        if isinstance(step, SetSysctl) or not hasattr(step, "index"):
            return step
        return replace(step, index=links.index(self.namespace, step.iface))  # type: ignore[arg-type,union-attr]


def steps_of(plan: Plan, node: str) -> tuple[Step, ...]:
    """What is to be done inside a node once Mininet has made it and its links."""
    elsewhere = (AddNode, AddLink, AddBridge, Shape)
    return tuple(step for step in plan.steps if not isinstance(step, elsewhere) and step.node == node)


def with_names_for_all(plan: Plan) -> Plan:
    """The plan with names for the ports of its switches that fit beside those of all others: "lan-eth0"."""
    names: dict[tuple[str, str], str] = {}
    for number, node in enumerate(plan.nodes):
        for port, iface in enumerate(node.interfaces if node.kind == "switch" else ()):
            name = f"{node.name}-eth{port}"
            if len(name) > _LONGEST_NAME:
                end = f"{number}-eth{port}"
                name = node.name[: _LONGEST_NAME - len(end)] + end
            names[node.name, iface.name] = name

    def renamed(step: Step) -> Step:
        if isinstance(step, AddLink):
            a, b = (step.a, step.a_iface), (step.b, step.b_iface)
            return replace(step, a_iface=names.get(a, a[1]), b_iface=names.get(b, b[1]))
        if isinstance(step, Shape):
            return replace(step, iface=names.get((step.node, step.iface), step.iface))
        return step

    nodes = tuple(
        replace(
            node, interfaces=tuple(replace(i, name=names.get((node.name, i.name), i.name)) for i in node.interfaces)
        )
        for node in plan.nodes
    )
    return replace(plan, nodes=nodes, steps=tuple(renamed(step) for step in plan.steps))


def link_parameters(plan: Plan) -> Iterator[tuple[AddLink, dict[str, Any]]]:
    """Each link of the plan with the parameters of the Mininet link that is to be made."""
    shapes = {(step.node, step.iface): step for step in plan.steps if isinstance(step, Shape)}
    for step in plan.steps:
        if not isinstance(step, AddLink):
            continue
        near, far = (shapes.get(end) for end in ((step.a, step.a_iface), (step.b, step.b_iface)))
        yield (
            step,
            {
                "intfName1": step.a_iface,
                "intfName2": step.b_iface,
                "addr1": step.a_mac,
                "addr2": step.b_mac,
                "params1": _of_end(near, step.mtu),
                "params2": _of_end(far, step.mtu),
            },
        )


def _of_end(shape: Shape | None, mtu: int) -> dict[str, Any]:
    found: dict[str, Any] = {"mtu": mtu} if mtu != 1500 else {}
    if shape is None:
        return found
    if shape.rate_mbit:
        found["bw"] = shape.rate_mbit
    if shape.delay_ms:
        found["delay"] = f"{shape.delay_ms:g}ms"
    if shape.jitter_ms:
        found["jitter"] = f"{shape.jitter_ms:g}ms"
    if shape.loss_pct:
        found["loss"] = shape.loss_pct
    if shape.duplicate_pct:
        found["duplicate"] = shape.duplicate_pct
    if shape.reorder_pct:
        found["reorder"] = shape.reorder_pct
    return found


class MininetFabric(Fabric):
    """The namespaces of Mininet nodes; `close` ends the nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, Node] = {}

    def close(self) -> None:
        """End every node's shell and wait for it: with it go its namespace and its links."""
        nodes, self.nodes = self.nodes, {}
        for node in nodes.values():
            if isinstance(node, LinuxBridge):
                node.stop(deleteIntfs=False)
            node.terminate()
        super().close()


def build(plan: Plan) -> MininetFabric:
    """The network of `plan`, of Mininet's nodes and links, ready for packets.

    Raises KernelRefused and MissingFeature; nothing is left of a build that failed.
    """
    wires = list(link_parameters(plan))
    fabric = MininetFabric()
    try:
        for node in plan.nodes:
            fabric.nodes[node.name] = made = make_node(plan, node)
            fabric.add(made.namespace if isinstance(made, PlanNode) else _handle(made))
        for step, parameters in wires:
            connect(fabric.nodes[step.a], fabric.nodes[step.b], step, parameters)
        for node in fabric.nodes.values():
            if isinstance(node, PlanNode):
                node.config()
            else:
                node.start([])
        wait_until_ready(plan, fabric)
    except BaseException:
        fabric.close()
        raise
    return fabric


def make_node(plan: Plan, node: NodePlan) -> Node:
    """One node of a plan, without links yet."""
    if node.kind == "switch":
        return LinuxBridge(node.name)
    return PlanNode(node.name, node, steps_of(plan, node.name))


def _handle(node: Node) -> Any:
    from lab.mininet.links import namespace_of

    return namespace_of(node)


def connect(a: Node, b: Node, step: AddLink, parameters: Mapping[str, Any]) -> Link:
    """Make one link, of Mininet's TCLink."""
    return CheckedLink(a, b, **parameters)


def wait_until_ready(plan: Plan, fabric: Fabric) -> None:
    """Switch transmit offloads off where the plan says so, and wait until links carry and addresses answer."""
    carrying: dict[Any, list[tuple[str, int]]] = {}
    for step in plan.steps:
        if isinstance(step, AddLink):
            for node, iface in ((step.a, step.a_iface), (step.b, step.b_iface)):
                ns = fabric[node]
                if not step.offload:
                    links.disable_offloads(ns, iface)
                number = links.index(ns, iface)
                ns.netlink.do([netlink.set_up(iface, number)])
                carrying.setdefault(ns, []).append((iface, number))
    settle.links_carry(carrying)
    addresses: dict[Any, list[str]] = {}
    for step in plan.steps:
        if (address := getattr(step, "address", None)) is not None and step.op == "address" and ":" in address:
            addresses.setdefault(fabric[step.node], []).append(address)  # type: ignore[union-attr]
    settle.addresses_answer(addresses)
    for ns in fabric.values():
        ns.close_netlink()
