"""The main job, shown: tunnels through a NAT, over TCP and in protocol 41, and what a filter does to each."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from lab.errors import LabError
from lab.run import Progress, Run, run

DELAY_MS: Final = 20.0
"""One way, on the link to the internet, where the kernel can delay packets."""


@dataclass(frozen=True, slots=True)
class Act:
    """One topology with its parameters, and the interface whose traffic tells the story."""

    topology: str
    parameters: Mapping[str, Any]
    node: str
    iface: str


ACTS: Final = (
    Act("home_nat", {}, "internet", "eth0"),
    Act("tcp_setup", {}, "laptop", "eth0"),
    Act("direct_6in4", {}, "laptop", "eth0"),
    Act("firewall_3653", {"policy": "drop_3653"}, "firewall", "lan0"),
    Act("firewall_3653", {"policy": "reject_3653"}, "firewall", "lan0"),
    Act("firewall_3653", {"policy": "drop_proto41"}, "firewall", "lan0"),
)


def main(*, as_json: bool = False, progress: Progress | None = None) -> int:
    """Run every act, tell each on standard output, and return 0 when all of them did what they should."""
    from lab.topology import catalog

    say = progress or (lambda text: None)
    on, delay_ms = _choose_kernel(say)
    folder = Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    runs: list[Run] = []
    for number, act in enumerate(ACTS, 1):
        name = "-".join([f"{number}", act.topology, *(str(v) for v in act.parameters.values())])
        say(f"{number} of {len(ACTS)}: {act.topology}")
        done = run(act.topology, on=on, out=folder / name, parameters={**act.parameters, "delay_ms": delay_ms})
        runs.append(done)
        if not as_json:
            print(f"\n{number}. {_tell(act, done, catalog.load(act.topology).doc)}", flush=True)
    if as_json:
        print(json.dumps([done.to_json() for done in runs], indent=1))
    else:
        good = sum(done.status == "ok" for done in runs)
        print(f"\n{good} of {len(runs)} did what they should; captures and figures are in {folder}")
    return 0 if all(done.status == "ok" for done in runs) else 1


def _choose_kernel(say: Progress) -> tuple[str, float]:
    """(kernel, delay in ms): the virtual kernel when it is built, else the host's with what it can do."""
    from lab.engines import uml
    from lab.kernel.caps import probe

    if uml.find() is None and sys.stdin.isatty() and sys.stderr.isatty():
        say("the virtual kernel is not built: it delays packets exactly and repeats a run byte for byte")
        sys.stderr.write("Build it now? Takes about 4 minutes, once. [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            try:
                uml.build(progress=say)
            except LabError as exc:
                say(f"{exc}; going on without it")
    if uml.find() is not None:
        say(f"on the virtual kernel, in virtual time, {DELAY_MS:g} ms each way to the internet")
        return "virtual", DELAY_MS
    if probe()["netem"].ok:
        say(f"on this kernel, {DELAY_MS:g} ms each way to the internet")
        return "host", DELAY_MS
    say("on this kernel, which cannot delay packets (no netem): every link is as fast as it gets")
    say("with delays: scripts/lab kernel build, then scripts/lab demo")
    return "host", 0.0


def _tell(act: Act, done: Run, doc: str) -> str:
    """What a run showed: title, drawing, events, and the packets seen at the telling interface."""
    title, drawing, *_ = [part for part in doc.split("\n\n") if part.strip()]
    lines = [title.strip(), "", drawing.rstrip(), "", *done.summary()[1:-1]]
    if done.status == "ok":
        seen = ", ".join(f"{n} {label}" for label, n in sorted(done.wire(act.node, act.iface).items()))
        lines.insert(-1, f"  seen at {act.node} {act.iface}: {seen}")
    return "\n".join(lines)
