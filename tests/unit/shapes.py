"""Topologies as test data: those of the lessons, written down as the planner sees them, and some harder ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab.topology.network import Network


def core(net: Network) -> None:
    """A router, a broker with a user, and an IPv6 server behind it."""
    net.router("internet")
    net.broker("broker", users={"ann": "secret"})
    net.host("server", ipv6_only=True)
    net.link("internet", "broker")
    net.link("broker", "server")


def direct_6in4() -> Network:
    net = Network("direct_6in4")
    net.client("laptop")
    core(net)
    net.link("laptop", "internet")
    return net


def home_nat() -> Network:
    net = Network("home_nat")
    laptop = net.client("laptop")
    nat = net.nat("nat")
    internet = net.router("internet")
    broker = net.broker("broker", pool="2001:db8:f000::/36", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, nat)
    net.link(nat, internet, delay_ms=20)
    net.link(internet, broker)
    net.link(broker, server)
    return net


def tcp_setup() -> Network:
    net = direct_6in4()
    net.name = "tcp_setup"
    return net


def firewall_3653() -> Network:
    net = Network("firewall_3653")
    core(net)
    net.client("laptop")
    net.firewall("firewall", policy="drop_3653")
    net.link("laptop", "firewall")
    net.link("firewall", "internet", delay_ms=5, jitter_ms=1, loss_pct=0.5, rate_mbit=100)
    return net


def carrier_nat() -> Network:
    net = Network("carrier_nat")
    core(net)
    net.client("laptop")
    net.nat("home")
    net.nat("carrier", mapping="APDM")
    net.link("laptop", "home")
    net.link("home", "carrier")
    net.link("carrier", "internet")
    return net


def two_clients_one_nat() -> Network:
    net = Network("two_clients_one_nat")
    core(net)
    net.nat("nat")
    for name in ("ann", "bob"):
        net.client(name)
        net.link(name, "nat")
    net.link("nat", "internet", delay_ms=10)
    return net


def routed_lan() -> Network:
    net = Network("routed_lan")
    core(net)
    net.host("tablet", slaac=True)
    net.client("gateway")
    net.link("tablet", "gateway")
    net.link("gateway", "internet")
    return net


LESSONS: Final[dict[str, Callable[[], Network]]] = {
    shape.__name__: shape
    for shape in (direct_6in4, home_nat, tcp_setup, firewall_3653, carrier_nat, two_clients_one_nat, routed_lan)
}


def direct() -> Network:
    """Nothing but a client and a broker."""
    net = Network("direct")
    net.link(net.client("laptop"), net.broker("broker"))
    return net


def home_lan() -> Network:
    """A home with a switch, two clients and a slaac network behind one of them; twelve nodes with a second home."""
    net = Network("home_lan")
    core(net)
    net.nat("nat")
    net.switch("switch")
    net.link("nat", "switch")
    net.link("nat", "internet")
    for name in ("ann", "bob"):
        net.client(name)
        net.link(name, "switch")
    net.switch("lab")
    net.link("bob", "lab")
    for name in ("phone", "printer"):
        net.host(name, slaac=True)
        net.link(name, "lab")
    net.nat("other", mapping="APDM")
    net.client("carol")
    net.link("other", "internet", delay_ms=40)
    net.link("carol", "other")
    return net


def ring() -> Network:
    """Three routers in a ring, a client, a dual-stack host and a broker at different ones."""
    net = Network("ring")
    for name in ("west", "north", "east"):
        net.router(name)
    net.client("laptop")
    net.host("web")
    net.broker("broker")
    net.host("server")
    net.link("west", "north", delay_ms=5)
    net.link("north", "east")
    net.link("west", "east", delay_ms=15)
    net.link("laptop", "west")
    net.link("web", "north")
    net.link("broker", "east")
    net.link("broker", "server")
    return net


def ipv6_backbone() -> Network:
    """Two brokers and a server joined by a router that speaks IPv6 as well."""
    net = Network("ipv6_backbone")
    net.router("internet", ipv6=True)
    net.client("laptop")
    net.broker("first")
    net.broker("second", pool="2001:db8:e000::/36")
    net.host("server")
    for name in ("laptop", "first", "second", "server"):
        net.link("internet", name)
    return net


def mesh() -> Network:
    """Four routers, not all linked to all, with clients at three of them."""
    net = Network("mesh")
    for name in ("a", "b", "c", "d"):
        net.router(name)
    net.broker("broker")
    net.link("a", "broker")
    for name in ("b", "c", "d"):
        net.link("a", name)
        net.client(f"c{name}")
        net.link(f"c{name}", name)
    net.link("b", "c")
    net.link("b", "d", delay_ms=3)
    return net


def roaming() -> Network:
    """A client that is at home, and may be in a cafe or on a campus, where there is another."""
    net = Network("roaming")
    for name in ("laptop", "phone"):
        net.client(name)
    for name in ("home", "cafe"):
        net.nat(name)
    for name in ("campus", "internet"):
        net.router(name)
    net.broker("broker")
    net.link("laptop", "home")
    net.link("laptop", "cafe", plugged=False)
    net.link("laptop", "campus", delay_ms=5, plugged=False)
    net.link("phone", "campus")
    for place in ("home", "cafe", "campus"):
        net.link(place, "internet", delay_ms=20)
    net.link("internet", "broker")
    return net


HARDER: Final[dict[str, Callable[[], Network]]] = {
    shape.__name__: shape for shape in (direct, home_lan, ring, ipv6_backbone, mesh, roaming)
}

ALL: Final[dict[str, Callable[[], Network]]] = {**LESSONS, **HARDER}
