"""What a run found, as records: written by an agent, read back by `lab.run.Run`.

A record is plain data with the units in its field names.  Times are seconds; a phase that was not reached is
absent from `phases_s`.  Unknown fields of a newer run folder are ignored on reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that happened on one node."""

    node: str
    """Who did it."""
    at_s: float
    """When it began, in seconds since the network was up."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The record that a JSON object holds."""
        known = {f.name for f in fields(cls)}
        return cls(**{key: v for key, v in value.items() if key in known})


@dataclass(frozen=True, slots=True)
class SetupRecord(Record):
    """One attempt to get a tunnel (RFC 5572 section 4.3)."""

    broker: str
    outcome: str
    """ready, refused, timeout, unreachable or protocol_error."""
    transport: str
    """udp or tcp: what the outcome was reached over."""
    requested: str
    """The tunnel type asked for."""
    type: str | None = None
    """The tunnel type got: v6v4 or v6udpv4; None without a tunnel."""
    mechanism: str | None = None
    """The SASL mechanism used."""
    code: int | None = None
    """The broker's status code (RFC 5572 appendix B)."""
    reason: str = ""
    """What the client was told, or found out."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: connect, version, auth, create, accept, first_packet."""
    total_s: float = 0.0
    """Seconds from the start to the tunnel being ready, or to knowing that it will not be."""
    retransmissions: int = 0
    round_trips: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    client_ipv6: str | None = None
    server_ipv6: str | None = None
    prefix: str | None = None
    """The delegated prefix, if one was asked for."""
    seen_by_broker: str | None = None
    """The client's IPv4 address as the broker sees it."""
    keepalive_interval_s: int | None = None
    """How often the client has to speak at least, as the broker decided; None when it need not."""
    data_plane: str = ""
    """How packets are carried: sit, tun or veth, as the machine allows."""


@dataclass(frozen=True, slots=True)
class PingRecord(Record):
    """ICMP or ICMPv6 echo requests from a node to another."""

    to: str
    address: str
    size: int
    """Bytes of the whole IP packet."""
    sent: int
    received: int
    rtts_s: tuple[float, ...] = ()
    """Of those that were answered, in the order of the requests."""
    sent_s: tuple[float, ...] = ()
    """When each request was sent, in seconds after `at_s`."""
    lost: tuple[int, ...] = ()
    """Which requests were not answered, counted from 0."""


@dataclass(frozen=True, slots=True)
class DatagramRecord(Record):
    """One UDP datagram from a node, and whether it arrived."""

    to: str
    """The node whose address it was sent to."""
    address: str
    port: int
    source_port: int
    listener: str
    """The node it was listened for at: `to`, or one behind it."""
    seen_as: str | None = None
    """The source that the listener saw, "192.0.2.2:5001"; None when nothing arrived."""


@dataclass(frozen=True, slots=True)
class TransferRecord(Record):
    """A TCP transfer, with checksums taken at both ends."""

    to: str
    address: str
    size: int
    """Bytes sent."""
    seconds: float
    intact: bool
    """The receiver got as many bytes with the same SHA-256."""
    longest_gap_s: float | None = None
    """The longest time for which the receiver got nothing; None where the transfer did not end."""
    reason: str = ""
    """Why it did not end; empty when it did."""


@dataclass(frozen=True, slots=True)
class CommandRecord(Record):
    """A program that ran on a node."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class PolicyRecord(Record):
    """A firewall's policy was switched."""

    policy: str


@dataclass(frozen=True, slots=True)
class MoveRecord(Record):
    """A client went to another place, and got another IPv4 address there."""

    place: str
    """The node at the other end of the link that is plugged in now."""
    iface: str
    address: str | None
    """Its IPv4 address there, without prefix length."""


@dataclass(frozen=True, slots=True)
class CrossingRecord(Record):
    """Which mechanisms of RFC 7123 got through a firewall, by their names (`lab.generators.mechanisms`)."""

    policy: str
    passed: tuple[str, ...]
    dropped: tuple[str, ...]
    """Did not arrive, and nobody told the sender."""
    rejected: tuple[str, ...]
    """Did not arrive, and the sender was told."""
    counted: int
    """Packets that the policy's rules counted."""


@dataclass(frozen=True, slots=True)
class ExperienceRecord(Record):
    """What a client got to know of a firewall's policy."""

    policy: str
    when: str
    """The policy was there "before" the tunnel was asked for, or came "after" it was up."""
    transport: str
    """udp or tcp: what the tunnel is, or was, asked for over."""
    tunnel: str
    """The tunnel type asked for."""
    outcome: str
    """works, "no data" (a tunnel that carries nothing), timeout, unreachable, refused, or dead."""
    knows_s: float | None
    """Seconds until the client knew; None where there is nothing to know."""
    told: str
    """What the client could tell its user."""


@dataclass(frozen=True, slots=True)
class ExplainRecord(Record):
    """What became of one packet (see `lab.explain.story`)."""

    to: str
    what: str
    """What kind of packet it was, in words."""
    packet: str
    """Addresses and ports as it was sent."""
    fate: str
    """delivered, dropped, rejected or lost."""
    ended_at: str
    """The node where it ended."""
    by: str
    """The rule that ended it, by name; empty when none did."""
    verdict: str
    """In a sentence."""
    hops: tuple[Mapping[str, Any], ...]
    """The nodes on the way, with interfaces, rules met and what happened."""
    answers: tuple[Mapping[str, Any], ...]
    """Who said what to it, and whether the sender heard it."""
    told: tuple[str, ...]
    """The story as lines of text."""


RECORDS: Mapping[str, type[Record]] = {
    "setup": SetupRecord,
    "ping": PingRecord,
    "datagram": DatagramRecord,
    "transfer": TransferRecord,
    "command": CommandRecord,
    "policy": PolicyRecord,
    "move": MoveRecord,
    "explain": ExplainRecord,
    "crossing": CrossingRecord,
    "experience": ExperienceRecord,
}
"""The records by the name they carry in run.json."""
_KINDS = {kind: name for name, kind in RECORDS.items()}


def format_record(record: Record) -> dict[str, Any]:
    """The JSON object of run.json that stands for a record: its kind, then its fields."""
    return {"kind": _KINDS[type(record)], **asdict(record)}


def parse_record(value: Mapping[str, Any]) -> Record:
    """The record a JSON object of run.json stands for; KeyError for a kind that this lab does not know."""
    lists_as_tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
    return RECORDS[value["kind"]].from_json(lists_as_tuples)


def describe_setup(record: SetupRecord) -> str:
    """One line for a person: what a set-up attempt ended in."""
    if record.outcome == "ready":
        return f"{record.type} over {record.transport} in {record.total_s * 1000:.1f} ms, {record.client_ipv6}"
    code = f"{record.code} " if record.code else ""
    return f"{record.outcome} after {record.total_s * 1000:.0f} ms over {record.transport}: {code}{record.reason}"
