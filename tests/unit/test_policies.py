"""Which firewall policies there are, how they are joined, and what is said of those that are not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lab import PolicyName
from lab.errors import UsageError
from lab.generators.mechanisms import SIXRD_PREFIX
from lab.rules import catalogue
from lab.rules.catalogue import FILTERS
from lab.rules.firewall import POLICIES, check_policy, firewall_ruleset
from lab.topology import catalog

MECHANISMS = {"native_ipv6", "6in4", "6over4", "6rd", "6to4", "isatap", "teredo", "tsp_control", "tsp_data", "ayiya"}


def rules(policy: str | tuple[str, ...], chain: str) -> list[str]:
    """The rules of a chain, in order."""
    found = re.search(rf"chain {chain} {{\n.*\n((?:.*\n)*?)\t}}", firewall_ruleset(policy))
    return [] if found is None else [line.strip() for line in found[1].splitlines()]


def named(policy: str | tuple[str, ...], chain: str) -> list[str]:
    """Whose rules a chain has, in order, each named once."""
    names = [re.findall(r'comment "(\w+)"', rule)[0] for rule in rules(policy, chain)]
    return list(dict.fromkeys(names))


def test_every_mechanism_of_rfc_7123_can_be_dropped_and_rejected() -> None:
    for mechanism in MECHANISMS:
        assert FILTERS[mechanism].section.startswith(("2", "3"))
        assert {f"drop_{mechanism}", f"reject_{mechanism}"} <= set(POLICIES)


def test_every_filter_says_what_it_stops() -> None:
    for filter_ in FILTERS.values():
        assert filter_.text
        assert filter_.note.endswith(".")
        assert re.fullmatch(r"|[23](\.\d)?", filter_.section)


def test_joined_policies_are_asked_in_their_order_and_those_that_leave_nothing_last() -> None:
    assert named("drop_teredo+reject_tsp_control", "forward") == ["drop_teredo", "reject_tsp_control", "allow"]
    assert named(("reject_tcp_3653", "drop_ayiya"), "forward") == ["reject_tcp_3653", "drop_ayiya", "allow"]
    assert check_policy("drop_all+reject_teredo") == "reject_teredo+drop_all"
    assert named("drop_by_default+drop_teredo", "forward") == ["drop_teredo", "allow", "drop_by_default"]


def test_protocol_41_keeps_its_order_where_some_of_it_is_answered() -> None:
    policy = "drop_6to4+reject_proto41+drop_udp_3653"
    assert named(policy, "prerouting") == ["drop_6to4", "reject_proto41"]
    assert named(policy, "forward") == ["not_answered", "drop_udp_3653", "allow"]
    assert named("drop_6to4+drop_proto41", "prerouting") == []


def test_the_inside_interfaces_may_have_other_names() -> None:
    assert 'iifname "br-lan" ip protocol 41' in firewall_ruleset("drop_6to4", inside="br-lan")


def test_the_6rd_prefix_is_the_one_of_the_generated_packets() -> None:
    assert catalogue.SIXRD_PREFIX == SIXRD_PREFIX


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("drop_terredo", "did you mean drop_teredo"),
        ("reject_tsp_contrl", "did you mean reject_tsp_control"),
        ("nonsense", "there is allow, and drop_ or reject_ with any of native_ipv6, proto41"),
        ("", "there is no firewall policy ''"),
        ("drop_teredo+", "there is no firewall policy ''"),
        ("allow+drop_teredo", "cannot be combined"),
        ("drop_teredo+reject_teredo", "teredo can be dropped or rejected, and once"),
        ("drop_all+reject_by_default", "leaves nothing for reject_by_default"),
    ],
)
def test_a_policy_without_sense_is_refused(policy: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_policy(policy)


@pytest.mark.parametrize("policy", [3, None, ["allow", 3]])
def test_what_is_no_name_of_a_policy_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="a policy is a name, or several, not "):
        check_policy(policy)


def test_no_policy_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="has a policy"):
        check_policy(())


def test_a_parameter_of_the_type_policyname_is_checked_before_anything_is_built(tmp_path: Path) -> None:
    file = tmp_path / "guarded.py"
    file.write_text(
        '''"""A firewall."""
from lab import Network, PolicyName


def build(net: Network, policy: PolicyName = "allow") -> None:
    raise AssertionError("not reached")


async def scenario(net) -> None: ...


def check(run) -> None: ...
'''
    )
    module = catalog.load(str(file))
    assert module.parameters["policy"].describe() == "policy: str = 'allow'"
    assert catalog.bind_parameters(module, {"policy": "drop_all+drop_teredo"}) == {"policy": "drop_teredo+drop_all"}
    with pytest.raises(UsageError, match="policy=drop_terredo: there is no firewall policy 'drop_terredo'; did you"):
        catalog.bind_parameters(module, {"policy": "drop_terredo"})


def test_a_policy_name_is_a_string_to_a_type_checker() -> None:
    policy: PolicyName = "allow"
    assert policy in POLICIES
