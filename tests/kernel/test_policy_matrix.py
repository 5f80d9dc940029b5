"""Every policy against every mechanism of RFC 7123: it stops its own and no other, and a refusal is heard."""

from __future__ import annotations

import runpy
from typing import Final

import pytest

from lab.generators.mechanisms import MECHANISMS
from lab.results import CrossingRecord
from lab.rules.firewall import POLICIES
from lab.run import run
from lab.topology import catalog

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "conntrack", "raw", "packet"), pytest.mark.timeout(240)]

LESSON: Final = catalog.load("rfc7123_filters")
STOPS: Final[dict[str, set[str]]] = runpy.run_path(str(LESSON.path))["STOPS"]


@pytest.fixture(scope="module")
def crossings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CrossingRecord]:
    """What got past each policy, measured once."""
    done = run(str(LESSON.path), out=tmp_path_factory.mktemp("matrix") / "run", seed=1, capture=False)
    assert done.status == "ok", done.message
    return {record.policy: record for record in done.crossings("firewall")}


def test_every_policy_and_every_mechanism_is_tried(crossings: dict[str, CrossingRecord]) -> None:
    assert set(crossings) == set(POLICIES)
    for record in crossings.values():
        names = {*record.passed, *record.dropped, *record.rejected}
        assert names | {"6over4"} == set(MECHANISMS)
        assert len(record.passed) + len(record.dropped) + len(record.rejected) == len(names)


def test_everything_passes_the_open_firewall(crossings: dict[str, CrossingRecord]) -> None:
    assert crossings["allow"].dropped == crossings["allow"].rejected == ()


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "allow"])
def test_a_policy_stops_its_mechanisms_and_no_other(policy: str, crossings: dict[str, CrossingRecord]) -> None:
    action, _, name = policy.partition("_")
    tried = set(crossings["allow"].passed)
    record = crossings[policy]
    assert {*record.dropped, *record.rejected} == STOPS[name] & tried
    assert set(record.passed) == tried - STOPS[name]
    # No ICMP error may answer multicast (RFC 1122 section 3.2.2).
    assert set(record.rejected) == (STOPS[name] & tried - {"6over4"} if action == "reject" else set())
    assert record.counted >= len(STOPS[name] & tried)
