"""Why was my packet dropped?  A topology is built, one packet is sent through it, and its story comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from lab import journal
from lab.errors import LabError, UsageError
from lab.explain import scenario
from lab.explain.probe import Kind
from lab.results import ExplainRecord, parse_record
from lab.rules.firewall import check_policy
from lab.scratch import scratch_folder

_TIMEOUT_S: Final = 120.0


def explain(
    name: str,
    sender: str,
    receiver: str,
    *,
    udp: int | None = None,
    tcp: int | None = None,
    proto: int | None = None,
    icmp: bool = False,
    mechanism: str | None = None,
    source_port: int | None = None,
    size: int | None = None,
    ttl: int | None = None,
    policy: str | None = None,
    after: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    on: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ExplainRecord:
    """Send one packet from node `sender` to node or address `receiver` of a topology; the story of what became of it.

    The packet is one of UDP or TCP to a port, of an IP protocol, an ICMP echo request, or of a mechanism of
    `lab.generators`, of `size` bytes and not to be fragmented if a size is given, with `ttl` hops to live if that is.
    `policy` replaces the policy of all firewalls; the nodes in `after` send the same before.  The
    topology's brokers run, its scenario does not.  Raises UsageError and TopologyError for what makes no sense and
    MissingFeature for what the kernel lacks, before anything is built.
    """
    import json

    from lab.engines.choice import choose
    from lab.planned import planned

    try:
        kind = Kind(udp=udp, tcp=tcp, proto=proto, icmp=icmp, mechanism=mechanism, size=size, ttl=ttl)
        policy = check_policy(policy) if policy is not None else None
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    _, values, plan = planned(name, parameters or {})
    names = [node.name for node in plan.nodes if node.kind != "switch"]
    for node in (sender, *after):
        if node not in names:
            raise UsageError(f"there is no node {node!r} to send from; the nodes are {', '.join(names)}")
    if receiver not in names and not _is_address(receiver):
        raise UsageError(f"there is no node {receiver!r}, and it is no address; the nodes are {', '.join(names)}")
    if policy is not None and all(node.kind != "firewall" for node in plan.nodes):
        raise UsageError(f"{plan.name} has no firewall to give a policy to")
    engine = choose(on, plan, seed=seed, say=progress or (lambda text: None))
    wish = {
        "sender": sender,
        "receiver": receiver,
        "kind": asdict(kind),
        "source_port": source_port,
        "policy": policy,
        "after": list(after),
    }
    with scratch_folder("explain") as folder:
        job = {
            "plan": plan.to_json(),
            "module": str(Path(scenario.__file__)),
            "parameters": {**values, "explain": wish},
            "seed": seed,
            "capture": False,
            "timeout_s": _TIMEOUT_S,
        }
        (folder / "job.json").write_text(json.dumps(job))
        engine.run(folder, wall_timeout_s=engine.patience_s(_TIMEOUT_S, 1))
        told = json.loads((folder / "result.json").read_text()) if (folder / "result.json").exists() else {}
        if told.get("status") != "ok":
            error = told.get("error", {})
            kind_of_error = UsageError if error.get("type") == UsageError.__name__ else LabError
            raise kind_of_error(error.get("message", "the agent left no result"))
        records = [parse_record(value) for trial in journal.read(folder) for value in trial["records"]]
    record = records[-1]
    assert isinstance(record, ExplainRecord)
    return record


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
