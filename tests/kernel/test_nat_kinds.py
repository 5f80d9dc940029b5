"""Each NAT is the NAT it says it is, on the real kernel; and one that is not is found out."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.actors.nat_prober import Probes, classify, classify_nats, refuse_mismatch
from lab.actors.nat_twin import twin
from lab.errors import NatMismatch
from lab.kernel.build import build
from lab.rules.nat import nat_ruleset
from lab.rules.nat_behaviour import Filtering
from lab.rules.nat_found import TIMER_TOLERANCE_S, Classification, differences
from lab.run import run
from lab.topology import planner
from lab.topology.network import Network
from lab.topology.plan import LoadRules, Plan, SetSysctl
from lab.topology.planner import make_plan
from tests.unit.nats import NATS

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft_nat", "conntrack", "raw")]


def one_nat(inside: tuple[str, ...] = ("ann", "bob"), **options: Any) -> Plan:
    """Hosts behind one NAT."""
    net = Network("one_nat")
    net.router("internet")
    net.link(net.host("observer"), "internet")
    net.link(net.nat("nat", **options), "internet")
    for name in inside:
        net.link(net.client(name), "nat")
    return make_plan(net)


def found(plan: Plan, *, timers: bool = False) -> dict[str, Any]:
    """The one row of the classification of a plan's one NAT."""
    (row,) = asyncio.run(classify_nats(plan, timers=timers))
    return row


def with_rules_of(other: Plan, plan: Plan) -> Plan:
    """The plan, its NAT with the rules and the sysctls of another."""
    rules = [step for step in other.steps if isinstance(step, LoadRules) or is_of_netfilter(step)]
    kept = [step for step in plan.steps if not isinstance(step, LoadRules) and not is_of_netfilter(step)]
    return replace(plan, steps=(*kept, *rules))


def is_of_netfilter(step: object) -> bool:
    return isinstance(step, SetSysctl) and step.key.startswith("net/netfilter")


@pytest.mark.parametrize("name", NATS)
def test_a_nat_is_what_was_asked_for(name: str) -> None:
    row = found(one_nat(**NATS[name]))
    assert row["wrong"] == []
    known = [key for key, value in row["found"].items() if value is not None]
    assert {"mapping", "filtering", "hairpinning", "ports", "overloading", "outside", "proto41_host"} <= set(known)


PORTS: tuple[dict[str, Any], ...] = (
    {"ports": "preserve"},
    {"ports": "preserve", "parity": True},
    {"ports": "random"},
    {"ports": "random", "parity": True},
    {"ports": "sequential"},
    {"ports": "block", "block_size": 64},
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mapping", ["EIM", "ADM", "APDM"])
@pytest.mark.parametrize("filtering", ["EIF", "ADF", "APDF"])
def test_with_any_hairpinning_refreshing_and_ports_a_nat_is_what_was_asked_for(mapping: str, filtering: str) -> None:
    wrong = {}
    for hairpinning, refresh, ports in itertools.product(("none", "external", "internal"), ("outbound", "both"), PORTS):
        options = {"hairpinning": hairpinning, "refresh": refresh, **ports}
        row = found(one_nat(mapping=mapping, filtering=filtering, **options))
        if row["wrong"]:
            wrong[str(options)] = row["wrong"]
    assert wrong == {}


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"mapping": "ADM"}, "mapping"),
        ({"mapping": "APDM"}, "mapping"),
        ({"filtering": "EIF"}, "filtering"),
        ({"filtering": "ADF"}, "filtering"),
        ({"hairpinning": "external"}, "hairpinning"),
        ({"hairpinning": "internal"}, "hairpinning"),
        ({"ports": "random"}, "ports"),
        ({"ports": "sequential"}, "ports"),
        ({"ports": "block"}, "ports"),
        ({"ports": "overload"}, "overloading"),
        ({"parity": True}, "parity"),
        ({"pool": 2}, "outside"),
        ({"pool": 2, "pooling": "arbitrary"}, "pooling"),
        ({"one_to_one": True}, "outside"),
        ({"proto41_host": "bob"}, "proto41_host"),
        ({"other_protocols": False}, "other_protocols"),
        ({"input_open": True}, "early_probe"),
    ],
)
def test_a_plain_nat_in_the_place_of_another_is_found_out(options: dict[str, Any], wrong: str) -> None:
    asked = one_nat(**options)
    row = found(with_rules_of(one_nat(), asked))
    assert wrong in row["wrong"]
    with pytest.raises(NatMismatch, match=f"nat is not the NAT that was asked for: .*{wrong}"):
        refuse_mismatch([row])


@pytest.mark.parametrize(
    ("asked", "built", "wrong"),
    [
        ({"ports": "random", "parity": True}, {"ports": "random"}, "parity"),
        ({"ports": "random"}, {"ports": "random", "parity": True}, "parity"),
        ({}, {"parity": True}, "parity"),
        ({"ports": "random"}, {"ports": "block", "block_size": 1024}, "ports"),
    ],
    ids=str,
)
def test_nats_that_differ_in_their_choice_of_ports_are_told_apart(
    asked: dict[str, Any], built: dict[str, Any], wrong: str
) -> None:
    assert wrong in found(with_rules_of(one_nat(**built), one_nat(**asked)))["wrong"]


def test_blocks_of_other_hosts_are_not_the_block_asked_for() -> None:
    asked = one_nat(("ann", "bob"), ports="block", block_size=64)
    assert found(with_rules_of(one_nat(("bob", "ann"), ports="block", block_size=128), asked))["wrong"] == ["ports"]


@pytest.mark.timeout(300)  # what a busy machine made too late is measured again
def test_timeouts_and_what_refreshes_are_measured() -> None:
    """With short ones: this is real time.  The virtual kernel measures any length in none."""
    options: dict[str, Any] = {"udp_timeout_s": 1, "udp_stream_timeout_s": 2, "refresh": "outbound"}
    row = found(one_nat(**options), timers=True)
    assert row["wrong"] == []
    assert row["found"]["refresh"] == "outbound"
    for key in ("udp_timeout_s", "udp_stream_timeout_s"):
        assert row["found"][key] == pytest.approx(options[key], abs=TIMER_TOLERANCE_S + 0.001), "a busy machine is late"


@pytest.mark.timeout(300)  # what a busy machine made too late is measured again
def test_another_timeout_than_the_one_asked_for_is_found_out() -> None:
    asked = one_nat(udp_timeout_s=2, udp_stream_timeout_s=2)
    double = twin(with_rules_of(one_nat(udp_timeout_s=1, udp_stream_timeout_s=1), asked), "nat")
    assert double is not None
    result = asyncio.run(classify(double, timers=True))
    assert differences(double.asked, result).keys() == {"udp_timeout_s", "udp_stream_timeout_s"}
    assert result.udp_timeout_s == pytest.approx(1, abs=0.3)
    assert result.udp_stream_timeout_s == pytest.approx(1, abs=0.3)


def test_a_nat_with_a_single_inside_host_is_classified_too() -> None:
    row = found(one_nat(("ann",), hairpinning="external"))
    assert row["wrong"] == []
    assert row["found"]["overloading"] is None


def test_every_nat_of_a_network_is_classified() -> None:
    net = Network("nat444")
    for name in ("home", "old"):
        net.link(net.client(f"in-{name}"), net.nat(name, preset="home" if name == "home" else "old_home"))
    net.nat("carrier", preset="carrier")
    net.link("home", "carrier")
    net.link("old", "carrier")
    net.link("carrier", net.router("internet"))
    net.link("internet", net.host("observer"))
    rows = asyncio.run(classify_nats(make_plan(net)))
    assert {row["node"]: row["wrong"] for row in rows} == {"home": [], "old": [], "carrier": []}
    assert [row["preset"] for row in rows] == ["home", "old_home", "carrier"]


@pytest.mark.parametrize(
    ("inner", "outer", "seen"),
    [
        ({}, {}, ("EIM", "APDF")),
        ({}, {"mapping": "APDM"}, ("APDM", "APDF")),
        ({"mapping": "APDM"}, {}, ("APDM", "APDF")),
        ({"mapping": "ADM", "filtering": "EIF"}, {"filtering": "EIF"}, ("ADM", "EIF")),
        ({"filtering": "EIF"}, {"filtering": "ADF"}, ("EIM", "ADF")),
    ],
)
def test_of_two_nats_in_a_row_the_stricter_decides(
    inner: dict[str, str], outer: dict[str, str], seen: tuple[str, str]
) -> None:
    net = Network("nat444")
    net.link(net.client("ann"), net.nat("home", **inner))  # type: ignore[arg-type]
    net.link("home", net.nat("carrier", **outer))  # type: ignore[arg-type]
    net.link("carrier", net.router("internet"))
    net.link("internet", net.host("observer"), ipv4="203.0.113.0/24")
    plan = make_plan(net)
    ann, home, carrier, observer = (str(plan.node(name).ipv4) for name in ("ann", "home", "carrier", "observer"))
    assert home.startswith("100.64.")

    async def probe() -> Classification:
        with build(plan) as fabric:
            await fabric["observer"].run(["ip", "address", "add", "203.0.113.99/24", "dev", "eth0"], check=True)
            ends = (observer, "203.0.113.99")
            with Probes(fabric["ann"], fabric["observer"], hosts=[ann], observers=ends, pool=[carrier]) as probes:
                return await probes.classify()

    result = asyncio.run(probe())
    assert (result.mapping, result.filtering) == seen
    assert result.outside == {ann: (carrier,)}


TOPOLOGY = '''"""A laptop behind a NAT.

    laptop --- nat --- internet --- server
"""
from lab import Network


def build(net: Network) -> None:
    net.link(net.client("laptop"), net.nat("nat", filtering="EIF"))
    net.link("nat", net.router("internet"))
    net.link("internet", net.host("server"))


async def scenario(net) -> None:
    await net["laptop"].ping("server", count=1)


def check(run) -> None:
    assert run.ping("laptop", "server").received == 1
'''


@pytest.fixture
def topology(tmp_path: Path) -> str:
    file = tmp_path / "one_nat.py"
    file.write_text(TOPOLOGY)
    return str(file)


def test_a_run_says_what_its_nats_are(topology: str, tmp_path: Path) -> None:
    done = run(topology, on="host", out=tmp_path / "run")
    assert done.status == "ok", done.message
    (nat,) = done.nats
    assert (nat["node"], nat["asked"]["filtering"], nat["found"]["filtering"]) == ("nat", "EIF", "EIF")
    assert nat["found"]["udp_timeout_s"] is None
    assert any("is a NAT  EIM, EIF" in line for line in done.summary())


def test_a_run_with_another_nat_than_asked_for_fails_before_its_scenario(
    topology: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Filtering.ADDRESS_AND_PORT_DEPENDENT
    monkeypatch.setattr(
        planner, "nat_ruleset", lambda asked, place: nat_ruleset(replace(asked, filtering=closed), place)
    )
    done = run(topology, on="host", out=tmp_path / "run")
    assert done.status == "error"
    assert "nat is not the NAT that was asked for: filtering is APDF, not EIF" in done.message
    assert done.records == []
    assert done.nats[0]["wrong"] == ["filtering"]
    unverified = run(topology, on="host", out=tmp_path / "unverified", verify=False)
    assert unverified.status == "ok"
    assert unverified.nats == []


def test_what_a_nat_counts_is_untouched_by_its_classification(topology: str, tmp_path: Path) -> None:
    done = run(topology, on="host", out=tmp_path / "run")
    assert done.counter("nat", "nat_outbound") == 1
    assert done.counter("nat", "nat_inbound") == 0
    assert done.counter("nat", "nat_unsolicited") == 0
