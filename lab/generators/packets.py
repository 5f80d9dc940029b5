"""IPv4, IPv6, UDP, TCP and ICMPv6 as bytes, with lengths and checksums filled in.  Pure functions.

Only what a generator of single packets needs: no options, no fragmentation, no state.  Addresses are ipaddress
objects; a transport header takes them because its checksum covers them (RFC 768, RFC 9293, RFC 8200 section 8.1).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

ICMPV6: Final = 58
TCP: Final = 6
UDP: Final = 17

SYN: Final = 0x02
PSH_ACK: Final = 0x18

Address = TypeVar("Address", IPv4Address, IPv6Address)


def internet_checksum(data: bytes) -> int:
    """The 16-bit checksum of RFC 1071; 0 over data that contains a right one."""
    if len(data) % 2:
        data += b"\0"
    # A number is congruent to the sum of its digits modulo the base less one; here the digits are the 16-bit words.
    rest = int.from_bytes(data, "big") % 0xFFFF
    return 0xFFFF - rest if rest else (0 if any(data) else 0xFFFF)


def pseudo_header(src: Address, dst: Address, protocol: int, length: int) -> bytes:
    """What UDP, TCP and ICMPv6 checksums cover besides the segment (RFC 768, RFC 8200 section 8.1)."""
    if src.version == 4:
        return src.packed + dst.packed + struct.pack("!BBH", 0, protocol, length)
    return src.packed + dst.packed + struct.pack("!II", length, protocol)


def ipv4(
    src: IPv4Address, dst: IPv4Address, protocol: int, payload: bytes, *, ttl: int = 64, identification: int = 1
) -> bytes:
    """An IPv4 packet (RFC 791), not fragmented, without options."""
    length = 20 + len(payload)
    fixed = struct.pack("!BBHHHBB", 0x45, 0, length, identification, 0, ttl, protocol)
    addresses = src.packed + dst.packed
    checksum = internet_checksum(fixed + b"\0\0" + addresses)
    return fixed + checksum.to_bytes(2, "big") + addresses + payload


def ipv6(src: IPv6Address, dst: IPv6Address, next_header: int, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """An IPv6 packet (RFC 8200) whose payload begins with the header called `next_header`."""
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, hop_limit) + src.packed + dst.packed + payload


def ip(src: Address, dst: Address, protocol: int, payload: bytes) -> bytes:
    """An IPv4 or IPv6 packet, by the version of the addresses."""
    if isinstance(src, IPv4Address):
        return ipv4(src, dst, protocol, payload)
    return ipv6(src, dst, protocol, payload)


def udp(src: Address, dst: Address, source_port: int, destination_port: int, payload: bytes) -> bytes:
    """A UDP datagram (RFC 768) in an IP packet."""
    length = 8 + len(payload)
    ports = struct.pack("!HHH", source_port, destination_port, length)
    checksum = internet_checksum(pseudo_header(src, dst, UDP, length) + ports + b"\0\0" + payload)
    return ip(src, dst, UDP, ports + (checksum or 0xFFFF).to_bytes(2, "big") + payload)


def tcp(
    src: Address,
    dst: Address,
    source_port: int,
    destination_port: int,
    payload: bytes = b"",
    *,
    flags: int = SYN,
    sequence: int = 0,
    acknowledgement: int = 0,
) -> bytes:
    """A TCP segment (RFC 9293) without options in an IP packet."""
    start = struct.pack(
        "!HHIIBBH", source_port, destination_port, sequence, acknowledgement, 5 << 4, flags, 0xFFFF
    )  # fmt: skip
    length = 20 + len(payload)
    checksum = internet_checksum(pseudo_header(src, dst, TCP, length) + start + bytes(4) + payload)
    return ip(src, dst, TCP, start + struct.pack("!HH", checksum, 0) + payload)


def icmpv6(src: IPv6Address, dst: IPv6Address, kind: int, code: int, body: bytes, *, hop_limit: int = 64) -> bytes:
    """An ICMPv6 message (RFC 4443) in an IPv6 packet; `body` is what follows the checksum."""
    start = struct.pack("!BB", kind, code)
    checksum = internet_checksum(pseudo_header(src, dst, ICMPV6, 4 + len(body)) + start + b"\0\0" + body)
    return ipv6(src, dst, ICMPV6, start + checksum.to_bytes(2, "big") + body, hop_limit=hop_limit)


def echo_request(src: IPv6Address, dst: IPv6Address, data: bytes, *, identifier: int = 1, sequence: int = 1) -> bytes:
    """An ICMPv6 echo request (RFC 4443 section 4.1) in an IPv6 packet."""
    return icmpv6(src, dst, 128, 0, struct.pack("!HH", identifier, sequence) + data)


def neighbor_solicitation(src: IPv6Address, target: IPv6Address, options: bytes) -> bytes:
    """A neighbour solicitation (RFC 4861 section 4.3) to the solicited-node group of `target`."""
    return icmpv6(src, solicited_node(target), 135, 0, bytes(4) + target.packed + options, hop_limit=255)


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The solicited-node multicast address (RFC 4291 section 2.7.1)."""
    return IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[13:])
