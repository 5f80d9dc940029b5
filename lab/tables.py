"""A run as tidy pandas tables: one row for each thing that happened, one column for each thing known about it.

Every table has the column `trial` and covers all trials of the run; times are in seconds, sizes in bytes.  Where
nothing of a kind happened the table has its columns and no rows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lab.capfile import CaptureFile
from lab.encap import Drop
from lab.measure import PHASES, median_rtt_s, named_apart, ping_family, setup_rows
from lab.packets import Packet, find_mappings, parse_packet
from lab.results import MoveRecord, PingRecord, Record, TransferRecord
from lab.wire import classify

if TYPE_CHECKING:
    import pandas as pd

    from lab.run import Run

_SETUPS: Final = (
    "node", "attempt", "at_s", "broker", "transport", "requested", "type", "mechanism", "outcome", "code",
    "explanation", "ready", "setup_s", "total_s", *(f"{phase}_s" for phase in PHASES), "round_trips",
    "retransmissions", "bytes_sent", "bytes_received", "keepalive_interval_s", "client_ipv6", "seen_by_broker",
    "rtt_s", "pings_sent", "pings_received", "tunnel_rtt_s",
)  # fmt: skip
_PACKETS: Final = (
    "time_s", "node", "iface", "label", "protocol", "src", "sport", "dst", "dport", "hops", "inner_src", "inner_dst",
    "size",
)  # fmt: skip
_MAPPINGS: Final = (
    "node", "protocol", "inside", "inside_port", "outside", "outside_port", "dst", "dst_port", "first_s", "last_s",
    "packets",
)  # fmt: skip
_RULE: Final = re.compile(r'\b(drop|reject)\b.*comment "([^"]+)"')

_R = TypeVar("_R", bound=Record)


class Tables:
    """The tables of a run.  Each property makes its table anew."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        names = [name for name, value in vars(type(self)).items() if isinstance(value, property)]
        return f"<tables of {self._run.facts['topology']}: {', '.join(names)}>"

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial: the parameters, engine, noisy, seed, status, reason, build_s, scenario_s.

        `noisy` is true where times hold what else the machine did: everywhere but in virtual time.
        """
        run = self._run
        rows = []
        for view in run.trials:
            fixed = {"trial": view.trial, "engine": run.facts["engine"], "noisy": run.noisy, "seed": run.facts["seed"]}
            facts = run.facts["trials"][view.trial]
            row = {**fixed, "status": view.trial_status, "reason": view.trial_message}
            row |= {name: facts.get(name) for name in ("build_s", "scenario_s")}
            rows.append({**named_apart(run.parameters, [*row], "parameter_{}"), **row})
        return _table(rows, ("trial", "engine", "noisy", "seed", "status", "reason", "build_s", "scenario_s"))

    @property
    def setups(self) -> pd.DataFrame:
        """A row for each attempt to get a tunnel: what `lab.measure.setup_rows` tells, with the parameters."""
        parameters = named_apart(self._run.parameters, ("trial", "noisy"), "parameter_{}")
        fixed = {**parameters, "noisy": self._run.noisy}
        rows = [
            {"trial": view.trial, **fixed, **named_apart(row, [*parameters], "{}_measured")}
            for view in self._run.trials
            for row in setup_rows(view)
        ]
        return _table(rows, ("trial", *fixed, *_SETUPS))

    @property
    def phases(self) -> pd.DataFrame:
        """A row for each phase of each attempt: trial, node, attempt, transport, mechanism, outcome, phase, seconds.

        `phase` is an ordered category.  A phase that was not reached has no row.
        """
        import pandas as pd

        known = ("node", "attempt", "transport", "mechanism", "outcome")
        rows = [
            {"trial": view.trial, **{name: row[name] for name in known}, "phase": phase, "seconds": row[f"{phase}_s"]}
            for view in self._run.trials
            for row in setup_rows(view)
            for phase in PHASES
            if row[f"{phase}_s"] is not None
        ]
        table = _table(rows, ("trial", *known, "phase", "seconds"))
        table["phase"] = pd.Categorical(table["phase"], PHASES, ordered=True)
        return table

    @property
    def pings(self) -> pd.DataFrame:
        """A row for each ping: trial, at_s, node, to, address, family, size, sent, received, median_s."""
        rows = []
        for trial, record in self._records(PingRecord):
            told = {name: getattr(record, name) for name in ("at_s", "node", "to", "address", "size")}
            told |= {"family": ping_family(record), "sent": record.sent, "received": record.received}
            rows.append({"trial": trial, **told, "median_s": median_rtt_s([record])})
        head = ("trial", "at_s", "node", "to", "address", "family", "size", "sent", "received", "median_s")
        return _table(rows, head)

    @property
    def rtts(self) -> pd.DataFrame:
        """A row for each answered echo request: trial, at_s (of its ping), node, to, family, size, rtt_s."""
        rows = [
            {
                "trial": trial, "at_s": record.at_s, "node": record.node, "to": record.to,
                "family": ping_family(record), "size": record.size, "rtt_s": rtt,
            }
            for trial, record in self._records(PingRecord)
            for rtt in record.rtts_s
        ]  # fmt: skip
        return _table(rows, ("trial", "at_s", "node", "to", "family", "size", "rtt_s"))

    @property
    def echoes(self) -> pd.DataFrame:
        """A row for each echo request: trial, at_s (when it was sent), node, to, address, family, answered, rtt_s."""
        rows = []
        for trial, record in self._records(PingRecord):
            told = {name: getattr(record, name) for name in ("node", "to", "address")}
            told |= {"family": ping_family(record)}
            for after_s, rtt_s in _echoes(record):
                answer = {"answered": rtt_s is not None, "rtt_s": rtt_s}
                rows.append({"trial": trial, "at_s": record.at_s + after_s, **told, **answer})
        head = ("trial", "at_s", "node", "to", "address", "family", "answered", "rtt_s")
        return _table(rows, head).sort_values(["trial", "at_s"], kind="stable", ignore_index=True)

    @property
    def transfers(self) -> pd.DataFrame:
        """A row for each TCP transfer: trial, at_s, node, to, address, size, seconds, intact, longest_gap_s, reason."""
        rows = [{"trial": trial, **asdict(record)} for trial, record in self._records(TransferRecord)]
        head = ("trial", "node", "at_s", "to", "address", "size", "seconds", "intact", "longest_gap_s", "reason")
        return _table(rows, head)

    @property
    def packets(self) -> pd.DataFrame:
        """A row for each packet at each captured interface, in order of time.

        `time_s` counts from when the network was up; `label` is of `lab.wire`, the endpoints are of the outer header,
        `inner_src` and `inner_dst` of an IPv6 packet inside IPv4, `size` is the frame's on the wire.
        """
        rows = []
        for view in self._run.trials:
            for node, iface in _captured(view):
                for time_s, link, frame, size in _frames(view, node, iface):
                    row: dict[str, Any] = {"trial": view.trial, "time_s": time_s, "node": node, "iface": iface}
                    row["label"] = classify(frame, link)
                    row |= parse_packet(frame, link)._asdict()
                    row["size"] = size
                    rows.append(row)
        table = _table(rows, ("trial", *_PACKETS))[["trial", *_PACKETS]]
        ordered = table.sort_values(["trial", "time_s"], kind="stable", ignore_index=True)
        return ordered.astype(dict.fromkeys(("sport", "dport", "hops"), "Int64"))

    @property
    def mappings(self) -> pd.DataFrame:
        """A row for each mapping a NAT made, as found in the captures at its two sides; without captures none.

        Columns: trial, node, protocol, inside, inside_port, outside, outside_port, dst, dst_port, first_s, last_s,
        packets (those that left by it).  For an ICMP echo the port is its identifier; protocol 41 has none.
        """
        rows: list[dict[str, Any]] = []
        for view in self._run.trials:
            have = set(_captured(view))
            for node in view.facts["nodes"]:
                if node["kind"] != "nat":
                    continue
                sides: dict[str, list[tuple[float, Packet]]] = {"inside": [], "outside": []}
                own = set()
                for iface in node["interfaces"]:
                    if iface["role"] == "inside" and iface["ipv4"]:
                        own.add(iface["ipv4"].partition("/")[0])
                    if iface["role"] in sides and (node["name"], iface["name"]) in have:
                        frames = _frames(view, node["name"], iface["name"])
                        sides[iface["role"]] += [(at_s, parse_packet(f, link)) for at_s, link, f, _ in frames]
                for packets in sides.values():
                    packets.sort(key=lambda timed: timed[0])
                found = find_mappings(sides["inside"], sides["outside"], own)
                rows += [{"trial": view.trial, "node": node["name"], **asdict(mapping)} for mapping in found]
        return _table(rows, ("trial", *_MAPPINGS)).astype(
            dict.fromkeys(("inside_port", "outside_port", "dst_port"), "Int64")
        )

    @property
    def counters(self) -> pd.DataFrame:
        """A row for each rule or reason that a NAT, a firewall or a broker counts by: trial, node, name, packets."""
        rows = [
            {"trial": view.trial, "node": node, "name": name, "packets": packets}
            for view in self._run.trials
            for node, counts in self._run.facts["trials"][view.trial]["counters"].items()
            for name, packets in counts.items()
        ]
        return _table(rows, ("trial", "node", "name", "packets"))

    @property
    def drops(self) -> pd.DataFrame:
        """The counters of what stops packets, where they counted any: trial, node, rule, verdict, packets.

        `verdict` is drop, reject (the sender was told) or, in a broker, discard.
        """
        verdicts = _verdicts(self._run)
        table = self.counters.rename(columns={"name": "rule"})
        kinds = {node["name"]: node["kind"] for node in self._run.facts["nodes"]}
        found = [
            _verdict(kinds[node], node, rule, verdicts) for node, rule in zip(table["node"], table["rule"], strict=True)
        ]
        table.insert(3, "verdict", found)
        return table[table["verdict"].notna() & (table["packets"] > 0)].reset_index(drop=True)

    @property
    def impairments(self) -> pd.DataFrame:
        """A row for each thing that was asked of a link: trial, link, direction, quantity, requested, achieved.

        `achieved` is NaN for what no sample can tell: on a link that loses nearly all, whatever else was asked of it.
        """
        rows = [
            {
                "trial": view.trial, "link": link["link"], "direction": link["direction"], "quantity": quantity,
                "requested": requested, "achieved": link["achieved"].get(quantity),
            }
            for view in self._run.trials
            for link in self._run.facts["trials"][view.trial]["impairments"]
            for quantity, requested in link["requested"].items()
        ]  # fmt: skip
        return _table(rows, ("trial", "link", "direction", "quantity", "requested", "achieved"))

    @property
    def moves(self) -> pd.DataFrame:
        """A row for each move of a client to another place: trial, node, at_s, place, iface, address."""
        rows = [{"trial": trial, **asdict(record)} for trial, record in self._records(MoveRecord)]
        return _table(rows, ("trial", "node", "at_s", "place", "iface", "address"))

    @property
    def addresses(self) -> pd.DataFrame:
        """A row for each address a client had: trial, node, what, family, address, event, from_s, until_s.

        `what` is "IPv4", its own; "IPv4 at the broker", where the broker saw it; or "IPv6", that of a tunnel.  `event`
        is how it came by it: "at home", the place, or "tunnel 1", the attempt.  What a tunnel gave holds from when
        that was ready until the node moves, makes its next attempt or the scenario ends.
        """
        rows = [row for view in self._run.trials for row in (*_own_addresses(view), *_tunnel_addresses(view))]
        return _table(rows, ("trial", "node", "what", "family", "address", "event", "from_s", "until_s"))

    @property
    def lifetimes(self) -> pd.DataFrame:
        """How long each tunnel was heard through, as far as pings tell: a row for each that was ready.

        Columns: trial, node, attempt, type, keepalive_s (the interval, NaN without), from_s, alive_s, ended.  Echo
        requests count that others sent to the tunnel's IPv6 address, or if there were none those that the node sent
        itself.  `alive_s` is the time from the set-up to the last one answered before the first that was not, `ended`
        whether there was such a one: a packet lost on the way ends a life as well.  A tunnel that nobody pinged has no
        row.
        """
        rows = []
        for view in self._run.trials:
            echoes = [
                (record.at_s + after_s, record.node, record.address, rtt_s is not None)
                for record in view.records
                if isinstance(record, PingRecord) and ping_family(record) == 6
                for after_s, rtt_s in _echoes(record)
            ]
            setups = setup_rows(view)
            for number, row in enumerate(setups):
                if not row["ready"]:
                    continue
                from_s = row["at_s"] + row["total_s"]
                until_s = _next_attempt_s(setups, number)
                mine = sorted(echo for echo in echoes if from_s <= echo[0] < until_s)
                seen = [echo for echo in mine if echo[2] == row["client_ipv6"] and echo[1] != row["node"]]
                seen = seen or [echo for echo in mine if echo[1] == row["node"]]
                if not seen:
                    continue
                answered = list(takewhile(lambda echo: echo[3], seen))
                told = {"trial": view.trial, **{name: row[name] for name in ("node", "attempt", "type")}}
                told |= {"keepalive_s": row["keepalive_interval_s"], "from_s": from_s}
                told |= {"alive_s": answered[-1][0] - from_s if answered else 0.0, "ended": len(answered) < len(seen)}
                rows.append(told)
        return _table(rows, ("trial", "node", "attempt", "type", "keepalive_s", "from_s", "alive_s", "ended"))

    @property
    def captures(self) -> pd.DataFrame:
        """A row for each capture: trial, node, iface, file, packets, dropped (by the capture, for want of room)."""
        rows = [
            {"trial": view.trial, **capture}
            for view in self._run.trials
            for capture in self._run.facts["trials"][view.trial]["captures"]
        ]
        return _table(rows, ("trial", "node", "iface", "file", "packets", "dropped"))

    def _records(self, kind: type[_R]) -> Iterator[tuple[int, _R]]:
        """(trial, record) for each record of a kind."""
        for view in self._run.trials:
            yield from ((view.trial, record) for record in view.records if isinstance(record, kind))


def _table(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> pd.DataFrame:
    """A table that has its columns even when it has no rows."""
    import pandas as pd

    names = list(rows[0]) if rows else list(columns)
    table = pd.DataFrame.from_records([dict(row) for row in rows], columns=names)
    return table.astype({name: float for name in names if name.endswith("_s")})  # else a column of None is no number


def _echoes(record: PingRecord) -> Iterator[tuple[float, float | None]]:
    """(seconds after `at_s`, round trip or None) of each request of a ping; older records do not have them."""
    lost, rtts = set(record.lost), iter(record.rtts_s)
    for number, after_s in enumerate(record.sent_s):
        yield after_s, None if number in lost else next(rtts)


def _next_attempt_s(setups: Sequence[Mapping[str, Any]], number: int) -> float:
    """When the node of a set-up tries again; never if it does not."""
    node = setups[number]["node"]
    return next((row["at_s"] for row in setups[number + 1 :] if row["node"] == node), math.inf)


def _own_addresses(view: Run) -> Iterator[dict[str, Any]]:
    """The rows of the IPv4 addresses of clients, from place to place."""
    end_s = view.facts["trials"][view.trial].get("scenario_s", math.nan)
    for node in view.facts["nodes"]:
        if node["kind"] != "client" or node["ipv4"] is None:
            continue
        first = next((i["peer"] for i in node["interfaces"] if (i["ipv4"] or "").split("/")[0] == node["ipv4"]), "")
        stays = [(0.0, first, node["ipv4"]), *((m.at_s, m.place, m.address) for m in view.moves(node["name"]))]
        for (from_s, place, address), (until_s, *_) in zip(stays, [*stays[1:], (end_s,)], strict=True):
            told = {"trial": view.trial, "node": node["name"], "what": "IPv4", "family": 4, "address": address}
            yield {**told, "event": f"at {place}", "from_s": from_s, "until_s": until_s}


def _tunnel_addresses(view: Run) -> Iterator[dict[str, Any]]:
    """The rows of the addresses that clients had by a tunnel."""
    end_s = view.facts["trials"][view.trial].get("scenario_s", math.nan)
    setups = setup_rows(view)
    for number, row in enumerate(setups):
        if not row["ready"]:
            continue
        from_s = row["at_s"] + row["total_s"]
        moved_s = (move.at_s for move in view.moves(row["node"]) if move.at_s >= from_s)
        until_s = min(_next_attempt_s(setups, number), next(moved_s, math.inf))
        for what, family, name in (("IPv4 at the broker", 4, "seen_by_broker"), ("IPv6", 6, "client_ipv6")):
            if row[name] is not None:
                told = {"trial": view.trial, "node": row["node"], "what": what, "family": family, "address": row[name]}
                held = {"from_s": from_s, "until_s": until_s if until_s < math.inf else end_s}
                yield {**told, "event": f"tunnel {row['attempt']}", **held}


def _captured(view: Run) -> Iterator[tuple[str, str]]:
    for capture in view.facts["trials"][view.trial]["captures"]:
        yield capture["node"], capture["iface"]


def _frames(view: Run, node: str, iface: str) -> Iterator[tuple[float, int, bytes, int]]:
    """(seconds since the network was up, link type, frame, bytes on the wire) of every packet captured."""
    up_s = view.up_at_s or 0.0
    for at_s, link, frame, size in CaptureFile(view.capture(node, iface)):
        yield at_s - up_s, link, frame, size


def _verdicts(run: Run) -> dict[tuple[str, str], str]:
    """What the rules of the plan do, by (node, name of the rule), for those that stop packets."""
    file = run.path / "plan.json"
    steps = json.loads(file.read_text())["steps"] if file.exists() else []
    found = {}
    for step in steps:
        if step["op"] == "rules":
            for line in step["text"].splitlines():
                if match := _RULE.search(line):
                    found[step["node"], match[2]] = match[1]
    return found


def _verdict(kind: str, node: str, rule: str, verdicts: Mapping[tuple[str, str], str]) -> str | None:
    if kind == "broker":
        return "discard" if rule in _DISCARDS else None
    if kind == "firewall":  # its policy may have been changed since the plan
        action = rule.partition("_")[0]
        if action in ("drop", "reject"):
            return action
    return verdicts.get((node, rule))


_DISCARDS: Final = {*(drop.value for drop in Drop), "rate_limited", "no_session", "connections_refused"}
