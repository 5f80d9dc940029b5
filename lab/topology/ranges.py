"""Where automatic addresses come from, and a simple allocator for them.

IPv4 outside any NAT comes from the documentation ranges (RFC 5737) and, when a topology is too large for
those, from the benchmarking range (RFC 2544, RFC 6815).  Inside a NAT: RFC 1918; inside a carrier's NAT, that is one
with another NAT behind it: the shared range of RFC 6598.  IPv6 comes from 2001:db8::/32 (RFC 3849), of which
brokers' pools usually take the upper part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

Prefix = IPv4Network | IPv6Network
_P = TypeVar("_P", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges, tried in order."""

    public_ipv4: tuple[str, ...] = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")
    inside_ipv4: tuple[str, ...] = ("192.168.0.0/16", "10.0.0.0/8")
    carrier_ipv4: tuple[str, ...] = ("100.64.0.0/10",)
    ipv6: tuple[str, ...] = ("2001:db8::/40",)


class Exhausted(Exception):
    """No free prefix of the wanted length is left; the planner says for whom."""


class Allocator(Generic[_P]):
    """Hands out aligned prefixes of `ranges` from low to high, leaving out everything in `reserved`."""

    def __init__(self, ranges: Iterable[_P], reserved: Iterable[_P] = (), skip: int = 0) -> None:
        """`skip`: how many prefixes of the length first asked for to leave out at the start of each range."""
        self._ranges: Sequence[_P] = tuple(ranges)
        self._reserved = sorted((int(p.network_address), int(p.broadcast_address)) for p in reserved)
        self._next = [int(p.network_address) for p in self._ranges]
        self._skip: int | None = skip

    def __iter__(self) -> Iterator[_P]:
        return iter(self._ranges)

    def take(self, prefixlen: int) -> _P:
        """The next free prefix of this length; Exhausted if there is none."""
        bits = self._ranges[0].max_prefixlen if self._ranges else 0
        size = 1 << (bits - prefixlen)
        if self._skip:
            self._next = [start + self._skip * size for start in self._next]
        self._skip = None
        for number, source in enumerate(self._ranges):
            start = self._free(-(-self._next[number] // size) * size, size)
            if start + size - 1 <= int(source.broadcast_address):
                self._next[number] = start + size
                return type(source)((start, prefixlen))
        raise Exhausted

    def _free(self, start: int, size: int) -> int:
        for low, high in self._reserved:
            if low <= start + size - 1 and high >= start:
                start = -(-(high + 1) // size) * size
        return start
