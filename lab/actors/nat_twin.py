"""A NAT's twin: the same rules, sysctls and addresses in a namespace of its own, with probes on both sides.

A NAT is classified on its twin, not in the network that it is part of.  Probes in the network itself would leave
mappings, counts and entries of connection tracking behind, show up in captures, need interfaces that the topology has
not, and be delayed and lost on impaired links.  What makes a NAT behave as it does is its ruleset, its sysctls and the
kernel; the twin has all three, taken word for word from the plan that the network was built from.

    inside --- lan0 NAT wan0 --- outside

`inside` has the addresses of several inside hosts, `outside` those of two observers; each is one namespace, reached
through routes to single addresses, so it does not matter which subnets the hosts and the observers are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, Final

from lab.rules.nat_behaviour import Filtering, NatBehaviour, Pooling, Ports
from lab.rules.nat_found import Classification, expected
from lab.topology.plan import (
    AddAddress,
    AddLink,
    AddNode,
    AddRoute,
    LoadRules,
    NodePlan,
    Plan,
    SetSysctl,
    SetUp,
    Step,
)

NAT: Final = "twin"
INSIDE: Final = "inside"
OUTSIDE: Final = "outside"

_OBSERVED_FROM: Final = (IPv4Network("203.0.113.0/24"), IPv4Network("198.51.100.0/24"))
_INDEX: Final = 16
_OTHER_INDEX: Final = 17
_ANYWHERE: Final = "0.0.0.0/0"


@dataclass(frozen=True, slots=True)
class Twin:
    """The plan of a twin, and who is on it."""

    node: str
    """The NAT it is the twin of."""
    plan: Plan
    behaviour: NatBehaviour
    hosts: tuple[str, ...]
    """Inside addresses to probe from; two where the NAT has two inside hosts."""
    observers: tuple[str, str]
    """Outside addresses to probe from."""
    pool: tuple[str, ...]
    """Outside addresses of the NAT that are shared."""
    blocks: dict[str, tuple[int, int]]
    """First and last port of hosts with a block of ports."""
    asked: Classification
    """What probing should find."""


def twin(plan: Plan, node: str) -> Twin | None:
    """The twin of the NAT `node` of a plan; None when there is no inside host whose address a probe could take."""
    nat = plan.node(node)
    options = nat.options
    behaviour = NatBehaviour.make({key: options[key] for key in NatBehaviour().to_json()})
    hosts = _hosts(options)
    if not hosts:
        return None
    pool = tuple(share["address"] for share in options["shares"] if not share["alone"])
    outside = {host: _outside_of(host, options["shares"], behaviour, pool) for host in hosts}
    proto41 = options["proto41_address"]
    every = tuple(dict.fromkeys([*hosts, proto41] if proto41 else hosts))
    observers = _observers(plan, nat)
    return Twin(
        node=node,
        plan=Plan(f"{node}-twin", (), tuple(_steps(plan, nat, every, observers))),
        behaviour=behaviour,
        hosts=hosts,
        observers=observers,
        pool=pool,
        blocks={
            block["host"]: (block["first"], block["last"])
            for share in options["shares"]
            for block in share["blocks"]
            if behaviour.ports is Ports.BLOCK
        },
        asked=expected(
            behaviour,
            outside=outside,
            proto41_host=proto41,
            lasting=hosts[0] in _alone(options) and behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT,
        ),
    )


def _hosts(options: Any) -> tuple[str, ...]:
    """Two inside hosts, one of them with an outside address of its own if there is such a one."""
    hosts: list[str] = list(options["hosts"])
    return tuple(dict.fromkeys([*hosts[:1], *_alone(options)[:1], *hosts[1:]]))[:2]


def _alone(options: Any) -> list[str]:
    return [host for share in options["shares"] if share["alone"] for host in share["hosts"]]


def _outside_of(host: str, shares: Any, behaviour: NatBehaviour, pool: tuple[str, ...]) -> tuple[str, ...]:
    (share,) = (share for share in shares if host in share["hosts"])
    if behaviour.pooling is Pooling.ARBITRARY and not share["alone"]:
        return pool
    return (share["address"],)


def _observers(plan: Plan, nat: NodePlan) -> tuple[str, str]:
    """Two addresses that are neither the NAT's nor inside it."""
    taken = {IPv4Interface(step.address).ip for step in _addresses(plan, nat.name)}
    inside = [IPv4Interface(i.ipv4).network for i in nat.interfaces if i.role == "inside" and i.ipv4]
    free: list[str] = []
    for network in _OBSERVED_FROM:
        for address in network.hosts():
            if address not in taken and not any(address in prefix for prefix in inside):
                free.append(str(address))
                break
    assert len(free) == 2, "documentation addresses for the observers"
    return free[0], free[1]


def _addresses(plan: Plan, node: str) -> Iterator[AddAddress]:
    for step in plan.steps:
        if isinstance(step, AddAddress) and step.node == node and ":" not in step.address:
            yield step


def _steps(plan: Plan, nat: NodePlan, hosts: tuple[str, ...], observers: tuple[str, str]) -> Iterator[Step]:
    wan = next(i.name for i in nat.interfaces if i.role == "outside")
    lan = next(i for i in nat.interfaces if i.role == "inside" and i.ipv4)
    assert lan.ipv4 is not None
    gateway = str(IPv4Interface(lan.ipv4).ip)
    for name in (NAT, INSIDE, OUTSIDE):
        yield AddNode(name)
        yield SetSysctl(name, "net/ipv6/conf/all/disable_ipv6", "1")
    yield SetSysctl(INSIDE, "net/ipv4/conf/all/accept_local", "1")  # from one host to another, both here
    yield SetSysctl(INSIDE, "net/ipv4/conf/all/rp_filter", "0")
    for step in plan.steps:
        if isinstance(step, SetSysctl) and step.node == nat.name and not step.key.startswith("net/ipv6"):
            yield SetSysctl(NAT, step.key, step.value)
    yield AddLink(INSIDE, "eth0", _INDEX, _mac(1), NAT, lan.name, _INDEX, _mac(2))
    yield AddLink(NAT, wan, _OTHER_INDEX, _mac(3), OUTSIDE, "eth0", _INDEX, _mac(4))
    yield AddAddress(NAT, lan.name, _INDEX, lan.ipv4)
    for given in _addresses(plan, nat.name):
        if given.iface == wan:
            yield AddAddress(NAT, wan, _OTHER_INDEX, given.address)
    for node, iface, addresses in ((INSIDE, "eth0", hosts), (OUTSIDE, "eth0", observers)):
        for address in addresses:
            yield AddAddress(node, iface, _INDEX, f"{address}/32")
    for node, iface, index in ((INSIDE, "eth0", 16), (NAT, lan.name, 16), (NAT, wan, 17), (OUTSIDE, "eth0", 16)):
        yield SetUp(node, iface, index)
    yield AddRoute(INSIDE, f"{gateway}/32", None, "eth0", _INDEX)
    yield AddRoute(INSIDE, _ANYWHERE, gateway, "eth0", _INDEX)
    for host in hosts:
        yield AddRoute(NAT, f"{host}/32", None, lan.name, _INDEX)
    yield AddRoute(NAT, _ANYWHERE, None, wan, _OTHER_INDEX)
    yield AddRoute(OUTSIDE, _ANYWHERE, None, "eth0", _INDEX)
    for rules in plan.steps:
        if isinstance(rules, LoadRules) and rules.node == nat.name:
            yield LoadRules(NAT, rules.text)


def _mac(number: int) -> str:
    return f"02:00:ff:ff:00:{number:02x}"
