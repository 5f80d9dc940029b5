"""`lab nat`: one NAT by itself, asked for by its options, built on a kernel and found out about.

    ann ---+
           nat --- internet --- observer
    bob ---+

Its inside hosts have these names for options that name a host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from lab.errors import RunFailed, TopologyError, UsageError
from lab.rules.nat_behaviour import BehaviourError, NatBehaviour
from lab.rules.nat_found import Classification, describe, differences
from lab.rules.nat_presets import PRESETS
from lab.scratch import scratch_folder
from lab.topology.network import Network
from lab.topology.plan import Plan
from lab.topology.planner import make_plan

HOSTS: Final = ("ann", "bob")
_WALL_S: Final = 300.0
_PER_TIMEOUT: Final = 12
"""How many times a timeout may pass while it is measured."""


def list_presets() -> dict[str, dict[str, Any]]:
    """Every preset with its text, its options and the reasons for them."""
    return {
        name: {"text": preset.text, "options": dict(preset.options), "reasons": dict(preset.reasons)}
        for name, preset in PRESETS.items()
    }


def ask(
    preset: str | None,
    options: Mapping[str, Any],
    *,
    on: str = "auto",
    timers: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Build a NAT with these options and classify it.

    The result has `preset`, `asked`, `found` (both as `lab.rules.nat_found.Classification`), `wrong` (names of what
    differs), `reasons`, `seconds` and `engine`.  Timeouts are measured in virtual time, and on the host if `timers` say
    so.  UsageError for options that make no sense; RunFailed when the kernel broke down.
    """
    (row,), engine = classify(plan_of(preset, options), on=on, timers=timers, progress=progress)
    reasons = PRESETS[preset].reasons if preset is not None else {}
    return {**row, "engine": engine, "reasons": {k: v for k, v in reasons.items() if k not in options}}


def classify(
    plan: Plan,
    *,
    on: str = "auto",
    timers: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[dict[str, Any]], str]:
    """What the NATs of a plan are, as `lab.actors.nat_prober.classify_nats` tells it, and the kernel's name."""
    from lab.engines.choice import choose

    engine = choose(on, plan, seed=0, say=progress)
    timers = timers or engine.repeatable
    nats = [node.options for node in plan.nodes if node.kind == "nat"]
    timeouts_s = sum(nat["udp_timeout_s"] + nat["udp_stream_timeout_s"] for nat in nats) if timers else 0
    with scratch_folder("nat") as folder:
        job = {"plan": plan.to_json(), "module": "", "parameters": {}, "seed": 0, "timers": timers, "classify": True}
        (folder / "job.json").write_text(json.dumps(job))
        status = engine.run(folder, wall_timeout_s=_WALL_S + _PER_TIMEOUT * timeouts_s)
        try:
            result = json.loads((folder / "result.json").read_text())
        except FileNotFoundError:
            raise RunFailed(f"the agent ended with status {status} and left no result", folder=str(folder)) from None
        if result["status"] != "ok":
            raise RunFailed(result["error"]["message"], folder=str(folder))
    return result["nats"], engine.name


def plan_of(preset: str | None, options: Mapping[str, Any]) -> Plan:
    """The network of a NAT with these options, values or the texts of values; UsageError when they make no sense."""
    net = Network("nat")
    for name in HOSTS:
        net.client(name)
    try:
        known = NatBehaviour().to_json()
        NatBehaviour.make({key: value for key, value in options.items() if key not in known})  # says so
        nat = net.nat("nat", preset=preset, **options)
        net.router("internet")
        net.host("observer")
        for name in HOSTS:
            net.link(name, nat)
        net.link(nat, "internet")
        net.link("internet", "observer")
        return make_plan(net)
    except BehaviourError as exc:
        raise UsageError(str(exc)) from None
    except TopologyError as exc:
        raise UsageError(str(exc).removeprefix("nat: ")) from None


def rows_of(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """(property, asked, found, same, why) for a table."""
    asked, seen = Classification.from_json(found["asked"]), Classification.from_json(found["found"])
    wrong = differences(asked, seen)
    for name in found["asked"]:
        wanted, got = getattr(asked, name), getattr(seen, name)
        same = "NO" if name in wrong else "yes" if None not in (wanted, got) else "-"
        # Mappings that never end have no timeout to ask for; that they were not waited for longer is what was found.
        least = "at least " if wanted is None and isinstance(got, float) else ""
        why = str(found["reasons"].get(name, ""))
        yield name, describe(name, wanted), f"{least}{describe(name, got)}", same, why
