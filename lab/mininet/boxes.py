"""Nodes for a script of one's own: `net.addHost("home", cls=NatBox, outside="broker", ip=None)`.

All take, beside what every Mininet host takes, `ip6="2001:db8::2/64"` for the first interface, `defaultRoute6` and
`routes` ("198.51.100.0/24 via 192.0.2.1", ...); a link's `params1={"ip": ..., "ip6": ...}` gives addresses to its
interface.  IPv6 addresses work at once, and none comes from router advertisements.  What cannot be set is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, ClassVar, Final

from lab.errors import KernelRefused, UsageError
from lab.kernel import nft
from lab.mininet.base import FORWARD, QUIET, LabHost, TunnelMethods
from lab.mininet.running import running
from lab.rules.firewall import firewall_ruleset
from lab.rules.nat import nat_ruleset, nat_sysctls
from lab.rules.nat_behaviour import BehaviourError, NatBehaviour
from lab.rules.nat_presets import PRESETS
from lab.rules.nat_udp import NatPlace
from lab.topology.plan import InterfacePlan, NodePlan

_OF_MININET: Final = frozenset(
    "inNamespace privateDirs waitExited name ip mac cores sched cpu isSwitch ip6 defaultRoute defaultRoute6 "
    "routes lo hosts outside preset".split()
)
"""Parameters of a node that are no options of a NAT or broker."""


class Host(LabHost):
    """An end host; a Mininet Host with IPv6."""

    forwards: ClassVar[bool] = False

    def __init__(self, name: str, **params: Any) -> None:
        super().__init__(name, **params)
        self.namespace.sysctls({**QUIET, **(FORWARD if self.forwards else {})})

    def config(
        self,
        ip: str | None = None,
        ip6: str | None = None,
        defaultRoute: str | None = None,  # noqa: N803 - Mininet's name
        defaultRoute6: str | None = None,  # noqa: N803 - like it
        routes: Sequence[str] = (),
        **params: Any,
    ) -> dict[str, Any]:
        """Set addresses and routes.  Raises KernelRefused for what the kernel does not take."""
        first = self.defaultIntf()
        if first is not None and first.IP():
            ip = None  # its link has given it one, and Mininet's 10.0.0.N is only a default
        result: dict[str, Any] = super().config(ip=ip, **params) or {}
        for intf in self.intfList():
            self._take_address(intf, 4, intf.IP() and f"{intf.IP()}/{intf.prefixLen}")
            self._take_address(intf, 6, (ip6 if intf is first else None) or intf.params.get("ip6"))
        for family, route in (("-4", defaultRoute), ("-6", defaultRoute6)):
            if route:
                self._do(f"ip {family} route replace default {route if ' ' in route else f'dev {route}'}")
        for route in routes:
            self._do(f"ip route replace {route}")
        return result

    def _take_address(self, intf: Any, family: int, address: str | None) -> None:
        if not address or intf.name == "lo":
            return
        if family == 6:
            self._do(f"ip -6 address replace {address} dev {intf.name} nodad")
            return
        if f"inet {address} " not in self.pexec(f"ip -4 address show dev {intf.name}")[0]:
            raise KernelRefused(self.name, f"give {intf.name} the address {address}", 0, "it has not got it")

    def _do(self, command: str) -> None:
        _, said, status = self.pexec(command)
        if status != 0:
            raise KernelRefused(self.name, command, 0, said.strip())

    def node_plan(self) -> NodePlan:
        interfaces = tuple(self._interface(intf) for intf in self.intfList() if intf.name != "lo")
        return NodePlan(
            name=self.name,
            kind=self.kind,
            interfaces=interfaces,
            ipv4=_first(i.ipv4 for i in interfaces),
            ipv6=_first(i.ipv6 for i in interfaces),
            options=self.options(),
        )

    def _interface(self, intf: Any) -> InterfacePlan:
        ip6 = intf.params.get("ip6") or (self.params.get("ip6") if intf is self.defaultIntf() else None)
        return InterfacePlan(
            name=intf.name,
            peer=_peer(intf),
            ipv4=f"{intf.IP()}/{intf.prefixLen}" if intf.IP() else None,
            ipv6=ip6,
        )

    def options(self) -> dict[str, Any]:
        """What the node's program is told, from the node's own parameters."""
        return {}


class Router(Host):
    """A router of IPv4 and IPv6."""

    kind = "router"
    forwards = True


class TspClient(TunnelMethods, Host):
    """A machine that asks a broker for an IPv6 tunnel (RFC 5572)."""

    kind = "client"


class TspBroker(Host):
    """A tunnel broker and server, over UDP and TCP port 3653, from the moment the network is built.

    `pool` is what it hands out prefixes of, `users` passwords by name; further options are those of
    `lab.actors.settings`.  Routes to the pool are the script's business: a `defaultRoute6` to the broker will do.
    """

    kind = "broker"
    forwards = True

    def options(self) -> dict[str, Any]:
        given = {name: value for name, value in self.params.items() if name not in _OF_MININET}
        if "pool" not in given:
            raise UsageError(f'{self.name}: a broker needs a pool of addresses, as in pool="2001:db8:f000::/36"')
        return given

    def config(self, **params: Any) -> dict[str, Any]:  # type: ignore[override]
        result = super().config(**{name: value for name, value in params.items() if name not in self.options()})
        if self.node_plan().ipv4 is None:
            raise UsageError(f"{self.name}: a broker needs an IPv4 address; give it ip= or its link params")
        running().do(self.member.start_broker())
        return result

    def counters(self) -> dict[str, int]:
        """What the broker counted, by reason."""
        return self.member.broker_counters()


class _Box(Host):
    """A forwarding node with an inside, an outside and rules."""

    forwards = True

    def outside_interface(self) -> str:
        """The interface that `outside=` names, itself or by the neighbour on it; without it the last one."""
        names = {intf.name: _peer(intf) for intf in self.intfList() if intf.name != "lo"}
        if len(names) < 2:
            raise UsageError(f"{self.name}: a {self.kind} stands between two links; it has {len(names)}")
        wanted = self.params.get("outside")
        found = [name for name, peer in names.items() if wanted in (None, name, peer)]
        if not found:
            known = ", ".join(f"{name} (to {peer})" for name, peer in names.items())
            raise UsageError(f"{self.name}: outside={wanted!r} is none of its interfaces: {known}")
        return str(found[-1])

    def inside_interfaces(self) -> tuple[str, ...]:
        """All the others."""
        outside = self.outside_interface()
        return tuple(i.name for i in self.intfList() if i.name not in ("lo", outside))

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by the name of the rule that counted them."""
        return nft.counters(self.namespace)


class NatBox(_Box):
    """A NAT (RFC 4787): `mapping`, `filtering` and every other field of `lab.rules.nat_behaviour.NatBehaviour`.

    `preset` takes the behaviour of a real kind of box (`lab.rules.nat_presets`); `hosts` are the addresses of inside
    hosts, for those behaviours that give each its own ports.
    """

    kind = "nat"

    def options(self) -> dict[str, Any]:
        return {name: value for name, value in self.params.items() if name not in _OF_MININET}

    def config(self, **params: Any) -> dict[str, Any]:  # type: ignore[override]
        result = super().config(**{name: value for name, value in params.items() if name not in self.options()})
        outside, inside = self.outside_interface(), self.inside_interfaces()
        own = self.intf(outside).IP()
        if own is None:
            raise UsageError(f"{self.name}: its outside, {outside}, needs an IPv4 address")
        preset = self.params.get("preset")
        if preset is not None and preset not in PRESETS:
            raise UsageError(f"{self.name}: there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
        try:
            behaviour = NatBehaviour.make(self.options(), PRESETS[preset].options if preset is not None else None)
            place = NatPlace(
                outside=outside,
                inside=inside,
                addresses=(IPv4Address(own),),
                hosts=tuple(IPv4Address(host) for host in self.params.get("hosts", ())),
                networks=tuple(
                    IPv4Interface(f"{intf.IP()}/{intf.prefixLen}").network
                    for intf in map(self.intf, inside)
                    if intf.IP()
                ),
            )
            if behaviour.pool > 1 or behaviour.one_to_one or behaviour.proto41_host:
                raise UsageError(
                    f"{self.name}: pool, one_to_one and proto41_host need a planned network; describe it as a topology"
                )
            nft.load(self.namespace, nat_ruleset(behaviour, place))
        except BehaviourError as exc:
            raise UsageError(f"{self.name}: {exc}") from None
        self.namespace.sysctls(nat_sysctls(behaviour))
        return result


class Firewall(_Box):
    """A router that lets through what its `policy` does (`lab.rules.firewall.POLICIES`)."""

    kind = "firewall"

    def options(self) -> dict[str, Any]:
        return {"policy": self.params.get("policy", "allow")}

    def config(self, policy: str = "allow", **params: Any) -> dict[str, Any]:  # type: ignore[override]
        result = super().config(**params)
        self._load(policy)
        return result

    def set_policy(self, policy: str) -> None:
        """Replace the rules by those of `policy` in one atomic step.  Raises UsageError for one that is not there."""
        self._load(policy)
        self.member.policy = policy

    def _load(self, policy: str) -> None:
        inside = self.inside_interfaces()
        if len(inside) != 1:
            raise UsageError(f"{self.name}: a firewall in a script has one inside link and one outside; it has more")
        try:
            text = firewall_ruleset(policy, inside=inside[0])
        except ValueError as exc:
            raise UsageError(f"{self.name}: {exc}") from None
        nft.load(self.namespace, text)


def _peer(intf: Any) -> str:
    """The node at the other end of an interface's link."""
    if intf.link is None:
        return ""
    ends = (intf.link.intf1, intf.link.intf2)
    return next((str(end.node.name) for end in ends if end is not None and end is not intf), "")


def _first(addresses: Any) -> str | None:
    return next((address.split("/")[0] for address in addresses if address), None)
