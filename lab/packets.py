"""Captured frames as rows, and what a NAT did to them.

`parse_packet` reads headers only, of the outer packet and of an IPv6 packet inside it, and never raises on a short or
strange frame; what it does not find is None.  It is no protocol analyser.
"""

from __future__ import annotations

import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from lab.wire import PORT

_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 41: "6in4", 58: "icmpv6"}
_ECHO: Final = frozenset({0, 8, 128, 129})


class Packet(NamedTuple):
    """The headers of one captured packet."""

    protocol: str | None = None
    """icmp, tcp, udp, 6in4, icmpv6, arp, or the protocol's number as text."""
    src: str | None = None
    sport: int | None = None
    """Port; of an ICMP echo its identifier."""
    dst: str | None = None
    dport: int | None = None
    hops: int | None = None
    """TTL or hop limit."""
    inner_src: str | None = None
    """Of an IPv6 packet inside IPv4 (protocol 41, or UDP on port 3653)."""
    inner_dst: str | None = None
    same: int | None = None
    """A checksum over what a NAT leaves as it is: the payload, with the sequence number of a TCP segment."""


def parse_packet(frame: bytes, link: int = 1) -> Packet:
    """The headers of a frame of an Ethernet (1) or raw IP (101) capture."""
    if link == 101:
        kind, packet = {4: 0x0800, 6: 0x86DD}.get(frame[0] >> 4 if frame else 0, 0), frame
    else:
        kind, packet = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == 0x0800 and len(packet) >= 20:
        return _parse_ipv4(packet)
    if kind == 0x86DD and len(packet) >= 40:
        src, dst = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
        return _parse_payload(packet[6], packet[40:], src, dst, packet[7])
    return Packet(protocol="arp" if kind == 0x0806 else None)


def _parse_ipv4(packet: bytes) -> Packet:
    src, dst = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
    payload = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big") or None]
    if int.from_bytes(packet[6:8], "big") & 0x1FFF:  # not the first fragment: no ports here
        protocol = _PROTOCOLS.get(packet[9], str(packet[9]))
        return Packet(protocol=protocol, src=src, dst=dst, hops=packet[8], same=zlib.crc32(payload))
    return _parse_payload(packet[9], payload, src, dst, packet[8])


def _parse_payload(number: int, payload: bytes, src: str, dst: str, hops: int) -> Packet:
    sport = dport = None
    inner, same = b"", payload
    if number in (6, 17) and len(payload) >= 8:
        sport, dport = int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
        same = payload[8:] if number == 17 else payload[4:16] + payload[20:]
        if number == 17 and PORT in (sport, dport):
            inner = payload[8:]
    elif number in (1, 58) and len(payload) >= 8 and payload[0] in _ECHO:
        sport = dport = int.from_bytes(payload[4:6], "big")
        same = payload[:1] + payload[6:]
    elif number == 41:
        inner = payload
    has_inner = len(inner) >= 40 and inner[0] >> 4 == 6
    return Packet(
        protocol=_PROTOCOLS.get(number, str(number)),
        src=src,
        sport=sport,
        dst=dst,
        dport=dport,
        hops=hops,
        inner_src=str(IPv6Address(inner[8:24])) if has_inner else None,
        inner_dst=str(IPv6Address(inner[24:40])) if has_inner else None,
        same=zlib.crc32(same),
    )


@dataclass(slots=True)
class Mapping:
    """What a NAT made of packets from one inside endpoint to one destination."""

    protocol: str
    inside: str
    inside_port: int | None
    """Port; of an ICMP echo its identifier; None for protocols without (protocol 41)."""
    outside: str
    outside_port: int | None
    dst: str
    dst_port: int | None
    first_s: float
    last_s: float
    """When the last packet left by it."""
    packets: int = 1


def find_mappings(
    inside: Iterable[tuple[float, Packet]], outside: Iterable[tuple[float, Packet]], own: set[str]
) -> Iterator[Mapping]:
    """The mappings of a NAT, from what was captured at its inside and outside interfaces, each in order of time.

    A packet that left is the one that came in before it with the same destination and payload.  `own` are the
    addresses of the NAT's inside interfaces.  In order of first use.
    """
    left: dict[object, deque[tuple[float, Packet]]] = defaultdict(deque)
    for at_s, packet in outside:
        left[_unchanged(packet)].append((at_s, packet))
    found: dict[object, Mapping] = {}
    for at_s, packet in inside:
        if packet.src is None or packet.src in own or packet.dst in own or packet.protocol is None:
            continue
        candidates = left.get(_unchanged(packet), deque())
        while candidates and candidates[0][0] < at_s:
            candidates.popleft()
        if not candidates:
            continue
        left_s, after = candidates.popleft()
        if after.src is None or packet.dst is None:
            continue
        port = None if packet.protocol == "icmp" else packet.dport
        key = (packet.protocol, packet.src, packet.sport, after.src, after.sport, packet.dst, port)
        if key in found:
            found[key].last_s = left_s
            found[key].packets += 1
        else:
            found[key] = Mapping(*key, first_s=left_s, last_s=left_s)
    yield from sorted(found.values(), key=lambda mapping: mapping.first_s)


def _unchanged(packet: Packet) -> tuple[object, ...]:
    """What of a packet that leaves a NAT is as it was."""
    port = None if packet.protocol == "icmp" else packet.dport
    return packet.protocol, packet.dst, port, packet.same
