"""The main job, shown: tunnels through a NAT, over TCP and in protocol 41, and what a filter on 3653 does to each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from lab.run import Run, run


@dataclass(frozen=True, slots=True)
class Act:
    """One topology with its parameters, and the interface whose traffic tells the story."""

    topology: str
    parameters: Mapping[str, Any]
    node: str
    iface: str
    delayed: bool = False
    """The story is better with delay on the links, where the kernel can do it."""


ACTS: Final = (
    Act("home_nat", {}, "internet", "eth0", delayed=True),
    Act("tcp_setup", {}, "laptop", "eth0"),
    Act("direct_6in4", {}, "laptop", "eth0"),
    Act("firewall_3653", {"policy": "drop_3653"}, "firewall", "lan0"),
    Act("firewall_3653", {"policy": "reject_3653"}, "firewall", "lan0"),
    Act("firewall_3653", {"policy": "drop_proto41"}, "firewall", "lan0"),
)


def main(*, as_json: bool = False, progress: Callable[[str], None] | None = None) -> int:
    """Run every act, tell each on standard output, and return 0 when all of them did what they should."""
    from lab.kernel.caps import probe
    from lab.topology import catalog

    say = progress or (lambda text: None)
    netem = probe()["netem"].ok
    say("links are delayed as asked" if netem else "this kernel cannot delay packets (no netem): delay_ms=0 is used")
    folder = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    runs: list[Run] = []
    for number, act in enumerate(ACTS, 1):
        parameters = {**act.parameters, **({} if netem or not act.delayed else {"delay_ms": 0})}
        name = "-".join([f"{number}", act.topology, *(str(v) for v in act.parameters.values())])
        done = run(act.topology, out=folder / name, parameters=parameters)
        runs.append(done)
        if not as_json:
            print(f"\n{number}. {_tell(act, done, catalog.load(act.topology).doc)}")
    if as_json:
        print(json.dumps([done.to_json() for done in runs], indent=1))
    else:
        good = sum(done.status == "ok" for done in runs)
        print(f"\n{good} of {len(runs)} did what they should; captures and figures are in {folder}")
    return 0 if all(done.status == "ok" for done in runs) else 1


def _tell(act: Act, done: Run, doc: str) -> str:
    """What a run showed: title, drawing, events, and the packets seen at the telling interface."""
    title, drawing, *_ = [part for part in doc.split("\n\n") if part.strip()]
    lines = [title.strip(), "", drawing.rstrip(), "", *done.summary()[1:-1]]
    if done.status == "ok":
        seen = ", ".join(f"{n} {label}" for label, n in sorted(done.wire(act.node, act.iface).items()))
        lines.insert(-1, f"  seen at {act.node} {act.iface}: {seen}")
    return "\n".join(lines)
