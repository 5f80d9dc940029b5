"""What was found in a capture: data classes, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from lab.detect.filters import Filter


class Mechanism(StrEnum):
    """The transition mechanisms of RFC 7123, with the control and the data of TSP apart."""

    NATIVE = "native IPv6"
    SIX_IN_FOUR = "6in4"
    SIX_OVER_FOUR = "6over4"
    SIX_RD = "6rd"
    SIX_TO_FOUR = "6to4"
    ISATAP = "ISATAP"
    TEREDO = "Teredo"
    TSP_CONTROL = "TSP control"
    TSP_DATA = "TSP data"
    AYIYA = "AYIYA"


class Confidence(StrEnum):
    """How sure a finding is."""

    CERTAIN = "certain"
    """Nothing else looks like this."""
    LIKELY = "likely"
    """All that was seen fits, and something else could be made to look the same."""
    POSSIBLE = "possible"
    """A hint only, such as a connection attempt to the port that was never answered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mechanism between one pair of endpoints."""

    mechanism: Mechanism
    carrier: str
    """What a firewall sees: "protocol 41", "udp", "tcp" or "ethertype 0x86dd"."""
    outer: tuple[str, str]
    """Who sent the first packet, and to whom; address:port where there are ports."""
    inner: tuple[str, ...]
    """IPv6 addresses carried, or, of TSP control, spoken of; in numerical order, at most `INNER_SHOWN`."""
    inner_more: int
    """How many further inner addresses there were."""
    first_s: float
    """Of its packets, in seconds since the epoch by the capture's clock."""
    last_s: float
    packets: int
    bytes: int
    """Of the outer IP packets, headers included."""
    confidence: Confidence
    why: tuple[str, ...]
    """What it was recognised by."""
    filter: Filter
    """The filter of RFC 7123 against it, and whether it would stop these very packets."""

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {
            "mechanism": str(self.mechanism),
            "carrier": self.carrier,
            "outer": list(self.outer),
            "inner": list(self.inner),
            "inner_more": self.inner_more,
            "first_s": self.first_s,
            "last_s": self.last_s,
            "packets": self.packets,
            "bytes": self.bytes,
            "confidence": str(self.confidence),
            "why": list(self.why),
            "filter": self.filter.to_json(),
        }


INNER_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of a capture, in the order in which they began."""

    findings: tuple[Finding, ...]
    packets: int
    """Frames in the capture."""
    first_s: float | None
    """Time of the earliest frame; None of an empty capture."""
    last_s: float | None
    notes: tuple[str, ...] = ()
    """What a reader should know of the capture: damage, cut packets, what could not be read."""

    def packets_by_mechanism(self) -> Mapping[Mechanism, int]:
        """How many packets each mechanism sent; those that do not occur are absent."""
        found: dict[Mechanism, int] = {}
        for finding in self.findings:
            found[finding.mechanism] = found.get(finding.mechanism, 0) + finding.packets
        return found

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "packets": self.packets,
            "first_s": self.first_s,
            "last_s": self.last_s,
            "notes": list(self.notes),
            "findings": [finding.to_json() for finding in self.findings],
        }


def clock(seconds: float) -> str:
    """A time of a capture for a person, UTC, to the millisecond; empty for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        return ""
