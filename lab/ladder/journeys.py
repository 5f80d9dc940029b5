"""One packet found again in the captures of all nodes: where it was, when, and where it ended.

Every capture sees a packet when it comes in and when it goes out.  Two sightings belong together over a link when
the frame is the same, MAC addresses and hop limit included; and inside a node when the packet is the same but for what
a router, a NAT or the end of a tunnel changes.  Equal packets are kept apart by their order.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.errors import UsageError
from lab.ladder.frames import Packet, parse_frame

_FRACTIONS: Final = {0xA1B23C4D: 1, 0xA1B2C3D4: 1000}
_ETHERNET: Final = 1


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet at an interface."""

    t_ns: int
    """Since the epoch."""
    node: str
    iface: str
    outgoing: bool
    packet: Packet
    macs: bytes
    """Destination and source."""


@dataclass(slots=True)
class Visit:
    """A packet at a node: in, out, or both."""

    node: str
    came: Sighting | None = None
    went: Sighting | None = None

    @property
    def packet(self) -> Packet:
        """As it left, or as it came when it did not leave."""
        last = self.went or self.came
        assert last is not None
        return last.packet

    @property
    def t_ns(self) -> int:
        first = self.came or self.went
        assert first is not None
        return first.t_ns


@dataclass(slots=True)
class Journey:
    """The way of one packet."""

    visits: list[Visit] = field(default_factory=list)

    @property
    def t_ns(self) -> int:
        return self.visits[0].t_ns

    @property
    def first(self) -> Packet:
        return self.visits[0].packet

    @property
    def last(self) -> Packet:
        return self.visits[-1].packet


def sightings(path: Path, node: str, mac: str, between_ns: tuple[int, int]) -> Iterator[Sighting]:
    """What a capture of the lab's saw of IP between two times.  Raises UsageError when the file cannot be read."""
    own = bytes.fromhex(mac.replace(":", ""))
    iface = path.stem.removeprefix(f"{node}-")
    for t_ns, frame in _frames(path):
        if t_ns > between_ns[1]:
            return
        if t_ns >= between_ns[0] and (packet := parse_frame(frame)) is not None:
            yield Sighting(t_ns, node, iface, frame[6:12] == own, packet, frame[:12])


def _frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """Nanoseconds since the epoch, exactly, and the bytes of each Ethernet frame."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) < 24 or (fraction := _FRACTIONS.get(struct.unpack_from("<I", data)[0])) is None:
        raise UsageError(f"{path} is not a pcap file written by the lab")
    if struct.unpack_from("<I", data, 20)[0] != _ETHERNET:
        return
    at, end = 24, len(data)
    while at + 16 <= end:
        seconds, parts, kept, _ = struct.unpack_from("<IIII", data, at)
        at += 16
        if at + kept > end:
            return
        yield seconds * 1_000_000_000 + parts * fraction, data[at : at + kept]
        at += kept


def journeys(seen: Iterable[Sighting], addresses: Mapping[str, frozenset[str]]) -> list[Journey]:
    """The way of every packet, by the time it began.  `addresses` are those each node has."""
    by_key: dict[tuple[object, ...], list[Sighting]] = defaultdict(list)
    for sighting in seen:
        by_key[sighting.packet.key].append(sighting)
    found: list[Journey] = []
    for group in by_key.values():
        group.sort(key=lambda sighting: sighting.t_ns)
        found += _trace(group, addresses)
    return sorted(found, key=lambda journey: journey.t_ns)


def _trace(group: list[Sighting], addresses: Mapping[str, frozenset[str]]) -> Iterator[Journey]:
    """Join the sightings of equal packets into ways."""
    after: dict[int, int] = {}  # from a sighting to the next of the same packet
    has_before: set[int] = set()
    for number, sighting in enumerate(group):
        for earlier, other in enumerate(group):
            if earlier == number or earlier in after or other.t_ns > sighting.t_ns:
                continue
            if _over_a_link(other, sighting) or _inside_a_node(other, sighting, addresses):
                after[earlier] = number
                has_before.add(number)
                break
    for number, _ in enumerate(group):
        if number in has_before:
            continue
        journey = Journey()
        following: int | None = number
        while following is not None:
            sighting = group[following]
            if sighting.outgoing:
                last = journey.visits[-1] if journey.visits else None
                if last is None or last.node != sighting.node or last.went is not None:
                    journey.visits.append(Visit(sighting.node))
                journey.visits[-1].went = sighting
            else:
                journey.visits.append(Visit(sighting.node, came=sighting))
            following = after.get(following)
        yield journey


def _over_a_link(a: Sighting, b: Sighting) -> bool:
    return a.outgoing and not b.outgoing and a.macs == b.macs and a.packet.ttl == b.packet.ttl and a.node != b.node


def _inside_a_node(a: Sighting, b: Sighting, addresses: Mapping[str, frozenset[str]]) -> bool:
    if a.outgoing or not b.outgoing or a.node != b.node:
        return False
    tunnel_ends_here = (a.packet.inner is None) != (b.packet.inner is None) or (
        a.packet.inner is not None and a.packet.dst in addresses.get(a.node, frozenset())
    )
    return tunnel_ends_here or b.packet.ttl == a.packet.ttl - 1
