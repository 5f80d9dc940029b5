"""A kernel is chosen for what it can do, and what it cannot do is said before anything is built."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from lab.engines import uml
from lab.engines.choice import choose, require
from lab.errors import MissingFeature, UsageError
from lab.kernel.caps import Capabilities, Capability
from lab.topology.plan import AddNode, LoadRules, Plan, Shape


def capabilities(**missing: bool) -> Capabilities:
    names = ("namespaces", "veth", "nft", "netem", "tbf")
    return Capabilities(
        tuple(
            Capability(name, missing.get(name, True), "", "" if missing.get(name, True) else f"get {name}")
            for name in names
        )
    )


@pytest.mark.parametrize(
    ("step", "feature"),
    [
        (LoadRules("nat", "table ip t {}"), "nft"),
        (Shape("nat", "wan0", 3, delay_ms=20), "netem"),
        (Shape("nat", "wan0", 3, loss_pct=1), "netem"),
        (Shape("nat", "wan0", 3, rate_mbit=10), "tbf"),
    ],
)
def test_what_the_kernel_cannot_do_is_an_error_before_anything_is_built(step: Any, feature: str) -> None:
    plan = Plan("x", (), (AddNode("nat"), step))
    require(plan, capabilities())
    with pytest.raises(MissingFeature, match=f"lacks {feature} on .*get {feature}"):
        require(plan, capabilities(**{feature: False}))
    require(Plan("x", (), (AddNode("nat"),)), capabilities(**{feature: False}))


def test_a_missing_delay_says_how_to_run_without_it() -> None:
    plan = Plan("x", (), (Shape("nat", "wan0", 3, delay_ms=20),))
    with pytest.raises(MissingFeature, match="asked for on nat wan0.*--set delay_ms=0"):
        require(plan, capabilities(netem=False))


def test_an_unknown_kernel_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'mars'; choose from auto, host, virtual"):
        choose("mars", Plan("x", (), ()), seed=1)


def test_a_start_time_is_refused_on_the_host_kernel() -> None:
    with pytest.raises(UsageError, match="--start-time"):
        choose("host", Plan("x", (), ()), seed=1, start_time_s=5)


@pytest.mark.parametrize("start_time_s", [-1, 4_000_000_001, 10**30])
def test_a_start_that_the_virtual_clock_cannot_have_is_refused(start_time_s: int) -> None:
    with pytest.raises(UsageError, match=f"--start-time is 0 .* to 4000000000 .* seconds, not {start_time_s}"):
        choose("virtual", Plan("x", (), ()), seed=1, start_time_s=start_time_s)


def test_a_scenario_of_hours_is_not_begun_in_real_time_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uml, "find", lambda: None)
    with pytest.raises(MissingFeature, match=r"the scenario may take 26 hours.*lab kernel build.*--on host"):
        choose("auto", Plan("x", (), ()), seed=1, scenario_s=26 * 3600)


def test_nobody_is_told_to_build_a_virtual_kernel_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(MissingFeature, match=r"may take 26 hours.*this is aarch64.*--on host") as caught:
        choose("auto", Plan("x", (), ()), seed=1, scenario_s=26 * 3600)
    assert "kernel build" not in str(caught.value)
