"""A run told to a person: the lines that `lab run` and the demonstration print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lab.results import (
    CommandRecord,
    ExplainRecord,
    PingRecord,
    PolicyRecord,
    Record,
    SetupRecord,
    TransferRecord,
    describe_setup,
)
from lab.run import Run

_OUTPUT: Final = 10
"""Lines shown of what a program printed."""


def summarise(done: Run) -> list[str]:
    """The outcome of a run, a line each: what was asked, what happened, the verdict and where the facts are."""
    lines = [f"{done.facts['topology']}: {done.facts['title']}"]
    lines += [_line(nat["node"], "is a NAT", describe_nat(nat)) for nat in done.nats]
    for trial in done.trials:
        if len(done.trials) > 1:
            lines.append(f"  trial {trial.trial}")
        for record in trial.records:
            lines += describe(record)
    lines.append(f"  result: {done.status}" + (f": {done.message}" if done.message else ""))
    lines.append(f"  recorded in {done.path}")
    return lines


def describe_nat(nat: Mapping[str, Any]) -> str:
    """What a NAT was found to be before the run, in one line."""
    found = nat["found"]
    wrong = f"; not as asked: {', '.join(nat['wrong'])}" if nat["wrong"] else ""
    kind = f"{nat['preset']}: " if nat["preset"] else ""
    return f"{kind}{found['mapping']}, {found['filtering']}, hairpinning {found['hairpinning']}{wrong}"


def describe(record: Record) -> list[str]:
    """One record as indented lines."""
    match record:
        case SetupRecord():
            lines = [_line(record.node, "tunnel", f"{record.requested} asked: {describe_setup(record)}")]
            if record.phases_s:
                phases = ", ".join(f"{name} {s * 1000:.1f}" for name, s in record.phases_s.items())
                lines.append(_line("", "", f"{record.round_trips} round trips; milliseconds: {phases}"))
            return lines
        case PingRecord():
            median = sorted(record.rtts_s)[len(record.rtts_s) // 2] * 1000 if record.rtts_s else None
            rtt = f", median {median:.2f} ms" if median is not None else ""
            text = f"{record.to} ({record.address}): {record.received} of {record.sent} answered{rtt}"
            return [_line(record.node, "ping", text)]
        case TransferRecord():
            verdict = "checksums equal" if record.intact else "DAMAGED"
            text = f"{record.size} bytes to {record.to} over TCP in {record.seconds * 1000:.0f} ms, {verdict}"
            return [_line(record.node, "transfer", text)]
        case ExplainRecord():
            return [_line(record.node, "explain", f"{record.what} to {record.to} was {record.verdict}")]
        case PolicyRecord():
            return [_line(record.node, "policy", record.policy)]
        case CommandRecord():
            return [
                _line(record.node, "ran", f"{' '.join(record.argv)}: status {record.returncode}"),
                *_output(record.stdout if record.returncode == 0 else record.stderr or record.stdout),
            ]
    return []


def _output(text: str) -> list[str]:
    """The first lines of what a program printed, as they are."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    more = [f"... {len(lines) - _OUTPUT} more lines, in run.json"] if len(lines) > _OUTPUT else []
    return [f"  {'':<9} {'':<9} | {line}" for line in [*lines[:_OUTPUT], *more]]


def _line(node: str, what: str, text: str) -> str:
    return f"  {node:<9} {what:<9} {text}"
