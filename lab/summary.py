"""A run told to a person: the lines that `lab run` and the demonstration print."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lab.measure import median_rtt_s
from lab.results import (
    CommandRecord,
    CrossingRecord,
    DatagramRecord,
    ExperienceRecord,
    ExplainRecord,
    MoveRecord,
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
        experiences = trial.experiences()
        lines += _experience_table(experiences)
        records = trial.records
        if experiences:  # the table says what came of these
            records = [record for record in records if not isinstance(record, SetupRecord | PingRecord | PolicyRecord)]
        for _, same in itertools.groupby(records, key=_burst):
            lines += _describe_all(list(same))
    lines.append(f"  result: {done.status}" + (f": {done.message}" if done.message else ""))
    lines.append(f"  recorded in {done.path}")
    return lines


def _experience_table(experiences: Sequence[ExperienceRecord]) -> list[str]:
    """What clients got to know of policies, a line each under a head; nothing where nobody asked."""
    if not experiences:
        return []
    rows = [("policy", "was there", "over", "tunnel", "outcome", "known after", "the user is told")]
    for record in experiences:
        known = "" if record.knows_s is None else f"{record.knows_s:.3f} s"
        when = f"{record.when} tunnel"
        rows.append((record.policy, when, record.transport, record.tunnel, record.outcome, known, record.told))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    aligned = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return [f"  {line.rstrip()}" for line in aligned]


_TOLD_ONE_BY_ONE: Final = 5


def _burst(record: Record) -> object:
    """Equal for datagrams of one kind, different for all else."""
    if isinstance(record, DatagramRecord):
        return record.node, record.to, record.port, record.listener
    return id(record)


def _describe_all(records: list[Record]) -> list[str]:
    """The lines of some records; many datagrams of one kind are told together."""
    first = records[0]
    if not isinstance(first, DatagramRecord) or len(records) <= _TOLD_ONE_BY_ONE:
        return [line for record in records for line in describe(record)]
    seen = sum(isinstance(record, DatagramRecord) and record.seen_as is not None for record in records)
    text = f"{len(records)} to {first.to} port {first.port}: {seen} seen"
    return [_line(first.node, "datagrams", text)]


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
                scale, unit = (1e6, "microseconds") if max(record.phases_s.values()) < 1e-3 else (1e3, "milliseconds")
                phases = ", ".join(f"{name} {s * scale:.1f}" for name, s in record.phases_s.items())
                lines.append(_line("", "", f"{record.round_trips} round trips; {unit}: {phases}"))
            return lines
        case PingRecord():
            median_s = median_rtt_s([record])
            rtt = f", median {median_s * 1000:.2f} ms" if median_s is not None else ""
            text = f"{record.to} ({record.address}): {record.received} of {record.sent} answered{rtt}"
            return [_line(record.node, "ping", text)]
        case DatagramRecord():
            seen = f"seen as {record.seen_as}" if record.seen_as else "not seen"
            at = "" if record.listener == record.to else f" at {record.listener}"
            text = f"from port {record.source_port} to {record.to} port {record.port}: {seen}{at}"
            return [_line(record.node, "datagram", text)]
        case TransferRecord():
            verdict = "checksums equal" if record.intact else record.reason or "DAMAGED"
            if record.longest_gap_s is not None and record.longest_gap_s >= 1:
                verdict += f"; nothing came for {record.longest_gap_s:.1f} s"
            took = f"{record.seconds * 1000:.0f} ms" if record.seconds < 60 else f"{record.seconds:.0f} s"
            text = f"{record.size} bytes to {record.to} over TCP in {took}, {verdict}"
            return [_line(record.node, "transfer", text)]
        case CrossingRecord():
            told = [
                f"{what} {', '.join(names)}"
                for what, names in (("dropped", record.dropped), ("rejected", record.rejected))
                if names
            ]
            return [_line(record.node, "crossing", f"{record.policy}: {'; '.join(told) or 'everything passed'}")]
        case ExplainRecord():
            return [_line(record.node, "explain", f"{record.what} to {record.to} was {record.verdict}")]
        case MoveRecord():
            return [_line(record.node, "moves", f"to {record.place}, {record.address} there, at {record.at_s:.0f} s")]
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
