"""What stands in a report: a run's facts as tables of words, in the order in which they are read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lab.errors import LabError
from lab.ladder import svg as ladder_svg
from lab.ladder.model import ladder
from lab.measure import median_rtt_s
from lab.report.figure import Plot, to_svg
from lab.results import (
    CommandRecord,
    MoveRecord,
    PingRecord,
    PolicyRecord,
    SetupRecord,
    TransferRecord,
    describe_setup,
)
from lab.run import Run
from lab.summary import describe

MOST_LADDERS: Final = 12
"""Ladders in one report; each has some ten kilobytes."""
MOST_TIMELINES: Final = 12
"""Pictures of addresses, one for each trial with moves; each has up to some hundred kilobytes."""
MOST_TRIALS: Final = 50
"""Trials told one by one."""
_MOST_LINES: Final = 200
_MOST_OUTPUT: Final = 4_000
"""Characters of a command's output."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what it is about, its head, its rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a set-up, for a bar."""

    name: str
    seconds: float
    share: float
    """Of all phases of the longest set-up shown beside it, 0 to 1."""

    @property
    def told(self) -> str:
        return milliseconds(self.seconds)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A set-up with its phases and its ladder."""

    title: str
    outcome: str
    ready: bool
    phases: Sequence[Phase]
    facts: Sequence[tuple[str, str]]
    ladder: str = ""
    """SVG."""
    why_not: str = ""
    """Why there is no ladder."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened in one trial."""

    number: int
    lines: Sequence[str]
    """Every record in words, in order, as `lab run` prints them."""
    attempts: Sequence[Attempt]
    tables: Sequence[Table]
    plots: Sequence[Plot] = ()


@dataclass(slots=True)
class Content:
    """Everything that a report says."""

    title: str
    lesson: str
    status: str
    message: str
    facts: Sequence[tuple[str, str]]
    drawing: str
    """SVG, or nothing."""
    trials: Sequence[Trial]
    tables: Sequence[Table]
    rerun: Sequence[tuple[str, str]]
    """A command, and what it does."""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def milliseconds(seconds: float) -> str:
    """A time as a reader wants it: three digits that matter."""
    ms = seconds * 1000
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.3f} ms"


def collect(run: Run, drawing: str) -> Content:
    """What there is to say of a run.  `drawing` is its topology as SVG."""
    notes: list[str] = []
    budget = [MOST_LADDERS]
    trials = [_trial(view, budget, notes) for view in run.trials[:MOST_TRIALS]]
    if len(run.trials) > MOST_TRIALS:
        notes.append(f"Of {len(run.trials)} trials the first {MOST_TRIALS} are told; run.json has all.")
    if any(_moved(view) for view in run.trials[MOST_TIMELINES:MOST_TRIALS]):
        notes.append(f"Addresses are drawn for {MOST_TIMELINES} trials; lab.plots.timeline draws those of any.")
    return Content(
        title=str(run.facts["topology"]),
        lesson=str(run.facts.get("title", "")),
        status=run.status,
        message=run.message,
        facts=list(_facts(run)),
        drawing=drawing,
        trials=trials,
        tables=[table for table in (_impairments(run), _nodes(run), _parameters(run)) if table.rows],
        rerun=list(_rerun(run)),
        notes=notes,
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    facts = run.facts
    kernel = facts.get("kernel", {})
    virtual = facts.get("engine") == "virtual"
    noise = "virtual time: exact and repeatable" if virtual else "real time: every time holds what else the machine did"
    yield "Kernel", f"{facts.get('engine')}, Linux {kernel.get('source') or kernel.get('release', 'unknown')}"
    yield "Time", noise
    yield "Seed", str(facts.get("seed"))
    yield "Trials", f"{len(facts['trials'])} of {facts.get('trials_asked', len(facts['trials']))}"
    if "started" in facts:
        yield "Started", str(facts["started"])
    if "seconds" in facts:
        yield "Took", f"{facts['seconds']:.1f} s"
    lab = " ".join(part for part in (str(kernel.get("lab", "")), (kernel.get("commit") or "")[:12]) if part)
    if lab:
        yield "Lab", lab


def _trial(view: Run, budget: list[int], notes: list[str]) -> Trial:
    attempts: list[Attempt] = []
    setups = [record for record in view.records if isinstance(record, SetupRecord)]
    longest = max((sum(record.phases_s.values()) for record in setups), default=0.0)
    counts: dict[str, int] = {}
    for record in setups:
        number = counts.get(record.node, 0)
        counts[record.node] = number + 1
        attempts.append(_attempt(view, record, number, longest, budget))
    left_out = sum(1 for attempt in attempts if attempt.why_not == _ENOUGH)
    if left_out:
        notes.append(f"Trial {view.trial}: {left_out} ladders are left out; lab ladder draws any of them.")
    tables = (
        *(_setups(setups), _moves(view), _pings(view), _transfers(view)),
        *(_policies(view), _counters(view), *_commands(view)),
    )
    lines = [line.removeprefix("  ") for record in view.records for line in describe(record)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"... and {len(lines) - _MOST_LINES} lines more"]
    return Trial(view.trial, lines, attempts, [table for table in tables if table.rows], list(_plots(view)))


def _moved(view: Run) -> bool:
    return any(isinstance(record, MoveRecord) for record in view.records)


def _plots(view: Run) -> Iterator[Plot]:
    """Which addresses a client had when, of a trial in which one moved."""
    if view.trial < MOST_TIMELINES and _moved(view):
        from lab import plots

        note = "From place to place: the IPv4 addresses, the IPv6 addresses by tunnels, and which pings were answered."
        yield Plot("Addresses", note, to_svg(plots.timeline(view), f"t{view.trial}"))


_ENOUGH: Final = f"a report has at most {MOST_LADDERS} ladders"


def _attempt(view: Run, record: SetupRecord, number: int, longest: float, budget: list[int]) -> Attempt:
    svg = why_not = ""
    if budget[0] <= 0:
        why_not = _ENOUGH
    else:
        try:
            svg = ladder_svg.to_svg(ladder(view, record.node, number), style=False)
            budget[0] -= 1
        except LabError as exc:
            why_not = str(exc)
    phases = [
        Phase(name.replace("_", " "), seconds, seconds / longest if longest else 0.0)
        for name, seconds in record.phases_s.items()
    ]
    facts = [
        ("asked for", record.requested),
        ("got", record.type or "no tunnel"),
        ("transport", record.transport),
        ("mechanism", record.mechanism or ""),
        ("round trips", str(record.round_trips)),
        ("sent again", str(record.retransmissions)),
        ("client", record.client_ipv6 or ""),
        ("prefix", record.prefix or ""),
        ("seen by the broker as", record.seen_by_broker or ""),
        ("carried by", record.data_plane),
    ]
    return Attempt(
        title=f"{record.node} asks {record.broker} at {record.at_s:.3f} s",
        outcome=describe_setup(record),
        ready=record.outcome == "ready",
        phases=phases,
        facts=[(name, value) for name, value in facts if value],
        ladder=svg,
        why_not=why_not,
    )


def _setups(setups: Sequence[SetupRecord]) -> Table:
    rows = [
        (
            record.node,
            f"{record.at_s:.3f} s",
            record.transport,
            record.requested,
            record.type or "",
            record.outcome,
            milliseconds(record.total_s),
            str(record.retransmissions),
            record.reason,
        )
        for record in setups
    ]
    head = ("client", "at", "transport", "asked", "got", "outcome", "took", "sent again", "reason")
    return Table("Set-ups", head, rows)


def _pings(view: Run) -> Table:
    rows = []
    for record in view.records:
        if isinstance(record, PingRecord):
            median_s = median_rtt_s([record])
            median = "" if median_s is None else milliseconds(median_s)
            answered = f"{record.received} of {record.sent}"
            rows.append((record.node, record.to, record.address, f"{record.size} B", answered, median))
    return Table("Pings", ("from", "to", "address", "size", "answered", "median"), rows)


def _transfers(view: Run) -> Table:
    rows = [
        (
            record.node,
            record.to,
            f"{record.size} B",
            milliseconds(record.seconds),
            f"{record.size * 8 / record.seconds / 1e6:.1f} Mbit/s" if record.seconds > 0 else "",
            "equal" if record.intact else record.reason or "DIFFER",
            "" if record.longest_gap_s is None else milliseconds(record.longest_gap_s),
        )
        for record in view.records
        if isinstance(record, TransferRecord)
    ]
    return Table("Transfers over TCP", ("from", "to", "size", "took", "rate", "checksums", "longest silence"), rows)


def _moves(view: Run) -> Table:
    rows = [
        (record.node, f"{record.at_s:.3f} s", record.place, record.iface, record.address or "")
        for record in view.records
        if isinstance(record, MoveRecord)
    ]
    return Table("Moves", ("client", "at", "to", "interface", "IPv4"), rows)


def _policies(view: Run) -> Table:
    rows = [
        (str(node["name"]), "from the start", str(node["options"]["policy"]))
        for node in view.facts["nodes"]
        if node["kind"] == "firewall"
    ]
    rows += [(r.node, f"{r.at_s:.3f} s", r.policy) for r in view.records if isinstance(r, PolicyRecord)]
    return Table("Policies", ("firewall", "since", "policy"), rows)


def _counters(view: Run) -> Table:
    rows = [
        (str(node["name"]), name, str(packets))
        for node in view.facts["nodes"]
        for name, packets in view.counters(str(node["name"])).items()
        if packets
    ]
    note = "By the name of the rule, or a broker's reason; what counted nothing is left out."
    return Table("Packets counted by rules", ("node", "rule", "packets"), rows, note)


def _commands(view: Run) -> Iterator[Table]:
    for record in view.records:
        if isinstance(record, CommandRecord):
            output = (record.stdout + record.stderr)[:_MOST_OUTPUT]
            title = f"{record.node}: {shlex.join(record.argv)}"
            yield Table(title, ("status", "output"), [(str(record.returncode), output)])


def _impairments(run: Run) -> Table:
    rows = []
    for view in run.trials[:1]:
        for entry in view.facts["trials"][view.trial].get("impairments", ()):
            for name, asked in entry["requested"].items():
                achieved = entry["achieved"].get(name)
                rows.append((entry["direction"], name, _number(asked), "" if achieved is None else _number(achieved)))
    note = "Measured on the built network before the first packet of the scenario (first trial)."
    return Table("Impairments, asked and achieved", ("direction", "what", "asked", "achieved"), rows, note)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _nodes(run: Run) -> Table:
    rows = [
        (
            str(node["name"]),
            str(node["kind"]),
            str(interface["name"]),
            str(interface["peer"]),
            str(interface["ipv4"] or ""),
            str(interface["ipv6"] or ""),
        )
        for node in run.facts["nodes"]
        for interface in node["interfaces"]
    ]
    return Table("Nodes", ("node", "kind", "interface", "to", "IPv4", "IPv6"), rows)


def _parameters(run: Run) -> Table:
    return Table("Parameters", ("parameter", "value"), [(name, str(value)) for name, value in run.parameters.items()])


def _rerun(run: Run) -> Iterator[tuple[str, str]]:
    facts = run.facts
    words = ["scripts/lab", "run", str(facts["topology"])]
    for name, value in run.parameters.items():
        words += ["--set", f"{name}={value}"]
    words += ["--on", str(facts.get("engine", "auto")), "--seed", str(facts.get("seed"))]
    if facts.get("trials_asked", 1) != 1:
        words += ["--trials", str(facts["trials_asked"])]
    yield shlex.join(words), "the same run once more"
    if facts.get("engine") == "virtual":
        yield shlex.join(["scripts/lab", "replay", str(run.path)]), "once more, compared to the last byte"
    yield shlex.join(["scripts/lab", "ladder", str(run.path), "--out", "ladder.pdf"]), "a ladder for paper"
