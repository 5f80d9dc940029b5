"""Which mechanism put an IPv6 packet behind IPv4 protocol 41: seven use that number, and their addresses part them.

A mechanism that derives IPv6 addresses from IPv4 ones is recognised by an inner address that contains the outer one
of the same end.  Where nothing is derived it is a configured tunnel, 6in4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from lab.detect.findings import Confidence, Mechanism
from lab.errors import UsageError

_RELAYS: Final = bytes((192, 88, 99))
_ISATAP: Final = frozenset({b"\0\0\x5e\xfe", b"\2\0\x5e\xfe"})


class Shape(Enum):
    """What else matters about a packet."""

    PLAIN = "plain"
    MULTICAST = "multicast"
    """To a group of a 6over4 link: the source is one of its hosts."""
    LINK_LOCAL_BY_IPV4 = "link-local"
    """Between link-local addresses made of the outer ones: both 6over4 and configured tunnels have them
    (RFC 2529 section 5, RFC 4213 section 3.7)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a packet's addresses say."""

    mechanism: Mechanism
    confidence: Confidence
    why: str
    shape: Shape = Shape.PLAIN


@dataclass(frozen=True, slots=True)
class SixRd:
    """An ISP's 6rd domain (RFC 5969 section 4)."""

    prefix: IPv6Network
    common: int = 0
    """Bits that all its IPv4 addresses begin with, which the IPv6 addresses leave out (IPv4MaskLen)."""

    def contains(self, inner: bytes, outer: bytes) -> bool:
        """Whether `inner` is the 6rd address of `outer`."""
        number = int.from_bytes(inner, "big")
        bits = 32 - self.common
        length = self.prefix.prefixlen
        if number >> (128 - length) != int(self.prefix.network_address) >> (128 - length):
            return False
        embedded = number >> (128 - length - bits) & ((1 << bits) - 1)
        return embedded == int.from_bytes(outer, "big") & ((1 << bits) - 1)


def parse_sixrd(text: str) -> SixRd:
    """PREFIX or PREFIX,IPV4NETWORK, such as 2001:db8::/32 or 2001:db8::/40,10.0.0.0/8.  Raises UsageError."""
    prefix, _, network = text.partition(",")
    try:
        domain = SixRd(IPv6Network(prefix), IPv4Network(network).prefixlen if network else 0)
    except ValueError as exc:
        raise UsageError(f"6rd prefix {text!r}: {exc}; write 2001:db8::/32 or 2001:db8::/40,10.0.0.0/8") from exc
    if domain.prefix.prefixlen + 32 - domain.common > 64:
        raise UsageError(
            f"6rd prefix {text!r}: {32 - domain.common} bits of IPv4 address do not fit between it and bit 64"
            " (RFC 5969 section 4); name the IPv4 network too, such as 2001:db8::/40,10.0.0.0/8"
        )
    return domain


def classify(src: bytes, dst: bytes, inner_src: bytes, inner_dst: bytes, domains: Sequence[SixRd]) -> Verdict:
    """The mechanism of a protocol-41 packet, by its outer (4 bytes each) and inner (16 bytes each) addresses."""
    ends = ((src, inner_src), (dst, inner_dst))
    if any(inner[:2] == b"\x20\x02" and inner[2:6] == outer for outer, inner in ends):
        return Verdict(
            Mechanism.SIX_TO_FOUR, Confidence.CERTAIN, "an inner address in 2002::/16 contains the outer one"
        )
    if any(outer[:3] == _RELAYS for outer, _ in ends) and b"\x20\x02" in (inner_src[:2], inner_dst[:2]):
        return Verdict(
            Mechanism.SIX_TO_FOUR, Confidence.CERTAIN, "an inner address in 2002::/16, by a relay's anycast address"
        )
    if any(inner[8:12] in _ISATAP and inner[12:] == outer for outer, inner in ends):
        return Verdict(Mechanism.ISATAP, Confidence.CERTAIN, "an inner address ends in 5efe and the outer address")
    for domain in domains:
        if any(domain.contains(inner, outer) for outer, inner in ends):
            return Verdict(
                Mechanism.SIX_RD,
                Confidence.CERTAIN,
                f"an inner address is the outer one's in the 6rd prefix {domain.prefix}",
            )
    if dst[0] == 239:
        why = "protocol 41 to IPv4 multicast in 239.0.0.0/8"
        return Verdict(Mechanism.SIX_OVER_FOUR, Confidence.CERTAIN, why, Shape.MULTICAST)
    if all(inner[8:12] == bytes(4) and inner[12:] == outer for outer, inner in ends):
        if inner_src[:2] == inner_dst[:2] == b"\xfe\x80":
            return Verdict(
                Mechanism.SIX_IN_FOUR, Confidence.CERTAIN, "protocol 41 with IPv6 inside", Shape.LINK_LOCAL_BY_IPV4
            )
        return Verdict(
            Mechanism.SIX_OVER_FOUR, Confidence.LIKELY, "both inner interface identifiers are the outer addresses"
        )
    for outer, inner in ends:
        if (at := _embedded_at(inner, outer)) is not None:
            return Verdict(
                Mechanism.SIX_RD,
                Confidence.LIKELY,
                f"an inner address contains the outer one from bit {at} on, as 6rd's do; --6rd-prefix would settle it",
            )
    return Verdict(Mechanism.SIX_IN_FOUR, Confidence.CERTAIN, "protocol 41 with IPv6 inside")


def _embedded_at(inner: bytes, outer: bytes) -> int | None:
    """The length of the prefix in front of `outer` in `inner`, from 16 to 32 bits, as an ISP's 6rd prefix has."""
    if inner[0] >> 5 != 1:  # 2000::/3, the only global unicast addresses there are
        return None
    high, wanted = int.from_bytes(inner[:8], "big"), int.from_bytes(outer, "big")
    return next((at for at in range(16, 33) if high >> (32 - at) & 0xFFFFFFFF == wanted), None)
