"""A node's addresses, and where a client is that moves."""

from __future__ import annotations

import asyncio
import logging
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lab.errors import LabError, UsageError
from lab.results import MoveRecord
from lab.topology.plan import AddNeighbor, InterfacePlan, NodePlan

if TYPE_CHECKING:
    from lab.actors.broker import TunnelBroker
    from lab.actors.client import TunnelClient
    from lab.actors.datagram import Port
    from lab.kernel.namespace import Namespace
    from lab.scenario.network import Lab
    from lab.scenario.node import LabNode

log = logging.getLogger("lab.scenario")


class PlacedNode:
    """A node with its addresses."""

    def __init__(self, lab: Lab, plan: NodePlan, namespace: Namespace) -> None:
        self.lab = lab
        self.plan = plan
        self.name = plan.name
        self.kind = plan.kind
        self.namespace = namespace
        """The node's network namespace, for what this class has no method for."""
        self.policy: str | None = plan.options.get("policy") if plan.kind == "firewall" else None
        """A firewall's policy, None on other nodes."""
        self.log = logging.LoggerAdapter(log, {"node": plan.name})
        self._place = next((i for i in self._movable() if i.plugged), None)
        self._tunnel: TunnelClient | None = None
        self._broker: TunnelBroker | None = None
        self._advertiser: Any = None
        self._slaac: str | None = None
        self._ports: dict[int, Port] = {}

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def _must_be(self, kind: str, action: str) -> None:
        if self.kind != kind:
            raise UsageError(f"{self.name} is a {self.kind}; {action} works on a {kind} only")

    @property
    def ipv4(self) -> str | None:
        """The node's IPv4 address, or None; that of the place where it is, for a client that moves."""
        if self._place is not None and self._place.ipv4 is not None:
            return self._place.ipv4.partition("/")[0]
        return self.plan.ipv4

    @property
    def ipv6(self) -> str | None:
        """The node's IPv6 address: a tunnel's before a self-made one before a planned one; None without any."""
        if self._tunnel is not None and self._tunnel.report.client_ipv6 is not None:
            return str(self._tunnel.report.client_ipv6)
        return self._slaac or self.plan.ipv6

    def _address_of(self, to: str | LabNode, family: int | None) -> str:
        """The address to reach `to` at from here: IPv6 when both ends have it, unless `family` says otherwise."""
        if isinstance(to, str):
            try:
                return str(ip_address(to))
            except ValueError:
                pass
        other = self.lab[to]
        if family is None:
            family = 6 if self.ipv6 and other.ipv6 else 4 if self.ipv4 and other.ipv4 else 6
        address = other.ipv6 if family == 6 else other.ipv4
        if address is None:
            raise UsageError(f"{other.name} has no IPv{family} address to reach it at")
        return address

    def _plain_family(self, to: str | LabNode) -> int | None:
        """IPv4 where both ends have it; None for an address, which says it itself."""
        other = next((node for node in self.lab if node.name == to), None) if isinstance(to, str) else to
        return None if other is None else 4 if self.ipv4 and other.ipv4 else 6

    async def wait_for_ipv6(self, timeout_s: float = 10.0) -> str:
        """Wait until the node has made itself an address from a router advertisement (RFC 4862); return it."""
        from lab.actors.advertise import global_address

        deadline = time.monotonic() + timeout_s
        while (address := global_address(self.namespace)) is None:
            if time.monotonic() >= deadline:
                raise LabError(f"{self.name} got no IPv6 address from a router advertisement in {timeout_s:g} s")
            await asyncio.sleep(0.02)
        self._slaac = str(address)
        self.log.info("has %s from a router advertisement", address)
        return self._slaac

    # ------------------------------------------------------------------ places

    @property
    def places(self) -> tuple[str, ...]:
        """The nodes that a client can move to, that where it is included; nothing for a node that stays."""
        return tuple(i.peer for i in self._movable())

    @property
    def place(self) -> InterfacePlan | None:
        """The interface that is plugged in where a client is, its `peer`; None for a node that stays."""
        return self._place

    def _movable(self) -> list[InterfacePlan]:
        found = [i for i in self.plan.interfaces if i.ipv4 is not None]
        return found if self.kind == "client" and not all(i.plugged for i in found) else []

    def leave_other_places(self) -> None:
        """Unplug a client's links to where it is not at first."""
        from lab.kernel.plug import unplug

        for iface in self._movable():
            if not iface.plugged:
                unplug(self.namespace, iface.name, [str(iface.ipv4)])

    async def move_to(self, place: str | LabNode) -> MoveRecord:
        """Pull the link to where the client is and plug in the one to `place`, a neighbour, as of a laptop on its way.

        It gets the address and the default route that it has there and loses the ones before.  Its programs are not
        told: a tunnel stays as it was, until its keepalives or `connect_tunnel` end it.
        """
        from lab.kernel import plug
        from lab.kernel.settle import PATIENCE_S

        name = place if isinstance(place, str) else place.name
        there = next((i for i in self._movable() if i.peer == name), None)
        if there is None:
            way_out = f"it can be at {', '.join(self.places)}" if self.places else "its links are all plugged in"
            raise UsageError(f"{self.name} cannot move to {name}: {way_out} (net.link(..., plugged=False))")
        at = self.lab.now()
        if self._place is not None:
            plug.unplug(self.namespace, self._place.name, [str(self._place.ipv4)])
        known = {
            step.address: step.mac
            for step in self.lab.plan.steps
            if isinstance(step, AddNeighbor) and (step.node, step.iface) == (self.name, there.name)
        }
        plug.plug(self.namespace, there.name, str(there.ipv4), there.gateway, known)
        self._place = there
        if any(node.name == self.name for node in self.lab.plan.nodes):  # a student's own Mininet network has no plan
            self.lab.plan = self.lab.plan.moved(self.name, name)
        latest = self.lab.now() + PATIENCE_S
        while not plug.carries(self.namespace, there.name):
            if self.lab.now() > latest:
                raise LabError(f"the link from {self.name} to {name} carries no packets {PATIENCE_S:g} s later")
            await asyncio.sleep(0.001)
        self.log.info("is at %s now, with %s", name, self.ipv4)
        return self.lab.record(MoveRecord(self.name, at, place=name, iface=there.name, address=self.ipv4))
