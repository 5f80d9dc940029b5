"""The eight bytes before each TSP message over UDP, and telling signalling from data (RFC 5572 section 4.4.1.2).

    byte 0        bits 7..4 = 0xF marker, bits 3..0 = sequence bits 27..24
    bytes 1..3    sequence bits 23..0      (28 bits, network order)
    bytes 4..7    timestamp                (32 bits, network order, unit and start are the sender's own)

Client and broker share one UDP port for signalling and v6udpv4 data.  Byte 0 tells them apart: high nibble
0xF is signalling, 6 is a bare IPv6 packet, anything else is neither.  Some old clients on little-endian
machines send the first four bytes reversed; their marker is in byte 3, which is looked at only when byte 0
cannot be the start of a header or of an IP packet.  Testing byte 3 first would take one IPv6 flow label in
sixteen for signalling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from lab.errors import RemoteProtocolError

HEADER_LENGTH: Final = 8
FIRST_SEQUENCE: Final = 240
"""A client's first number: 0xF0000000 + 240 is f0 00 00 f0, which old brokers of either byte order understand."""

_MARKER: Final = 0xF0000000
_SEQUENCE_MASK: Final = 0x0FFFFFFF


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one datagram.  The broker sends both numbers back as they came."""

    sequence: int
    """28 bits, plus one for every new message, the same on a message sent again."""
    timestamp: int
    """32 bits, the client's clock when this very datagram was sent."""
    reversed: bool = False
    """True when the first four bytes came in little-endian order, and must go back so."""


def classify(datagram: bytes) -> Literal["signalling", "data", "other"]:
    """What a datagram on port 3653 is, by its first bytes."""
    if not datagram:
        return "other"
    nibble = datagram[0] >> 4
    if nibble == 0xF:
        return "signalling"
    if nibble == 6:
        return "data"
    if nibble != 4 and len(datagram) >= HEADER_LENGTH and datagram[3] >> 4 == 0xF:
        return "signalling"
    return "other"


def parse_header(datagram: bytes) -> tuple[Header, bytes]:
    """The header and the message after it.  Raises `RemoteProtocolError` when this is no signalling datagram."""
    if len(datagram) < HEADER_LENGTH:
        raise RemoteProtocolError(f"a signalling datagram has at least {HEADER_LENGTH} bytes, this one {len(datagram)}")
    if classify(datagram) != "signalling":
        raise RemoteProtocolError(f"no signalling marker in {datagram[:4].hex(' ')}")
    backwards = datagram[0] >> 4 != 0xF
    word = int.from_bytes(datagram[:4], "little" if backwards else "big")
    timestamp = int.from_bytes(datagram[4:8], "big")
    return Header(word & _SEQUENCE_MASK, timestamp, backwards), bytes(datagram[HEADER_LENGTH:])


def format_header(header: Header) -> bytes:
    """The eight bytes of a header, in the order in which the peer writes them."""
    word = _MARKER | (header.sequence & _SEQUENCE_MASK)
    order: Literal["little", "big"] = "little" if header.reversed else "big"
    return word.to_bytes(4, order) + (header.timestamp & 0xFFFFFFFF).to_bytes(4, "big")
