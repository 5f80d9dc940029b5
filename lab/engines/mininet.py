"""The engine `mininet`: the host's kernel, with the nodes and links made by Mininet.

The agent runs in the same private namespaces as on the host engine, so whatever is killed, nothing is left; only the
network is built by Mininet's own classes (`lab.mininet.plans`).
"""

from __future__ import annotations

import json
from pathlib import Path

from lab.engines import host
from lab.errors import MissingFeature
from lab.kernel import stock_mininet
from lab.kernel.caps import Capabilities, probe
from lab.topology.plan import Plan, Shape


class MininetEngine:
    """Mininet's nodes and links on the machine's own kernel, real time."""

    name = "mininet"
    repeatable = False

    def capabilities(self) -> Capabilities:
        return probe()

    def facts(self) -> dict[str, object]:
        return {"mininet": stock_mininet.version()}

    def patience_s(self, scenarios_s: float, trials: int) -> float:
        return scenarios_s + 60 + 10 * trials

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        job = folder / "job.json"
        job.write_text(json.dumps({**json.loads(job.read_text()), "builder": "mininet"}))
        return host.run_agent(folder, timeout_s=wall_timeout_s)


def require(plan: Plan) -> None:
    """Raise MissingFeature for what Mininet lacks here, or has no link for, before anything is built."""
    stock_mininet.require()
    for step in plan.steps:
        if isinstance(step, Shape) and (step.duplicate_pct or step.reorder_pct):
            raise MissingFeature(
                f"doubled and reordered packets on Mininet's links ({step.node} {step.iface})",
                instead="leave them out, or run with --on host or --on virtual",
            )
