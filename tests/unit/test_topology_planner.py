"""From a network to a plan: addresses, routes, and the mistakes that only the whole picture shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import TopologyError
from lab.topology.network import Network
from lab.topology.plan import (
    AddAddress,
    AddBridge,
    AddLink,
    AddNode,
    AddRoute,
    LoadRules,
    Plan,
    SetSysctl,
    SetUp,
    Shape,
)
from lab.topology.planner import make_plan
from lab.topology.ranges import Ranges
from tests.unit.shapes import ALL, core, direct, home_nat, roaming


@pytest.fixture(params=list(ALL))
def plan(request: pytest.FixtureRequest) -> Plan:
    return make_plan(ALL[request.param]())


class Walker:
    """Follows a packet through a plan by its addresses and routes alone."""

    def __init__(self, plan: Plan) -> None:
        self.owner: dict[str, str] = {}
        self.addresses: dict[str, list[Any]] = {node.name: [] for node in plan.nodes}
        self.routes: dict[str, list[AddRoute]] = {node.name: [] for node in plan.nodes}
        for step in plan.steps:
            if isinstance(step, AddAddress):
                interface = ip_interface(step.address)
                assert str(interface.ip) not in self.owner, f"{interface.ip} is given twice"
                self.owner[str(interface.ip)] = step.node
                self.addresses[step.node].append(interface)
            elif isinstance(step, AddRoute):
                self.routes[step.node].append(step)

    def path(self, source: str, to: str) -> list[str]:
        """The nodes a packet from `source` to an address passes; it ends where there is no way on."""
        address, here, path = ip_address(to), source, [source]
        while self.owner[to] != here and len(path) < 64:
            if any(address in interface.network for interface in self.addresses[here]):
                path.append(self.owner[to])
                break
            fitting = [r for r in self.routes[here] if address in ip_network(r.dst)]
            if not fitting:
                break
            best = max(fitting, key=lambda route: ip_network(route.dst).prefixlen)
            assert best.via is not None
            here = self.owner[best.via]
            path.append(here)
        return path

    def reaches(self, source: str, to: str) -> bool:
        return self.path(source, to)[-1] == self.owner[to]


# --- every plan ------------------------------------------------------------------------------------------------


def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(json.loads(plan.dumps())) == plan


def test_planning_twice_gives_the_same_plan(plan: Plan) -> None:
    assert make_plan(ALL[plan.name]()) == plan


def test_steps_come_in_an_order_that_works(plan: Plan) -> None:
    nodes: set[str] = set()
    interfaces: set[tuple[str, str, int]] = set()
    addresses: dict[str, list[Any]] = {}
    up: set[tuple[str, str]] = set()
    for step in plan.steps:
        match step:
            case AddNode(node):
                assert node not in nodes
                nodes.add(node)
            case AddLink():
                for end in ((step.a, step.a_iface, step.a_index), (step.b, step.b_iface, step.b_index)):
                    assert end[0] in nodes
                    assert end not in interfaces
                    interfaces.add(end)
            case AddAddress(node, iface, index, address):
                assert (node, iface, index) in interfaces
                addresses.setdefault(node, []).append(ip_interface(address))
            case SetUp(node, iface, index):
                up.add((node, iface))
            case AddRoute(node, dst, via, iface, index):
                assert (node, iface, index) in interfaces
                assert (node, iface) in up
                assert via is not None
                assert any(ip_address(via) in own.network and str(own.ip) != via for own in addresses[node])
                assert ip_network(dst).version == ip_address(via).version
            case Shape(node, iface, index):
                assert (node, iface, index) in interfaces
            case SetSysctl(node) | LoadRules(node):
                assert node in nodes


def test_names_indexes_and_macs_are_unique(plan: Plan) -> None:
    links = [step for step in plan.steps if isinstance(step, AddLink)]
    ends = [(s.a, s.a_iface, s.a_index, s.a_mac) for s in links] + [(s.b, s.b_iface, s.b_index, s.b_mac) for s in links]
    assert len({(node, iface) for node, iface, _, _ in ends}) == len(ends)
    assert len({(node, index) for node, _, index, _ in ends}) == len(ends)
    macs = [mac for _, _, _, mac in ends]
    assert len(set(macs)) == len(macs)
    for mac in macs:
        first = int(mac[:2], 16)
        assert first & 0b11 == 0b10, "locally administered, and of one station"
    assert all(len(iface) <= 15 for _, iface, _, _ in ends)


def test_all_addresses_are_for_documentation_or_private(plan: Plan) -> None:
    allowed = [
        ip_network(prefix)
        for prefix in (
            "192.0.2.0/24",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "2001:db8::/32",
        )
    ]
    for address in Walker(plan).owner:
        assert any(ip_address(address) in prefix for prefix in allowed), address


def test_every_client_reaches_every_broker(plan: Plan) -> None:
    walker = Walker(plan)
    for client in (node for node in plan.nodes if node.kind == "client"):
        for broker in (node for node in plan.nodes if node.kind == "broker"):
            assert broker.ipv4 is not None
            assert walker.reaches(client.name, broker.ipv4)


def test_whatever_has_ipv6_reaches_whatever_has_ipv6(plan: Plan) -> None:
    walker = Walker(plan)
    speakers = [node for node in plan.nodes if node.ipv6]
    for one in speakers:
        for two in speakers:
            assert two.ipv6 is not None
            assert walker.reaches(one.name, two.ipv6)


def test_node_plans_tell_what_the_steps_do(plan: Plan) -> None:
    told = {
        (node.name, i.name, address)
        for node in plan.nodes
        for i in node.interfaces
        for address in (i.ipv4, i.ipv6)
        if address
    }
    assert told == {(s.node, s.iface, s.address) for s in plan.steps if isinstance(s, AddAddress)}


def test_every_nat_and_firewall_gets_rules_and_nobody_else(plan: Plan) -> None:
    boxes = {node.name for node in plan.nodes if node.kind in ("nat", "firewall")}
    assert {step.node for step in plan.steps if isinstance(step, LoadRules)} == boxes


def test_a_client_that_moves_has_a_gateway_in_every_place_and_one_default_route() -> None:
    plan = make_plan(roaming())
    laptop = plan.node("laptop")
    assert [(i.peer, i.plugged) for i in laptop.interfaces] == [("home", True), ("cafe", False), ("campus", False)]
    for interface in laptop.interfaces:
        there = {i.peer: i.ipv4 for i in plan.node(interface.peer).interfaces}["laptop"]
        assert interface.gateway == str(there).partition("/")[0]
    routes = [step for step in plan.steps if isinstance(step, AddRoute) and step.node == "laptop"]
    assert [(route.dst, route.iface) for route in routes] == [("0.0.0.0/0", "eth0")]
    assert laptop.ipv4 == "192.168.0.2"
    assert all(i.plugged and i.gateway is None for i in plan.node("phone").interfaces)


@pytest.mark.parametrize(
    ("plugged", "told"),
    [((True, True), "is at home and cafe at first"), ((False, False), "is nowhere at first; leave plugged=False out")],
)
def test_a_client_that_moves_is_in_one_place_at_first(plugged: tuple[bool, bool], told: str) -> None:
    net = Network()
    for name in ("home", "cafe", "campus"):
        net.router(name)
        net.link(name, net.client("laptop") if name == "home" else "laptop", plugged=name != "campus" and plugged[0])
    net.link("home", "cafe")
    net.link("cafe", "campus")
    with pytest.raises(TopologyError, match=f"laptop moves, and {told}") as caught:
        make_plan(net)
    assert caught.value.node == "laptop"


# --- addresses and names as people expect them -----------------------------------------------------------------


def addresses(plan: Plan, node: str) -> dict[str, tuple[str | None, str | None]]:
    return {i.name: (i.ipv4, i.ipv6) for i in plan.node(node).interfaces}


def test_a_home_has_the_addresses_a_textbook_would_give_it() -> None:
    plan = make_plan(home_nat())
    assert addresses(plan, "laptop") == {"eth0": ("192.168.0.2/24", None)}
    assert addresses(plan, "nat") == {"lan0": ("192.168.0.1/24", None), "wan0": ("192.0.2.2/24", None)}
    assert addresses(plan, "internet") == {"eth0": ("192.0.2.1/24", None), "eth1": ("198.51.100.1/24", None)}
    assert addresses(plan, "broker") == {"eth0": ("198.51.100.2/24", None), "eth1": (None, "2001:db8:0:1::1/64")}
    assert addresses(plan, "server") == {"eth0": (None, "2001:db8:0:1::2/64")}
    assert (plan.node("nat").ipv4, plan.node("broker").ipv4) == ("192.0.2.2", "198.51.100.2")
    assert plan.node("nat").options["outside"] == "wan0"
    assert plan.node("nat").options["inside"] == ["lan0"]
    assert [i.role for i in plan.node("nat").interfaces] == ["inside", "outside"]


def test_default_routes_lead_outwards() -> None:
    routes = [step for step in make_plan(home_nat()).steps if isinstance(step, AddRoute)]
    assert {(r.node, r.dst, r.via) for r in routes} == {
        ("laptop", "0.0.0.0/0", "192.168.0.1"),
        ("nat", "0.0.0.0/0", "192.0.2.1"),
        ("broker", "0.0.0.0/0", "198.51.100.1"),
        ("server", "::/0", "2001:db8:0:1::1"),
    }


def test_nothing_outside_a_nat_has_a_route_to_its_inside() -> None:
    plan = make_plan(ALL["carrier_nat"]())
    walker = Walker(plan)
    for node in ("internet", "broker", "carrier"):
        assert not walker.reaches(node, "192.168.0.2")
    assert not walker.reaches("internet", plan.node("home").ipv4 or "")


def test_between_two_nats_the_shared_range_is_used() -> None:
    plan = make_plan(ALL["carrier_nat"]())
    assert addresses(plan, "home")["wan0"][0] == "100.64.0.2/24"
    assert addresses(plan, "carrier")["lan0"][0] == "100.64.0.1/24"
    assert addresses(plan, "laptop")["eth0"][0] == "192.168.0.2/24"


def test_a_slaac_network_has_no_planned_address_and_its_client_forwards_ipv6() -> None:
    plan = make_plan(ALL["routed_lan"]())
    assert addresses(plan, "tablet") == {"eth0": (None, None)}
    assert addresses(plan, "gateway")["eth0"] == (None, None)
    assert plan.node("gateway").options["lans"] == ["eth0"]
    sysctls = {(s.node, s.key): s.value for s in plan.steps if isinstance(s, SetSysctl)}
    assert sysctls["gateway", "net/ipv6/conf/all/forwarding"] == "1"
    assert sysctls["tablet", "net/ipv6/conf/default/accept_ra"] == "1"


def test_nodes_without_ipv6_have_it_switched_off() -> None:
    plan = make_plan(home_nat())
    off = {s.node: s.key for s in plan.steps if isinstance(s, SetSysctl) and "disable_ipv6" in s.key}
    assert off["internet"] == off["nat"] == "net/ipv6/conf/all/disable_ipv6"
    assert off["laptop"] == "net/ipv6/conf/eth0/disable_ipv6", "its tunnel needs IPv6"
    assert "server" not in off


def test_a_dual_stack_link_carries_both_families() -> None:
    plan = make_plan(ALL["ring"]())
    assert all(address for address in addresses(plan, "server")["eth0"])
    assert addresses(plan, "web")["eth0"][1] is None, "its router speaks IPv4 only"


def test_two_homes_never_share_a_prefix() -> None:
    plan = make_plan(ALL["home_lan"]())
    assert addresses(plan, "carol")["eth0"][0] == "192.168.1.2/24"
    assert addresses(plan, "ann")["eth0"][0] == "192.168.0.2/24"
    assert addresses(plan, "bob")["eth0"][0] == "192.168.0.3/24"


def test_a_switch_bridges_its_ports() -> None:
    plan = make_plan(ALL["home_lan"]())
    bridge = next(step for step in plan.steps if isinstance(step, AddBridge) and step.node == "switch")
    assert bridge.ports == ("p0", "p1", "p2")
    assert {step.iface for step in plan.steps if isinstance(step, SetUp) and step.node == "switch"} == {
        "p0",
        "p1",
        "p2",
        "br0",
    }


def test_routers_know_every_segment_and_the_pools() -> None:
    plan = make_plan(ALL["ipv6_backbone"]())
    routes = {(s.node, s.dst): s.via for s in plan.steps if isinstance(s, AddRoute)}
    assert routes["internet", "2001:db8:f000::/36"] == plan.node("first").ipv6
    assert routes["internet", "2001:db8:e000::/36"] == plan.node("second").ipv6


def test_an_impaired_link_is_shaped_at_both_ends() -> None:
    shapes = [step for step in make_plan(home_nat()).steps if isinstance(step, Shape)]
    assert {(s.node, s.iface) for s in shapes} == {("nat", "wan0"), ("internet", "eth0")}
    assert {s.delay_ms for s in shapes} == {20.0}


def test_a_chosen_prefix_is_used_and_the_rest_avoids_it() -> None:
    net = Network()
    core(net)
    net.client("laptop")
    net.link("laptop", "internet", ipv4="192.0.2.0/25")
    plan = make_plan(net)
    assert plan.node("laptop").ipv4 == "192.0.2.2"
    for address in Walker(plan).owner:
        if address not in ("192.0.2.1", "192.0.2.2") and ":" not in address:
            assert ip_address(address) not in IPv4Network("192.0.2.0/25")


def test_two_homes_may_choose_the_same_prefix() -> None:
    """They never meet, as in life."""
    net = Network()
    core(net)
    for number in (1, 2):
        net.nat(f"nat{number}")
        net.client(f"c{number}")
        net.link(f"c{number}", f"nat{number}", ipv4="192.168.1.0/24")
        net.link(f"nat{number}", "internet")
    plan = make_plan(net)
    assert plan.node("c1").ipv4 == plan.node("c2").ipv4 == "192.168.1.2"


def test_an_ipv6_prefix_can_be_chosen() -> None:
    net = Network()
    core_less = net.broker("broker")
    net.host("server")
    net.link(core_less, "server", ipv6="2001:db8:1234:5678::/64")
    assert make_plan(net).node("server").ipv6 == "2001:db8:1234:5678::2"


def test_a_firewall_between_router_and_broker_can_be_turned_round() -> None:
    net = Network()
    net.router("internet")
    net.broker("broker")
    net.firewall("wall", outside="internet")
    net.client("laptop")
    net.link("laptop", "internet")
    net.link("internet", "wall")
    net.link("wall", "broker")
    plan = make_plan(net)
    assert plan.node("wall").options["outside"] == "wan0"
    assert next(i.peer for i in plan.node("wall").interfaces if i.name == "wan0") == "internet"


def test_a_host_with_a_choice_of_gateways_takes_the_one_towards_the_core() -> None:
    """Beside its default it learns which networks lie behind the other."""
    net = Network()
    core(net)
    net.switch("switch")
    net.router("inner")
    net.client("laptop")
    net.client("far")
    for name in ("internet", "inner", "laptop"):
        net.link(name, "switch")
    net.link("inner", "far")
    plan = make_plan(net)
    walker = Walker(plan)
    far = plan.node("far").ipv4 or ""
    assert walker.path("laptop", far) == ["laptop", "inner", "far"]
    assert walker.path("laptop", plan.node("broker").ipv4 or "")[1] == "internet"


def test_a_gateway_can_be_chosen() -> None:
    net = Network()
    core(net)
    net.router("second")
    net.client("laptop", gateway="second")
    net.link("second", "internet")
    net.link("laptop", "internet")
    net.link("laptop", "second")
    plan = make_plan(net)
    assert Walker(plan).path("laptop", plan.node("broker").ipv4 or "")[1] == "second"


# --- mistakes --------------------------------------------------------------------------------------------------


def lonely(net: Network) -> None:
    core(net)
    net.client("laptop")


def two_islands(net: Network) -> None:
    core(net)
    net.link(net.client("ann"), net.client("bob"))


def nat_without_inside(net: Network) -> None:
    core(net)
    net.link(net.nat("nat"), "internet")


def nat_without_core(net: Network) -> None:
    net.nat("nat")
    net.link("nat", net.client("laptop"))
    net.link("nat", net.host("web"))


def nat_between_brokers(net: Network) -> None:
    net.nat("nat")
    net.link("nat", net.broker("one"))
    net.link("nat", net.broker("two", pool="2001:db8:e000::/36"))


def nat_with_a_stranger_outside(net: Network) -> None:
    core(net)
    net.nat("nat", outside="broker")
    net.link(net.client("laptop"), "nat")
    net.link("nat", "internet")


def nat_gone_around(net: Network) -> None:
    core(net)
    net.nat("nat", outside="internet")
    net.router("home")
    net.link("home", "nat")
    net.link("nat", "internet")
    net.link("home", "internet")


def two_nats_of_one_lan(net: Network) -> None:
    core(net)
    net.switch("lan")
    net.client("laptop")
    net.link("laptop", "lan")
    for name in ("one", "two"):
        net.nat(name, outside="internet")
        net.link(name, "lan")
        net.link(name, "internet")


def two_homes_of_a_client(net: Network) -> None:
    core(net)
    net.router("other")
    net.link("other", "internet")
    net.client("laptop")
    net.link("laptop", "internet")
    net.link("laptop", "other")


def wrong_gateway(net: Network) -> None:
    core(net)
    net.link(net.client("laptop", gateway="broker"), "internet")


def nothing_in_common(net: Network) -> None:
    core(net)
    net.link(net.host("six", ipv6_only=True), "internet")


def alone_on_a_switch(net: Network) -> None:
    core(net)
    net.link("internet", net.switch("switch"))


def switches_in_a_loop(net: Network) -> None:
    core(net)
    for name in ("a", "b", "c"):
        net.switch(name)
    net.link("a", "b")
    net.link("b", "c")
    net.link("c", "a")
    net.link("internet", "a")
    net.link(net.client("laptop"), "b")


def twice_on_one_segment(net: Network) -> None:
    core(net)
    net.switch("a")
    net.switch("b")
    net.link("a", "b")
    net.link("internet", "a")
    net.link("internet", "b")
    net.link(net.client("laptop"), "b")


def slaac_without_client(net: Network) -> None:
    core(net)
    net.link(net.host("phone", slaac=True), "internet")


def slaac_among_others(net: Network) -> None:
    core(net)
    net.switch("lan")
    net.client("gateway")
    net.link("gateway", "internet")
    net.link("gateway", "lan")
    net.link(net.host("phone", slaac=True), "lan")
    net.link(net.host("web"), "lan")


def overlapping_prefixes(net: Network) -> None:
    core(net)
    net.link(net.client("ann"), "internet", ipv4="203.0.113.0/24")
    net.link(net.client("bob"), "internet", ipv4="203.0.113.128/25")


def inside_overlaps_outside(net: Network) -> None:
    core(net)
    net.nat("nat")
    net.link(net.client("ann"), "nat", ipv4="10.0.0.0/8")
    net.link("nat", "internet", ipv4="10.1.0.0/16")


def two_prefixes_of_one_switch(net: Network) -> None:
    core(net)
    net.switch("lan")
    net.link("internet", "lan", ipv4="203.0.113.0/24")
    net.link(net.client("ann"), "lan", ipv4="198.51.100.0/24")


def prefix_too_small(net: Network) -> None:
    core(net)
    net.link(net.client("ann"), "internet", ipv4="203.0.113.0/31")


def overlapping_pools(net: Network) -> None:
    core(net)
    net.link(net.broker("second"), "internet")


def pool_on_a_link(net: Network) -> None:
    net.link(net.broker("broker"), net.host("web"), ipv6="2001:db8:f000:1::/64")


def mtu_below_ipv6(net: Network) -> None:
    net.link(net.broker("broker"), net.host("web"), mtu=1279)


MISTAKES: dict[Callable[[Network], None], tuple[str | None, list[str]]] = {
    lonely: ("laptop", ["laptop has no link", "net.link('laptop', ...)"]),
    two_islands: ("ann", ["no path joins internet", "ann and bob"]),
    nat_without_inside: ("nat", ["needs an inside and an outside", "only to internet"]),
    nat_without_core: ("nat", ["no broker or router", "outside='web'"]),
    nat_between_brokers: ("nat", ["one and two both lead to one and two", "outside="]),
    nat_with_a_stranger_outside: ("nat", ["outside='broker' is not a neighbour", "laptop and internet"]),
    nat_gone_around: ("nat", ["one network on both sides", "around it"]),
    two_nats_of_one_lan: ("laptop", ["two gateways", "one and two"]),
    two_homes_of_a_client: ("laptop", ["two gateways", "internet and other", "gateway='internet'"]),
    wrong_gateway: ("laptop", ["gateway='broker' is no gateway", "internet"]),
    nothing_in_common: ("six", ["six speaks IPv6", "internet (a router) IPv4", "ipv6=True"]),
    alone_on_a_switch: ("internet", ["alone on switch"]),
    switches_in_a_loop: ("a", ["a, b and c form a loop"]),
    twice_on_one_segment: ("internet", ["linked to a and to b", "one segment"]),
    slaac_without_client: ("phone", ["slaac", "none is there"]),
    slaac_among_others: ("web", ["web shares the link of phone", "gateway"]),
    overlapping_prefixes: ("ann", ["203.0.113.0/24 of ann-internet overlaps 203.0.113.128/25 of bob-internet"]),
    inside_overlaps_outside: ("ann", ["10.0.0.0/8", "overlaps 10.1.0.0/16"]),
    two_prefixes_of_one_switch: ("internet", ["cannot be both 203.0.113.0/24", "198.51.100.0/24 (link ann-lan)"]),
    prefix_too_small: ("ann", ["203.0.113.0/31 is too small"]),
    overlapping_pools: ("second", ["pools of broker", "overlap", "pool=..."]),
    pool_on_a_link: ("broker", ["2001:db8:f000:1::/64", "overlaps the pool"]),
    mtu_below_ipv6: ("broker", ["mtu=1279", "1280"]),
    lambda net: None: (None, ["empty"]),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_named_with_its_node_and_the_way_out(mistake: Callable[[Network], None]) -> None:
    net = Network("mistaken")
    mistake(net)
    with pytest.raises(TopologyError) as caught:
        make_plan(net)
    node, told = MISTAKES[mistake]
    for part in told:
        assert part in str(caught.value)
    if node is not None:
        assert caught.value.node is not None
        assert caught.value.node == node or node in str(caught.value)


def test_exhausted_ranges_are_named() -> None:
    net = Network(ranges=Ranges(public_ipv4=("192.0.2.0/24",)))
    router = net.router("internet")
    for number in range(64):
        net.link(net.client(f"c{number}"), router)
    make_plan(net)
    net.link(net.client("last"), router)
    with pytest.raises(
        TopologyError, match=r"no public addresses are left for last-internet: .*192\.0\.2\.0/24 is used up"
    ):
        make_plan(net)


def test_inside_ranges_run_out_too() -> None:
    net = Network(ranges=Ranges(inside_ipv4=("192.168.0.0/23",)))
    core(net)
    net.nat("nat")
    net.link("nat", "internet")
    for number in range(3):
        net.link(net.client(f"c{number}"), "nat")
    with pytest.raises(TopologyError, match="no inside addresses are left for c2-nat"):
        make_plan(net)


# --- large and random ------------------------------------------------------------------------------------------


def star(size: int) -> Network:
    net = Network("star")
    core(net)
    for number in range(size):
        net.link(net.host(f"h{number}"), "internet")
    return net


def homes(size: int) -> Network:
    net = Network("homes")
    core(net)
    for number in range(size):
        net.nat(f"n{number}")
        net.link(net.client(f"c{number}"), f"n{number}")
        net.link(f"n{number}", "internet")
    return net


def lan(size: int) -> Network:
    net = Network("lan")
    core(net)
    net.nat("nat")
    net.switch("switch")
    net.link("nat", "internet")
    net.link("nat", "switch")
    for number in range(size):
        net.link(net.client(f"c{number}"), "switch")
    return net


@pytest.mark.parametrize("shape", [star, homes, lan])
def test_work_grows_no_faster_than_the_network(shape: Callable[[int], Network]) -> None:
    """Counted in function calls, which do not depend on the machine: four times the nodes, four times the work."""
    calls = [count_calls(shape(size)) for size in (60, 240)]
    assert calls[1] < 4.6 * calls[0]


def count_calls(net: Network) -> int:
    import sys

    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        if event == "call":
            count += 1

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        make_plan(net)
    finally:
        sys.setprofile(before)
    return count


def test_sixty_public_segments_fit_into_the_documentation_ranges() -> None:
    plan = make_plan(star(60))
    ranges = [IPv4Network(prefix) for prefix in Ranges().public_ipv4[:3]]
    for address in Walker(plan).owner:
        parsed = ip_address(address)
        assert isinstance(parsed, type(IPv6Network("::/0").network_address)) or any(parsed in r for r in ranges)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A tree of routers with some rings, homes, switches and hosts hung on it, and a broker."""
    net = Network("random")
    routers = draw(st.integers(1, 6))
    for number in range(routers):
        net.router(f"r{number}", ipv6=draw(st.booleans()))
        if number:
            net.link(f"r{number}", f"r{draw(st.integers(0, number - 1))}")
    for a in range(routers):
        for b in range(a):
            if frozenset((f"r{a}", f"r{b}")) not in net._links and draw(st.integers(0, 4)) == 0:
                net.link(f"r{a}", f"r{b}")
    net.broker("broker")
    net.link("broker", f"r{draw(st.integers(0, routers - 1))}")
    for number in range(draw(st.integers(1, 5))):
        at = f"r{draw(st.integers(0, routers - 1))}"
        what = draw(st.sampled_from(["client", "home", "cgn", "lan", "firewall"]))
        below = at
        if what in ("home", "cgn", "firewall"):
            box = net.firewall(f"f{number}") if what == "firewall" else net.nat(f"n{number}")
            net.link(box, at)
            below = box.name
        if what == "cgn":
            net.nat(f"m{number}")
            net.link(f"m{number}", below)
            below = f"m{number}"
        if what == "lan":
            net.switch(f"s{number}")
            net.link(f"s{number}", at)
            net.link(net.host(f"h{number}"), f"s{number}")
            below = f"s{number}"
        net.link(net.client(f"c{number}"), below)
    return net


@settings(max_examples=60, deadline=None)
@given(networks())
def test_in_any_network_every_client_reaches_everything_public(net: Network) -> None:
    plan = make_plan(net)
    assert Plan.from_json(json.loads(plan.dumps())) == plan
    walker = Walker(plan)
    private = [IPv4Network("192.168.0.0/16"), IPv4Network("100.64.0.0/10")]
    public = [a for a in walker.owner if ":" not in a and not any(ip_address(a) in p for p in private)]
    for client in (node.name for node in plan.nodes if node.kind == "client"):
        for address in public:
            assert walker.reaches(client, address)
        assert len(walker.path(client, plan.node("broker").ipv4 or "")) <= len(plan.nodes)


def test_a_direct_link_needs_no_router() -> None:
    plan = make_plan(direct())
    assert addresses(plan, "laptop") == {"eth0": ("192.0.2.2/24", None)}
    assert addresses(plan, "broker") == {"eth0": ("192.0.2.1/24", None)}
