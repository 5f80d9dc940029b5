"""A topology's broker options become settings."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from lab.actors.settings import check_brokers, settings_from_options
from lab.errors import UsageError
from lab.topology.network import Network
from lab.topology.planner import make_plan
from lab.tsp import Mechanism

ADDRESS = IPv4Address("192.0.2.1")


def test_options_reach_the_field_they_name() -> None:
    made = settings_from_options("broker", ADDRESS, {"mtu": 1400, "tunnels_per_ipv4": 2, "realm": "uni"})
    assert made.mtu == 1400
    assert made.limits.tunnels_per_ipv4 == 2
    assert made.session.realm == "uni"
    assert made.session.name == "broker"


def test_anonymous_can_be_switched_off() -> None:
    made = settings_from_options("broker", ADDRESS, {"anonymous": False})
    assert Mechanism.ANONYMOUS not in made.session.mechanisms
    assert Mechanism.DIGEST_MD5 in made.session.mechanisms


def test_an_option_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="no option speed; it has .*lifetime_min.*tunnels_per_ipv4"):
        settings_from_options("broker", ADDRESS, {"speed": 9})


@pytest.mark.parametrize(
    "options",
    [
        {"mtu": 1279},
        {"mtu": 70000},
        {"lifetime_min": 0},
        {"port": 0},
        {"port": 65536},
        {"device": "a/b"},
        {"shortest_prefix": 65},
        {"setups": 0},
        {"datagrams_per_s": 0},
        {"tunnels": -1},
        {"realm": 'a "quoted" one'},
    ],
)
def test_a_value_out_of_range_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="^broker: "):
        settings_from_options("broker", ADDRESS, options)


@pytest.mark.parametrize(
    "key", ["mtu", "lifetime_min", "setups", "idle_intervals", "shortest_prefix", "device", "realm"]
)
@pytest.mark.parametrize("value", [None, True, b"1", [1], float("nan")])
def test_a_value_of_another_type_is_refused(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^broker: {key}=.* does not fit; it is a (int|float|str)$"):
        settings_from_options("broker", ADDRESS, {key: value})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speed": 9}, "no option speed"),
        ({"setups": "many"}, "setups='many' does not fit; it is a int"),
        ({"users": {"an:n": "secret"}}, "'an:n' is no user name"),
    ],
)
def test_the_brokers_of_a_plan_are_checked_before_anything_is_built(options: dict[str, Any], told: str) -> None:
    net = Network("mine")
    net.link(net.client("laptop"), net.broker("broker", **options))
    with pytest.raises(UsageError, match=told):
        check_brokers(make_plan(net))


def test_a_broker_in_order_passes() -> None:
    net = Network("mine")
    net.link(net.client("laptop"), net.broker("broker", users={"ann": "x"}, shortest_prefix=40, mtu=1400, burst=3))
    check_brokers(make_plan(net))
