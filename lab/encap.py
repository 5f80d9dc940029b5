"""IPv6 in IPv4 (protocol 41) and in UDP: what a packet must look like to be carried.  Bytes in, answers out.

Both encapsulations put one bare IPv6 packet behind the outer header: RFC 4213 behind IPv4, RFC 5572 section 4.5.2
behind UDP.  The kernel writes and checks the outer headers; here the inner packet is measured and its source and
destination are judged.  A packet that may not pass has a `Drop` reason, which is what the counters are kept by.
Nothing raises: whatever the network sent, the answer is a packet or a reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Generic, TypeVar

PROTOCOL_41: Final = 41
IPV6_HEADER: Final = 40
IPV6_MIN_MTU: Final = 1280
"""RFC 8200 section 5; also the tunnel MTU that RFC 4213 section 3.2.1 says a configured tunnel SHOULD have."""
V6V4_OVERHEAD: Final = 20
"""Bytes of an IPv4 header without options."""
V6UDPV4_OVERHEAD: Final = 28
"""Bytes of an IPv4 and a UDP header."""

_V = TypeVar("_V")
_ANY: Final = bytes(16)
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Drop(StrEnum):
    """Why a packet was not carried; the value is the name of its counter."""

    NOT_IPV6 = "not_ipv6"
    """The payload is no IPv6 packet."""
    TRUNCATED = "truncated"
    """The IPv6 header promises more bytes than there are."""
    FORBIDDEN_SOURCE = "forbidden_source"
    """A source that no tunnel may carry: multicast, loopback, IPv4-compatible or mapped (RFC 4213 section 3.6)."""
    LINK_SCOPE = "link_scope"
    """Link-local or multicast: neighbour discovery and the like, which ends at the tunnel's device."""
    INNER_SOURCE = "inner_source"
    """The IPv6 source is not one of the tunnel's own (RFC 4213 section 3.6, ingress filtering)."""
    INNER_DESTINATION = "inner_destination"
    """The IPv6 destination lies on the side the packet comes from: it would go round in circles."""
    OUTER_SOURCE = "outer_source"
    """The IPv4 source (and port) is not the peer of any tunnel (RFC 4213 section 3.6)."""
    NO_TUNNEL = "no_tunnel"
    """No client holds the destination."""
    SEND_FAILED = "send_failed"
    """The socket or the device did not take it: no buffer, or no route."""
    UNKNOWN_MARKER = "unknown_marker"
    """A datagram on the signalling port that is neither signalling nor IPv6."""


def inner_length(packet: bytes) -> int | Drop:
    """Bytes of the IPv6 packet that `packet` begins with, from its own header (RFC 4213 section 3.6).

    What follows it is padding and is cut off by the caller.
    """
    if len(packet) < IPV6_HEADER:
        return Drop.TRUNCATED if packet and packet[0] >> 4 == 6 else Drop.NOT_IPV6
    if packet[0] >> 4 != 6:
        return Drop.NOT_IPV6
    length = IPV6_HEADER + (packet[4] << 8 | packet[5])
    return length if length <= len(packet) else Drop.TRUNCATED


def parse_inner(payload: bytes) -> bytes | Drop:
    """The IPv6 packet carried in `payload`, padding removed, or why there is none."""
    length = inner_length(payload)
    if isinstance(length, Drop):
        return length
    return payload if length == len(payload) else payload[:length]


def parse_6in4(packet: bytes) -> bytes | Drop:
    """The IPv6 packet in an IPv4 packet as a raw protocol-41 socket gives it, outer header included."""
    if len(packet) < V6V4_OVERHEAD or packet[0] >> 4 != 4 or packet[9] != PROTOCOL_41:
        return Drop.NOT_IPV6
    header = (packet[0] & 15) * 4
    return Drop.NOT_IPV6 if header < V6V4_OVERHEAD else parse_inner(packet[header:])


def inner_source(packet: bytes) -> int:
    """The source address of an IPv6 packet as a number."""
    return int.from_bytes(packet[8:24], "big")


def inner_destination(packet: bytes) -> int:
    """The destination address of an IPv6 packet as a number."""
    return int.from_bytes(packet[24:40], "big")


def unroutable_source(packet: bytes) -> Drop | None:
    """Why no tunnel may carry this source, whoever sent it; None for a source that is good somewhere."""
    source = packet[8:24]
    if source == _ANY or (source[0] == 0xFE and source[1] & 0xC0 == 0x80):
        return Drop.LINK_SCOPE
    if source[0] == 0xFF or source[:12] in (_ANY[:12], _MAPPED):
        return Drop.FORBIDDEN_SOURCE
    return None


def has_link_scope_destination(packet: bytes) -> bool:
    """True for a multicast or link-local destination, which no point-to-point tunnel of ours carries."""
    return packet[24] == 0xFF or (packet[24] == 0xFE and packet[25] & 0xC0 == 0x80)


class AddressSet:
    """The addresses one end of a tunnel may use: a few prefixes, tested as numbers."""

    __slots__ = ("_prefixes", "networks")

    def __init__(self, networks: Iterable[IPv6Network]) -> None:
        self.networks = tuple(networks)
        self._prefixes = tuple((_shift(n), int(n.network_address) >> _shift(n)) for n in self.networks)

    def __contains__(self, address: int) -> bool:
        for shift, value in self._prefixes:  # noqa: SIM110 - any() takes twice as long, and this is every packet
            if address >> shift == value:
                return True
        return False


class PrefixTable(Generic[_V]):
    """Longest-prefix match from IPv6 address to a value; one dictionary for each prefix length in use."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, _V]] = {}  # by shift, longest prefix (smallest shift) first

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def insert(self, network: IPv6Network, value: _V) -> None:
        """Map `network` to `value`, in place of what it was mapped to."""
        shift = _shift(network)
        if shift not in self._tables:
            self._tables[shift] = {}
            self._tables = dict(sorted(self._tables.items()))
        self._tables[shift][int(network.network_address) >> shift] = value

    def remove(self, network: IPv6Network, value: _V) -> None:
        """Forget `network` if it is mapped to `value`; a newer mapping is left alone."""
        shift = _shift(network)
        table = self._tables.get(shift, {})
        key = int(network.network_address) >> shift
        if table.get(key) is value:
            del table[key]
            if not table:
                del self._tables[shift]

    def lookup(self, address: int | IPv6Address) -> _V | None:
        """The value of the longest prefix that holds `address`, or None."""
        number = int(address)
        for shift, table in self._tables.items():
            value = table.get(number >> shift)
            if value is not None:
                return value
        return None


def _shift(network: IPv6Network) -> int:
    return 128 - network.prefixlen
