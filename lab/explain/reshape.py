"""A packet made larger, or with fewer hops to live, its lengths and checksums right again.  Pure functions."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from lab.encap import PROTOCOL_41
from lab.generators.packets import internet_checksum, pseudo_header

_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_CHECKSUM_AT: Final = {_ICMP: 2, _TCP: 16, _UDP: 6, _ICMPV6: 2}
_DONT_FRAGMENT: Final = 0x4000
LARGEST: Final = 65535
"""Bytes of an IP packet."""


def resized(packet: bytes, size: int) -> bytes:
    """An IP packet with zeros at its end, `size` bytes in all, which no router may fragment.

    What is inside protocol 41 grows with it; what is inside UDP is followed by the zeros.  ValueError when it is larger
    than that, or `size` is more than an IP packet can have.
    """
    if not len(packet) <= size <= LARGEST:
        raise ValueError(f"a packet of this kind has {len(packet)} to {LARGEST} bytes, not {size}")
    made = bytearray(packet + bytes(size - len(packet)))
    start = _transport(made)
    if made[0] >> 4 == 4:
        struct.pack_into("!H", made, 2, size)
        struct.pack_into("!H", made, 6, _DONT_FRAGMENT)
        _sum_header(made, start)
    else:
        struct.pack_into("!H", made, 4, size - start)
    protocol = made[9] if made[0] >> 4 == 4 else made[6]
    if protocol == PROTOCOL_41:
        made[start:] = resized(packet[start:], size - start)
    if protocol == _UDP:
        struct.pack_into("!H", made, start + 4, size - start)
    if protocol in _CHECKSUM_AT:
        _sum_transport(made, start, protocol)
    return bytes(made)


def with_ttl(packet: bytes, ttl: int) -> bytes:
    """An IP packet that `ttl` - 1 routers forward.  ValueError when that is not 1 to 255."""
    if not 1 <= ttl <= 255:
        raise ValueError(f"a time to live is 1 to 255, not {ttl}")
    made = bytearray(packet)
    if made[0] >> 4 == 4:
        made[8] = ttl
        _sum_header(made, _transport(made))
    else:
        made[7] = ttl
    return bytes(made)


def _transport(packet: bytearray) -> int:
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40


def _sum_header(packet: bytearray, length: int) -> None:
    struct.pack_into("!H", packet, 10, 0)
    struct.pack_into("!H", packet, 10, internet_checksum(bytes(packet[:length])))


def _sum_transport(packet: bytearray, start: int, protocol: int) -> None:
    at = start + _CHECKSUM_AT[protocol]
    struct.pack_into("!H", packet, at, 0)
    segment = bytes(packet[start:])
    if protocol != _ICMP:
        ends = bytes(packet[12:20] if packet[0] >> 4 == 4 else packet[8:40])
        half = len(ends) // 2
        length = len(segment)
        if half == 4:
            pseudo = pseudo_header(IPv4Address(ends[:half]), IPv4Address(ends[half:]), protocol, length)
        else:
            pseudo = pseudo_header(IPv6Address(ends[:half]), IPv6Address(ends[half:]), protocol, length)
        segment = pseudo + segment
    # A UDP checksum of 0 would say that there is none (RFC 768).
    struct.pack_into("!H", packet, at, internet_checksum(segment) or (0xFFFF if protocol == _UDP else 0))
