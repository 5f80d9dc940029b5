"""From one trial of a run to plain rows: what a sweep keeps, and what the tables of a run are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address
from statistics import median
from typing import Any, Final

from lab.results import PingRecord, Record, SetupRecord
from lab.run import Run

PHASES: Final = ("connect", "version", "auth", "create", "accept", "first_packet")
"""The phases of a set-up in their order; the last one follows when the tunnel is up and is no part of `setup_s`."""


def setup_rows(trial: Run) -> list[dict[str, Any]]:
    """One row for each attempt to get a tunnel in a trial.  Times are seconds on the client's clock.

    `setup_s` is the time until the tunnel was ready and None when it never was; `total_s` is the time until the client
    knew either way.  `rtt_s` is the median round trip of the IPv4 pings that the node sent in the trial,
    `tunnel_rtt_s`, `pings_sent` and `pings_received` those of its IPv6 pings from this attempt to its next.
    """
    records = trial.records
    attempts: Counter[str] = Counter()
    rows = []
    for number, record in enumerate(records):
        if not isinstance(record, SetupRecord):
            continue
        attempts[record.node] += 1
        after = list(_until_next(record.node, records[number + 1 :]))
        inside = [ping for ping in after if ping_family(ping) == 6]
        plain = [p for p in records if isinstance(p, PingRecord) and p.node == record.node and ping_family(p) == 4]
        rows.append(
            {
                "node": record.node,
                "attempt": attempts[record.node],
                "at_s": record.at_s,
                "broker": record.broker,
                "transport": record.transport,
                "requested": record.requested,
                "type": record.type,
                "mechanism": record.mechanism,
                "outcome": record.outcome,
                "code": record.code,
                "explanation": record.reason,
                "ready": record.outcome == "ready",
                "setup_s": record.total_s if record.outcome == "ready" else None,
                "total_s": record.total_s,
                **{f"{phase}_s": record.phases_s.get(phase) for phase in PHASES},
                "round_trips": record.round_trips,
                "retransmissions": record.retransmissions,
                "bytes_sent": record.bytes_sent,
                "bytes_received": record.bytes_received,
                "keepalive_interval_s": record.keepalive_interval_s,
                "client_ipv6": record.client_ipv6,
                "seen_by_broker": record.seen_by_broker,
                "rtt_s": median_rtt_s(plain),
                "pings_sent": sum(ping.sent for ping in inside),
                "pings_received": sum(ping.received for ping in inside),
                "tunnel_rtt_s": median_rtt_s(inside),
            }
        )
    return rows


def median_rtt_s(pings: Iterable[PingRecord]) -> float | None:
    """The median round trip of all answered echo requests of some pings; None if none was answered."""
    rtts = [rtt for ping in pings for rtt in ping.rtts_s]
    return median(rtts) if rtts else None


def ping_family(record: PingRecord) -> int:
    """4 or 6: what a ping was sent over."""
    return ip_address(record.address).version


def named_apart(values: Mapping[str, Any], taken: Collection[str], pattern: str) -> dict[str, Any]:
    """`values` with other names, made by `pattern`, for those whose name is taken."""
    return {pattern.format(name) if name in taken else name: value for name, value in values.items()}


def _until_next(node: str, records: Iterable[Record]) -> Iterable[PingRecord]:
    """The pings of a node up to its next attempt."""
    for record in records:
        if record.node == node and isinstance(record, SetupRecord):
            return
        if record.node == node and isinstance(record, PingRecord):
            yield record
