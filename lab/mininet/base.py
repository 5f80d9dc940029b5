"""What all nodes of the lab are in Mininet: a Node with IPv6 as it should be, and the lab's handle on its namespace."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final

from mininet.node import Node

from lab.errors import KernelRefused
from lab.kernel import netlink
from lab.kernel.namespace import Namespace
from lab.mininet.running import running
from lab.results import PingRecord, SetupRecord
from lab.scenario import LabNode
from lab.topology.plan import NodePlan

QUIET: Final = {
    # Addresses work at once, and come from the script alone.
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
FORWARD: Final = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


class LabHost(Node):
    """A Mininet node that the lab's programs can work in."""

    kind: ClassVar[str] = "host"

    def __init__(self, name: str, **params: Any) -> None:
        params["inNamespace"] = True
        super().__init__(name, **params)
        path = f"/proc/{self.pid}/ns/net"
        try:
            self.namespace = Namespace(name, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as exc:
            raise KernelRefused(name, f"open {path}", exc.errno or 0) from exc
        self._member: LabNode | None = None
        self.namespace.netlink.do([netlink.set_up("lo", 1)])

    def node_plan(self) -> NodePlan:
        """The node as the lab's programs see it."""
        raise NotImplementedError

    @property
    def member(self) -> LabNode:
        """This node in the lab: what a scenario calls `net["name"]`."""
        if self._member is None:
            self._member = running().lab.put(self.node_plan(), self.namespace)
        return self._member

    def stop_programs(self) -> None:
        """Stop the broker or the tunnel of this node."""
        if self._member is not None:
            running().do(self._member.stop())
            running().lab.forget(self._member)
            self._member = None

    def ping(self, to: Any, **options: Any) -> PingRecord:
        """Ping a node or an address, over IPv6 where both have it (see `lab.scenario.LabNode.ping`)."""
        target = to.member.name if isinstance(to, LabHost) else to if isinstance(to, str) else to.IP()
        return running().do(self.member.ping(target, **options))

    def terminate(self) -> None:
        """Stop everything and let the namespace go."""
        try:
            self.stop_programs()
        finally:
            self.namespace.close()
            super().terminate()

    def IP(self, intf: Any = None) -> str | None:  # noqa: N802 - Mininet's name
        """The address of an interface; without one, the address other nodes reach this one at, IPv6 if it must be."""
        if intf is not None:
            return super().IP(intf)  # type: ignore[no-any-return]
        return self.member.ipv4 or self.member.ipv6


class TunnelMethods:
    """What a client among Mininet's nodes can do; of any other node it is a UsageError."""

    member: LabNode

    def attempt_tunnel(self, broker: LabHost, **options: Any) -> SetupRecord:
        """Try to set up a tunnel; how it went.  Options as of `lab.scenario.LabNode.attempt_tunnel`."""
        return running().do(self.member.attempt_tunnel(broker.member, **options))

    def connect_tunnel(self, broker: LabHost, **options: Any) -> SetupRecord:
        """Set up a tunnel; raises TunnelRefused or LabError when there is none."""
        return running().do(self.member.connect_tunnel(broker.member, **options))

    def wait_tunnel_lost(self, timeout_s: float) -> bool:
        """Wait until the tunnel's keepalives call it dead, at most `timeout_s`; whether they have."""
        return running().do(self.member.wait_tunnel_lost(timeout_s))

    def disconnect_tunnel(self) -> None:
        """Take the tunnel down."""
        running().do(self.member.disconnect_tunnel())
