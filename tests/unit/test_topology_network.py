"""What a topology file may say, and what it is told when it makes no sense."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lab.errors import TopologyError
from lab.rules.nat_behaviour import Filtering, Mapping, Ports
from lab.topology.network import Network


def refused(say: Callable[[Network], Any]) -> TopologyError:
    """The error of saying this of a network that has a client, a nat and a router already."""
    net = Network("test")
    net.client("laptop")
    net.nat("nat")
    net.router("internet")
    net.link("laptop", "nat")
    with pytest.raises(TopologyError) as caught:
        say(net)
    return caught.value


@pytest.mark.parametrize(
    ("say", "node", "told"),
    [
        (lambda n: n.host("laptop"), "laptop", ["two nodes called 'laptop'", "a client"]),
        (lambda n: n.link("laptop", "internte"), "internte", ["no node 'internte'", "did you mean 'internet'?"]),
        (lambda n: n.link("laptop", "x"), "x", ["there are: laptop, nat, internet"]),
        (lambda n: n.link("laptop", "laptop"), "laptop", ["linked to itself"]),
        (lambda n: n.link("nat", "laptop"), "nat", ["linked already", "put a switch"]),
        (lambda n: n.client("Laptop"), "Laptop", ["cannot be a name", "1 to 15"]),
        (lambda n: n.client("a-name-of-16-chars"), "a-name-of-16-chars", ["cannot be a name"]),
        (lambda n: n.client(""), "", ["cannot be a name"]),
        (lambda n: n.client("../etc"), "../etc", ["cannot be a name"]),
        (lambda n: n.client(7), "7", ["cannot be a name"]),
        (
            lambda n: n.nat("b", mapping="symmetric"),
            "b",
            ["no mapping 'symmetric'", "EIM (endpoint independent)", "APDM"],
        ),
        (lambda n: n.nat("b", filtering="XXX"), "b", ["no filtering 'XXX'", "APDF (address and port dependent)"]),
        (lambda n: n.nat("b", preset="toaster"), "b", ["no preset 'toaster'", "home, old_home"]),
        (lambda n: n.nat("b", ports="overload", mapping="ADM"), "b", ["b: ports=overload", "EIM or APDM"]),
        (lambda n: n.firewall("f", policy="deny"), "f", ["no firewall policy 'deny'", "drop_ or reject_ with"]),
        (lambda n: n.broker("b", anonymous=False), "b", ["nobody could log in", "users"]),
        (lambda n: n.broker("b", users={"ann": 7}), "b", ["names and passwords"]),
        (lambda n: n.broker("b", pool="2001:db8::/33!"), None, ["b: pool=", "not an IPv6 prefix"]),
        (lambda n: n.broker("b", pool="2001:db8::/64"), "b", ["too small", "/60"]),
        (lambda n: n.broker("b", pool="ff00::/16"), None, ["cannot have addresses"]),
        (lambda n: n.host("h", slaac=True, ipv6_only=True), "h", ["slaac already means"]),
        (lambda n: n.link("laptop", Network().client("laptop")), "laptop", ["another network"]),
        (lambda n: n.link("laptop", None), None, ["nodes or names"]),
        (lambda n: n.link(n.router("a"), n.router("b"), plugged=False), "a", ["a-b", "client's link", "move to"]),
    ],
)
def test_a_mistake_is_named_where_it_is_made(say: Callable[[Network], Any], node: str | None, told: list[str]) -> None:
    error = refused(say)
    assert error.node == node
    for part in told:
        assert part in str(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("delay_ms", -1),
        ("delay_ms", math.nan),
        ("delay_ms", math.inf),
        ("delay_ms", 1e300),
        ("delay_ms", "20"),
        ("delay_ms", True),
        ("loss_pct", 100.1),
        ("loss_pct", -0.1),
        ("rate_mbit", -5),
        ("rate_mbit", 1e-9),
        ("rate_mbit", 1e9),
        ("mtu", 67),
        ("mtu", 65536),
        ("mtu", 1500.5),
        ("mtu", "1500"),
        ("ipv4", "192.0.2.1/24"),
        ("ipv4", "2001:db8::/64"),
        ("ipv4", "224.0.0.0/8"),
        ("ipv4", "127.0.0.0/24"),
        ("ipv6", "192.0.2.0/24"),
        ("ipv6", "fe80::/64"),
        ("ipv6", "::/0"),
    ],
)
def test_a_bad_link_option_is_named_with_its_link_and_value(option: str, value: object) -> None:
    options: dict[str, Any] = {option: value}
    error = refused(lambda net: net.link("laptop", "internet", **options))
    assert all(part in str(error) for part in ("laptop-internet", option, str(value)))


def test_jitter_beyond_the_delay_is_refused() -> None:
    error = refused(lambda net: net.link("laptop", "internet", delay_ms=5, jitter_ms=6))
    assert "jitter_ms=6 is more than delay_ms=5" in str(error)


def test_a_refused_link_leaves_the_network_as_it_was() -> None:
    net = Network()
    net.client("a")
    net.client("b")
    with pytest.raises(TopologyError):
        net.link("a", "b", loss_pct=101)
    assert net.links == ()
    net.link("a", "b")
    assert len(net.links) == 1


def test_nodes_may_be_given_by_name_or_as_they_are() -> None:
    net = Network()
    a, b = net.client("a"), net.broker("b")
    net.router("r")
    assert net.link(a, "r").name == "a-r"
    assert net.link("r", b).name == "r-b"


def test_options_are_kept_typed() -> None:
    net = Network()
    nat = net.nat("nat", mapping="APDM", filtering="APDF")
    assert nat.behaviour.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT
    assert nat.behaviour.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT
    assert net.nat("second", mapping=Mapping.ENDPOINT_INDEPENDENT).behaviour.mapping is Mapping.ENDPOINT_INDEPENDENT
    favoured = net.nat("third", preset="carrier", ports="random", proto41_host="ann", one_to_one=[net.client("ann")])
    assert favoured.preset == "carrier"
    assert favoured.behaviour.ports is Ports.RANDOM
    assert favoured.behaviour.filtering is Filtering.ADDRESS_DEPENDENT
    assert (favoured.behaviour.proto41_host, favoured.behaviour.one_to_one) == ("ann", ("ann",))
    broker = net.broker("broker", users={"ann": "secret"}, lifetime_min=5)
    assert broker.options == {"lifetime_min": 5}
    assert broker.pool.prefixlen == 36


def test_the_graph_carries_nodes_and_links() -> None:
    net = Network("n")
    laptop, broker = net.client("laptop"), net.broker("broker")
    link = net.link(laptop, broker, delay_ms=3)
    assert net.graph.nodes["laptop"]["node"] is laptop
    assert net.graph.edges["broker", "laptop"]["link"] is link


def test_describing_a_network_imports_no_networkx() -> None:
    """Topology files are imported by the agent too, where every import costs time."""
    code = "import sys; from lab.topology.network import Network; print('networkx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
