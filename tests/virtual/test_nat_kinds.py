"""Each NAT is what was asked for on the virtual kernel too (Linux 6.1), its timeouts to the tick."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lab.nat import classify, plan_of
from lab.topology.network import Network
from lab.topology.plan import LoadRules
from lab.topology.planner import make_plan
from tests.unit.nats import NATS

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """Every NAT of the golden tests, classified in one boot."""
    net = Network("every_nat")
    net.link(net.router("internet"), net.host("observer"))
    for number, options in enumerate(NATS.values()):
        behind = {name: net.client(f"{name}{number}") for name in ("ann", "bob")}
        named = {"proto41_host", "one_to_one"} & options.keys()
        renamed = {name: renumber(options[name], number) for name in named}
        net.link("internet", net.nat(f"nat{number}", **{**options, **renamed}))
        for client in behind.values():
            net.link(client, f"nat{number}")
    found, engine = classify(make_plan(net), on="virtual")
    assert engine == "virtual"
    return dict(zip(NATS, found, strict=True))


def renumber(hosts: Any, number: int) -> Any:
    """The same hosts by the names they have behind NAT number `number`."""
    if isinstance(hosts, bool):
        return hosts
    return f"{hosts}{number}" if isinstance(hosts, str) else [f"{host}{number}" for host in hosts]


@pytest.mark.parametrize("name", NATS)
def test_a_nat_is_what_was_asked_for_and_so_are_its_timeouts(name: str, rows: dict[str, dict[str, Any]]) -> None:
    row = rows[name]
    assert row["wrong"] == []
    for timer in ("udp_timeout_s", "udp_stream_timeout_s", "refresh"):
        if NATS[name].get("one_to_one") and NATS[name].get("filtering") == "EIF":
            assert row["asked"][timer] is None  # whoever sends to its own address reaches it for ever
        else:
            assert row["found"][timer] == row["asked"][timer] is not None


def test_what_refreshes_a_mapping_other_than_asked_for_is_found_out() -> None:
    asked, built = (plan_of(None, {"refresh": refresh}) for refresh in ("outbound", "both"))
    rules = [step for step in built.steps if isinstance(step, LoadRules)]
    steps = [step for step in asked.steps if not isinstance(step, LoadRules)]
    (row,), _ = classify(replace(asked, steps=(*steps, *rules)), on="virtual")
    assert row["wrong"] == ["refresh"]
