"""Goes through a capture once and keeps, per flow, only what is needed to judge it at the end.

Protocol 41 and EtherType 0x86DD speak for themselves.  In UDP and TCP nothing is believed for its port: a flow is TSP
for what is said in it, and carries IPv6 if whole, consistent packets are in it.  What an odd port needs beyond that:

    TSP control     a message that only TSP has
    TSP data        TSP in the same flow, or with the same broker; else two packets with an address in common
    Teredo          a packet with an address in 2001::/32
    AYIYA           its header, with lengths that agree, and IPv6 behind it

A port alone says something only for a TCP connection to it in which nothing was said.  Nothing here raises for what
a frame contains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from lab.capfile import CaptureFile
from lab.detect import link, speech
from lab.detect.filters import AYIYA_PORT, TEREDO_PORT
from lab.detect.findings import Mechanism, Report
from lab.detect.flows import Tally, TcpFlow, UdpFlow, port_of
from lab.detect.inner import TEREDO_PREFIX, parse_ayiya, parse_inner, parse_teredo
from lab.detect.judge import PairEntry, judge
from lab.detect.protocol41 import Shape, SixRd, Verdict, classify

_MOST_FLOWS: Final = 50_000
_MOST_PAIRS: Final = 50_000
_MOST_FRAGMENTS: Final = 4_096
_START: Final = 64
"""Bytes of a TCP stream that are kept to tell what it is."""
_HEADER: Final = 40

_OTHER: Final = TcpFlow((b"", b""))
"""Stands for every connection known to be none of ours."""
_OTHER.verdict = "other"


def detect(path: Path | str, sixrd: Sequence[SixRd] = ()) -> Report:
    """What transition mechanisms are in a capture file; `sixrd` are the 6rd domains to tell apart from 6in4.

    Raises UsageError when it is no capture file.
    """
    file = CaptureFile(path)
    detector = Detector(sixrd)
    for at_s, kind, frame, _ in file:
        detector.frame(at_s, kind, frame)
    return detector.report([file.damage] if file.damage else [])


class Detector:
    """Takes frames in, gives a report out; `report` may be called at any time."""

    def __init__(self, sixrd: Sequence[SixRd] = ()) -> None:
        self._domains = tuple(sixrd)
        self._frames = 0
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._unknown_links: dict[int, int] = {}
        self._malformed = 0
        self._forgotten = 0
        self._udp_flows: dict[tuple[bytes, bytes], UdpFlow] = {}
        self._tcp_flows: dict[tuple[bytes, bytes], TcpFlow] = {}
        self._pairs: dict[tuple[object, ...], PairEntry] = {}
        self._verdicts: dict[bytes, Verdict] = {}
        self._fragments: dict[bytes, Tally] = {}
        self._orphans: dict[bytes, list[tuple[float, int]]] = {}

    def frame(self, at_s: float, kind: int, frame: bytes) -> None:
        """Look at one frame of link type `kind`, captured at `at_s`."""
        self._frames += 1
        if self._first_s is None or at_s < self._first_s:
            self._first_s = at_s
        if self._last_s is None or at_s > self._last_s:
            self._last_s = at_s
        if kind == 1 and frame[12:14] == b"\x08\x00":
            self._ipv4(at_s, frame, 14)
            return
        ethertype, at = link.find_ip(kind, frame)
        if ethertype == link.IPV4:
            self._ipv4(at_s, frame, at)
        elif ethertype == link.IPV6:
            self._ipv6(at_s, frame, at, bare=kind in link.WITHOUT_LINK_LAYER)
        elif kind not in link.KNOWN:
            self._unknown_links[kind] = self._unknown_links.get(kind, 0) + 1

    def report(self, notes: Iterable[str] = ()) -> Report:
        """The judgement on all frames so far."""
        found = list(notes)
        if self._malformed:
            found.append(f"{self._malformed} packets have an IP header that makes no sense, and were not looked into")
        for kind, frames in sorted(self._unknown_links.items()):
            found.append(f"{frames} frames have link type {kind}, which is not known here")
        if self._forgotten:
            found.append(f"{self._forgotten} flows or pairs of hosts were forgotten: too many to keep track of")
        findings = judge(self._udp_flows.values(), self._tcp_flows.values(), self._pairs.values())
        return Report(findings, self._frames, self._first_s, self._last_s, tuple(found))

    # ------------------------------------------------------------------ network layer

    def _ipv4(self, at_s: float, frame: bytes, at: int) -> None:
        if len(frame) < at + 20 or frame[at] >> 4 != 4:
            self._malformed += 1
            return
        header = (frame[at] & 15) * 4
        # 0 is what a segmentation offload leaves in packets above 64 KiB.
        total = frame[at + 2] << 8 | frame[at + 3] or len(frame) - at
        if header < 20 or total < header:
            self._malformed += 1
            return
        protocol = frame[at + 9]
        if protocol not in (6, 17, 41):
            return
        flags = frame[at + 6] << 8 | frame[at + 7]
        if flags & 0x1FFF:
            self._later_fragment(at_s, total, _fragment_key(frame, at))
            return
        src, dst = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
        data = frame[at + header : at + total]
        more = flags & 0x2000 != 0
        if protocol == 17:
            tally = self._udp(at_s, total, src, dst, data, total - header, more)
        elif protocol == 6:
            tally = self._tcp(at_s, total, src, dst, data)
        else:
            tally = self._protocol41(at_s, total, src, dst, data, total - header, more)
        if more and tally is not None:
            self._first_fragment(tally, _fragment_key(frame, at))

    def _ipv6(self, at_s: float, frame: bytes, at: int, *, bare: bool) -> None:
        if len(frame) < at + _HEADER or frame[at] >> 4 != 6:
            self._malformed += 1
            return
        rest = frame[at + 4] << 8 | frame[at + 5]
        total = _HEADER + rest
        src, dst = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        self._pair(Mechanism.NATIVE, bare, src, dst).add(at_s, total)
        data = frame[at + _HEADER : at + total]
        if frame[at + 6] == 17:
            self._udp(at_s, total, src, dst, data, rest, False)
        elif frame[at + 6] == 6:
            self._tcp(at_s, total, src, dst, data)

    def _first_fragment(self, tally: Tally, key: bytes) -> None:
        for at_s, size in self._orphans.pop(key, ()):
            tally.add(at_s, size)
        self._fragments[key] = tally
        _shrink(self._fragments, _MOST_FRAGMENTS)

    def _later_fragment(self, at_s: float, size: int, key: bytes) -> None:
        tally = self._fragments.get(key)
        if tally is not None:
            tally.add(at_s, size)
            return
        waiting = self._orphans.setdefault(key, [])
        if len(waiting) < 64:
            waiting.append((at_s, size))
        _shrink(self._orphans, _MOST_FRAGMENTS)

    # ------------------------------------------------------------------ pairs of hosts

    def _pair(self, mechanism: Mechanism, variant: object, src: bytes, dst: bytes) -> PairEntry:
        low, high = (src, dst) if src < dst else (dst, src)
        key = (mechanism, variant, low, high)
        entry = self._pairs.get(key)
        if entry is None:
            if len(self._pairs) >= _MOST_PAIRS:
                self._forgotten += 1
                return PairEntry(mechanism, (src, dst), variant)
            entry = self._pairs[key] = PairEntry(mechanism, (src, dst), variant)
        return entry

    def _protocol41(
        self, at_s: float, size: int, src: bytes, dst: bytes, data: bytes, length: int, more: bool
    ) -> Tally | None:
        if len(data) < _HEADER or data[0] >> 4 != 6:
            return None
        if _HEADER + (data[4] << 8 | data[5]) > length and not more:
            return None
        key = src + dst + data[8:40]
        verdict = self._verdicts.get(key)
        if verdict is None:
            _shrink(self._verdicts, _MOST_PAIRS)
            verdict = self._verdicts[key] = classify(src, dst, data[8:24], data[24:40], self._domains)
        entry = self._pair(verdict.mechanism, verdict.shape, src, dst)
        entry.add(at_s, size)
        entry.note_addresses(key[8:24], key[24:40])
        entry.reasons.setdefault(verdict.why, verdict.confidence)
        if verdict.mechanism is Mechanism.SIX_OVER_FOUR and verdict.shape is Shape.MULTICAST:
            entry.members.add(src)
        return entry

    # ------------------------------------------------------------------ UDP

    def _udp(self, at_s: float, size: int, src: bytes, dst: bytes, data: bytes, room: int, more: bool) -> Tally | None:
        if len(data) < 12:
            return None
        length = (data[4] << 8 | data[5]) - 8
        if length < 8 or (length + 8 > room and not more):
            return None
        marker = data[8] >> 4
        ayiya_port = data[0:2] == _AYIYA or data[2:4] == _AYIYA
        # The quick way out: most of what is sent begins otherwise.
        if marker not in (0, 4, 6, 15) and data[11] < 0xF0 and not ayiya_port:
            return None
        ends = (src + data[:2], dst + data[2:4])
        payload = data[8 : 8 + length]
        if marker == 6:
            inner = parse_inner(payload, length)
            if inner is not None and TEREDO_PREFIX not in (inner.src[:4], inner.dst[:4]):
                flow = self._udp_flow(ends)
                flow.data.add(at_s, size)
                flow.data.note(inner)
                return flow.data
        if marker in (0, 6):
            inner = parse_teredo(payload, length)
            if inner is None and marker == 6 and TEREDO_PORT in (port_of(ends[0]), port_of(ends[1])):
                inner = parse_inner(payload, length)
            if inner is not None:
                flow = self._udp_flow(ends)
                flow.teredo.add(at_s, size)
                flow.teredo.note(inner)
                return flow.teredo
        if marker == 4 or ayiya_port:
            carried = parse_ayiya(payload, length, any_kind=ayiya_port)
            if carried is not None:
                flow = self._udp_flow(ends)
                flow.ayiya.add(at_s, size)
                if carried is True:
                    flow.ayiya.unknown += 1
                else:
                    flow.ayiya.note(carried)
                return flow.ayiya
        return self._signalling(at_s, size, ends, payload, length)

    def _signalling(
        self, at_s: float, size: int, ends: tuple[bytes, bytes], payload: bytes, length: int
    ) -> Tally | None:
        """A datagram that may have the header of RFC 5572 section 4.4.1.2, or that of old little-endian clients."""
        marked = payload[0] >= 0xF0
        if not marked and (len(payload) < 4 or payload[3] < 0xF0):
            return None
        text = payload[8:]
        speaker = speech.speaker(text) if text else None
        if speaker is None:
            known = self._udp_flows.get(ends if ends[0] < ends[1] else (ends[1], ends[0]))
            # Else kept in case it turns out to be TSP later on: an empty message, or text.
            if (known is None or not known.is_tsp) and (not marked or text[:1] > b"\x7f"):
                return None
        flow = self._udp_flow(ends)
        flow.tsp.add(at_s, size)
        if speaker is not None:
            flow.speakers.setdefault(speaker, ends[0])
            for address in speech.addresses(text):
                flow.offered[address] += 1
        return flow.tsp

    def _udp_flow(self, ends: tuple[bytes, bytes]) -> UdpFlow:
        key = ends if ends[0] < ends[1] else (ends[1], ends[0])
        flow = self._udp_flows.get(key)
        if flow is None:
            if len(self._udp_flows) >= _MOST_FLOWS:
                self._forget_udp()
            flow = self._udp_flows[key] = UdpFlow(ends)
        return flow

    def _forget_udp(self) -> None:
        """Make room: first go flows with a single packet of interest, the oldest before the others."""
        for limit in (1, 8, 1 << 62):
            weak = [
                key
                for key, flow in self._udp_flows.items()
                if (not flow.is_tsp and flow.data.packets + flow.teredo.packets + flow.ayiya.packets <= limit)
                or limit > 8
            ]
            if weak:
                for key in weak[: _MOST_FLOWS // 8]:
                    del self._udp_flows[key]
                self._forgotten += min(len(weak), _MOST_FLOWS // 8)
                return

    # ------------------------------------------------------------------ TCP

    def _tcp(self, at_s: float, size: int, src: bytes, dst: bytes, data: bytes) -> Tally | None:
        if len(data) < 20:
            return None
        here, there = src + data[:2], dst + data[2:4]
        key = (here, there) if here < there else (there, here)
        flow = self._tcp_flows.get(key)
        opens = data[13] & 0x12 == 0x02  # SYN without ACK
        if flow is None or (flow is _OTHER and opens):
            if len(self._tcp_flows) >= _MOST_FLOWS:
                self._forget_tcp()
            flow = self._tcp_flows[key] = TcpFlow((here, there))
            flow.opened = opens
        if flow is _OTHER:
            return None
        flow.add(at_s, size)
        payload = data[(data[12] >> 4) * 4 :] if data[12] >= 0x50 else b""
        sequence = int.from_bytes(data[4:8], "big")
        if data[13] & 2:
            sequence += 1
            if flow.verdict is None:
                flow.wanted[here] = sequence & 0xFFFFFFFF
                flow.start.pop(here, None)
        if payload:
            flow.said.add(here)
            if flow.verdict is None:
                self._begin_stream(flow, key, here, sequence & 0xFFFFFFFF, payload)
            if flow.verdict == "tsp":
                for address in speech.addresses(payload):
                    flow.offered[address] += 1
        return flow

    def _begin_stream(self, flow: TcpFlow, key: tuple[bytes, bytes], here: bytes, sequence: int, data: bytes) -> None:
        """Look at the first bytes of a connection, of the end that opened it where that is known."""
        if flow.opened and here != flow.ends[0]:
            return
        if flow.wanted.setdefault(here, sequence) != sequence:
            return  # out of order or sent again
        start = flow.start.setdefault(here, bytearray())
        start += data[: _START - len(start)]
        flow.wanted[here] = sequence + len(data) & 0xFFFFFFFF
        begins = speech.begins_session(bytes(start))
        if begins or (begins is False and not flow.opened and speech.speaker(data) is not None):
            flow.verdict = "tsp"
        elif begins is False:
            ayiya = AYIYA_PORT in (port_of(key[0]), port_of(key[1]))
            carried = parse_ayiya(data, len(data), any_kind=ayiya)
            if carried is None:
                self._tcp_flows[key] = _OTHER
                return
            flow.verdict = "ayiya"
            if carried is not True:
                flow.offered.update((carried.src, carried.dst))
        if flow.verdict:
            flow.start.clear()

    def _forget_tcp(self) -> None:
        """Make room: connections known to be none of ours, else the oldest."""
        others = [key for key, flow in self._tcp_flows.items() if flow is _OTHER]
        if others:
            for key in others:
                del self._tcp_flows[key]
            return
        for key in list(self._tcp_flows)[: _MOST_FLOWS // 8]:
            del self._tcp_flows[key]
            self._forgotten += 1


_AYIYA: Final = AYIYA_PORT.to_bytes(2, "big")


def _fragment_key(frame: bytes, at: int) -> bytes:
    """Addresses, protocol and identification: what fragments of one packet share (RFC 791 section 3.2)."""
    return frame[at + 12 : at + 20] + frame[at + 9 : at + 10] + frame[at + 4 : at + 6]


def _shrink(table: dict[bytes, Any], most: int) -> None:
    """Take the oldest entries out of a table that has become too long."""
    if len(table) > most:
        for key in list(table)[: most // 8]:
            del table[key]
