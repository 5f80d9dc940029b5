"""What is remembered of a UDP or TCP flow until the capture ends and it can be judged."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from lab.detect.inner import Inner
from lab.detect.speech import Speaker

_ADDRESSES_KEPT: Final = 4096


class Tally:
    """How many packets, how many bytes, from when to when."""

    __slots__ = ("bytes", "first_s", "last_s", "packets")

    def __init__(self) -> None:
        self.packets = 0
        self.bytes = 0
        self.first_s = 0.0
        self.last_s = 0.0

    def add(self, at_s: float, size: int) -> None:
        """Count one packet of `size` bytes."""
        if not self.packets or at_s < self.first_s:
            self.first_s = at_s
        if not self.packets or at_s > self.last_s:
            self.last_s = at_s
        self.packets += 1
        self.bytes += size

    def merge(self, other: Tally) -> None:
        """Count all that `other` has counted."""
        if not other.packets:
            return
        self.first_s = min(self.first_s, other.first_s) if self.packets else other.first_s
        self.last_s = max(self.last_s, other.last_s) if self.packets else other.last_s
        self.packets += other.packets
        self.bytes += other.bytes


class Carried(Tally):
    """Packets with IPv6 inside, and what was inside."""

    __slots__ = ("addresses", "bad", "good", "unknown")

    def __init__(self) -> None:
        super().__init__()
        self.addresses: Counter[bytes] = Counter()
        """Inner addresses, packed, and how many packets had them; no more than some thousands are kept."""
        self.good = 0
        """Packets whose inner checksum is right."""
        self.bad = 0
        self.unknown = 0
        """Packets whose inner checksum cannot be tested."""

    def note(self, inner: Inner) -> None:
        """Remember what a counted packet carried."""
        if inner.verified is None:
            self.unknown += 1
        elif inner.verified:
            self.good += 1
        else:
            self.bad += 1
            return
        self.note_addresses(inner.src, inner.dst)

    def note_addresses(self, *addresses: bytes) -> None:
        """Remember addresses of one packet."""
        for address in addresses:
            if address in self.addresses or len(self.addresses) < _ADDRESSES_KEPT:
                self.addresses[address] += 1

    @property
    def evidence(self) -> int:
        """Packets that speak for IPv6: those whose checksum is not wrong."""
        return self.good + self.unknown

    @property
    def repeated(self) -> bool:
        """Whether two such packets had an address in common."""
        return any(times > 1 for times in self.addresses.values())


class UdpFlow:
    """A UDP flow in which something looked like a mechanism of ours, both directions."""

    __slots__ = ("ayiya", "data", "ends", "offered", "speakers", "teredo", "tsp")

    def __init__(self, ends: tuple[bytes, bytes]) -> None:
        self.ends = ends
        """Sender of the first packet that counted, and the other one: address and port, packed."""
        self.tsp = Tally()
        """Datagrams with the marker of TSP signalling."""
        self.speakers: dict[Speaker, bytes] = {}
        """Who said what only TSP says."""
        self.offered: Counter[bytes] = Counter()
        """IPv6 addresses named in messages."""
        self.data = Carried()
        self.teredo = Carried()
        self.ayiya = Carried()

    @property
    def is_tsp(self) -> bool:
        """Whether anything was said that only TSP says."""
        return bool(self.speakers)

    @property
    def broker(self) -> bytes | None:
        """The end that is the broker, as far as what was said tells."""
        if Speaker.BROKER in self.speakers:
            return self.speakers[Speaker.BROKER]
        client = self.speakers.get(Speaker.CLIENT)
        return None if client is None else self.ends[client == self.ends[0]]


class TcpFlow(Tally):
    """A TCP connection."""

    __slots__ = ("ends", "offered", "opened", "said", "start", "verdict", "wanted")

    def __init__(self, ends: tuple[bytes, bytes]) -> None:
        super().__init__()
        self.ends = ends
        """The end that sent the first packet, and the other."""
        self.opened = False
        """Whether that packet was the SYN that opens a connection."""
        self.verdict: str | None = None
        """tsp, ayiya or other, once its first bytes are known."""
        self.start: dict[bytes, bytearray] = {}
        """The first bytes that each end said, while there is no verdict."""
        self.wanted: dict[bytes, int] = {}
        """The sequence number that each end's next byte has."""
        self.said: set[bytes] = set()
        """Ends that sent data."""
        self.offered: Counter[bytes] = Counter()


def port_of(end: bytes) -> int:
    """The port of a packed endpoint."""
    return end[-2] << 8 | end[-1]


def ports_of(ends: tuple[bytes, bytes]) -> tuple[int, int]:
    """Both ports."""
    return port_of(ends[0]), port_of(ends[1])


def text_of(end: bytes) -> str:
    """A packed endpoint (or an address alone) for a person."""
    if len(end) in (6, 18):
        address = text_of(end[:-2])
        return f"[{address}]:{port_of(end)}" if len(end) == 18 else f"{address}:{port_of(end)}"
    return str(IPv4Address(end) if len(end) == 4 else IPv6Address(end))
