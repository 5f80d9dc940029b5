"""A topology's broker options become settings."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from lab.actors.settings import settings_from_options
from lab.errors import UsageError
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


@pytest.mark.parametrize("options", [{"mtu": 1279}, {"mtu": 70000}, {"lifetime_min": 0}])
def test_a_number_out_of_range_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        settings_from_options("broker", ADDRESS, options)
