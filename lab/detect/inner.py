"""Is this an IPv6 packet?  The tests that payload must pass before anyone says that IPv6 is carried in it.

A version nibble proves nothing: one random datagram in sixteen has it.  So a packet counts as IPv6 only if every
length in it agrees with every other, the headers chain up to one that exists, the addresses are such as travel, and,
where the bytes are all there, the checksum of what is inside is right.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

_HEADER: Final = 40
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140})
"""Extension headers of the common form: next header, length in units of 8 bytes (RFC 6564)."""
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_NO_NEXT: Final = 59
_TCP: Final = 6
_UDP: Final = 17
_ICMPV6: Final = 58
_UNCHECKED: Final = frozenset({4, 33, 41, 47, 50, 89, 103, 112, 115, 132, 136})
"""Payloads that exist, but whose checksum is not looked into: DCCP, GRE, ESP, OSPF, SCTP and so on."""
_LEAST: Final = {_TCP: 20, _UDP: 8, _ICMPV6: 4}

_ANY: Final = bytes(16)
TEREDO_PREFIX: Final = b"\x20\x01\0\0"


@dataclass(frozen=True, slots=True)
class Inner:
    """An IPv6 packet found in a payload."""

    src: bytes
    dst: bytes
    verified: bool | None
    """Whether the checksum inside is right; None where there is none or not all bytes are there."""
    length: int
    """Bytes of the IPv6 packet, from its own header."""
    router_discovery: bool = False
    """A router solicitation or advertisement."""


def parse_inner(data: bytes, length: int, *, trailer: bool = False) -> Inner | None:
    """The IPv6 packet that makes up a payload of `length` bytes, of which `data` was captured; None if it is none.

    With `trailer`, bytes may follow the packet.
    """
    if len(data) < _HEADER or data[0] >> 4 != 6:
        return None
    own = _HEADER + (data[4] << 8 | data[5])
    if own > length or (own != length and not trailer):
        return None
    src, dst = data[8:24], data[24:40]
    if data[7] == 0 or not _may_travel(src, dst):
        return None
    data = data[:own]
    kind, at, fragment = data[6], _HEADER, False
    for _ in range(8):
        if kind == _FRAGMENT:
            step, fragment = 8, True
        elif kind in _EXTENSIONS:
            step = (data[at + 1] + 1) * 8 if at + 1 < len(data) else 8
        elif kind == _AUTHENTICATION:
            step = (data[at + 1] + 2) * 4 if at + 1 < len(data) else 12
        else:
            break
        if at + step > own:
            return None
        if at + step > len(data):
            return Inner(src, dst, None, own)  # cut off within its headers: all that is there agrees
        if fragment and kind == _FRAGMENT and (data[at + 2] << 8 | data[at + 3]) & 0xFFF8:
            return Inner(src, dst, None, own)  # a later fragment: what follows is no header
        kind, at = data[at], at + step
    return _judge_payload(data, kind, at, own, fragment, src, dst)


def _may_travel(src: bytes, dst: bytes) -> bool:
    """Whether a packet with these addresses may be in a tunnel: only what is assigned (RFC 4291, RFC 4193) is."""
    return (_assigned(src) or src == _ANY) and (_assigned(dst) or dst[0] == 0xFF)


def _assigned(address: bytes) -> bool:
    """Global unicast 2000::/3, NAT64's 64:ff9b::/32, unique local fc00::/7 or link-local fe80::/10."""
    first = address[0]
    if first >> 5 == 1 or first & 0xFE == 0xFC:
        return True
    return (first == 0xFE and address[1] & 0xC0 == 0x80) or address[:4] == b"\0\x64\xff\x9b"


def _judge_payload(data: bytes, kind: int, at: int, own: int, fragment: bool, src: bytes, dst: bytes) -> Inner | None:
    """What the header at `at`, of the kind `kind`, makes of the packet."""
    rest = own - at
    if kind == _NO_NEXT or kind in _UNCHECKED:
        return Inner(src, dst, None, own)
    least = _LEAST.get(kind)
    if least is None or rest < least:
        return None
    whole = len(data) == own and not fragment
    if kind == _UDP and not fragment and len(data) >= at + 6 and (data[at + 4] << 8 | data[at + 5]) != rest:
        return None
    if kind == _TCP and len(data) > at + 12 and not 20 <= (data[at + 12] >> 4) * 4 <= (own if fragment else rest):
        return None
    discovery = kind == _ICMPV6 and len(data) > at and data[at] in (133, 134)
    verified = None
    if whole:
        total = int.from_bytes(src + dst + struct.pack("!II", rest, kind) + _even(data[at:]), "big")
        verified = total % 0xFFFF == 0
    return Inner(src, dst, verified, own, discovery)


def _even(data: bytes) -> bytes:
    return data + b"\0" if len(data) % 2 else data


# --- what may stand in front of it -----------------------------------------------------------------------------


def parse_teredo(data: bytes, length: int) -> Inner | None:
    """The IPv6 packet of a Teredo datagram: authentication and origin indication in front, trailers behind.

    RFC 4380 section 5.1.1, RFC 6081.  None when the packet has nothing to do with Teredo addresses, unless it is
    router discovery with an indication in front, or when anything disagrees.
    """
    at = 0
    if data[:2] == b"\0\1" and len(data) >= 4:  # authentication: identifier, value, nonce of 8 bytes, confirmation
        at = 4 + data[2] + data[3] + 9
    if data[at : at + 2] == b"\0\0" and length >= at + 8:  # origin indication: port and address of the client
        at += 8
    found = parse_inner(data[at:], length - at)
    if found is None:
        found = parse_inner(data[at:], length - at, trailer=True)
        if found is None or not (found.verified or data[at + 6] == _NO_NEXT):
            return None
    teredo = TEREDO_PREFIX in (found.src[:4], found.dst[:4])
    return found if teredo or (at and found.router_discovery) else None


def parse_ayiya(data: bytes, length: int, *, any_kind: bool) -> Inner | Literal[True] | None:
    """What an AYIYA packet carries: an `Inner`, or True for nothing; None if this is no AYIYA packet.

    draft-massar-v6ops-ayiya-02 section 4.  Without `any_kind` only the packets of tunnels are taken: an identity of
    16 bytes and IPv6 inside.
    """
    if len(data) < 8:
        return None
    identity, signature, method = data[0] >> 4, data[1] >> 4, data[1] & 15
    if method > 2 or signature != (0, 4, 5)[method]:  # none, MD5, SHA-1, in units of 4 bytes
        return None
    if data[2] >> 4 > 2 or data[2] & 15 > 7 or not 1 <= data[0] & 15 <= 3:
        return None
    header = 8 + (1 << identity) + 4 * signature
    if data[3] == 41:
        if not any_kind and data[0] != 0x41:
            return None
        return parse_inner(data[header:], length - header)
    return True if any_kind and data[3] == _NO_NEXT and header == length else None
