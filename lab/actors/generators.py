"""Send the packets of a transition mechanism from a node, and count what arrives at another.

    async with count_arrivals(server, "eth0") as arrivals:
        sent = [await send(laptop, name, "192.0.2.2", "198.51.100.2") for name in MECHANISMS]
        await arrivals.wait(sent, timeout_s=0.3)
        assert arrivals.count(sent[0]) == 3

Packets leave through a raw socket with their IP header, so the node's routes, rules and neighbours apply to them as
to any other packet of its own.  They are counted on an interface, in front of that node's own rules.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from lab.actors.patience import patient_timeout_at
from lab.errors import KernelRefused, UsageError
from lab.generators.mechanisms import MECHANISMS, Mechanism
from lab.kernel.buffers import enlarge

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

__all__ = ["MECHANISMS", "Arrivals", "Mechanism", "Sent", "count_arrivals", "send"]

_ETH_P_ALL: Final = 3
_PACKET_OUTGOING: Final = 4
_IPPROTO_RAW: Final = 255
_SNAPLEN: Final = 65_536
_ETHERNET: Final = 14
_LETTERS: Final = b"bcdfghjkmnpqrstvwxz23456789"
"""Of tokens: no vowels, so that no token is a word of a protocol."""

_default_rng: Final = random.Random()


@dataclass(frozen=True, slots=True)
class Sent:
    """Packets that were handed to the kernel."""

    mechanism: str
    token: bytes
    """Four bytes that these packets, and no others, carry."""
    count: int
    bytes: int
    """Of all packets, IP headers included."""


async def send(
    namespace: Namespace,
    mechanism: str | Mechanism,
    src: str | IPv4Address | IPv6Address,
    dst: str | IPv4Address | IPv6Address,
    count: int = 3,
    *,
    port: int | None = None,
    source_port: int | None = None,
    rng: random.Random = _default_rng,
) -> Sent:
    """Send `count` packets of a mechanism from a node; `port` in place of the mechanism's usual destination port.

    `src` should be an address of the node, since what comes back goes there; it need not be.  Raises UsageError for
    a mechanism or addresses that do not fit, KernelRefused when the kernel takes no such packet (no route, a rule
    on the node itself).
    """
    kind = _find(mechanism)
    source, destination = ip_address(src), ip_address(dst)
    token = bytes(rng.choice(_LETTERS) for _ in range(4))
    sport = rng.randrange(49_152, 65_536) if source_port is None else source_port
    try:
        packet = kind.packet(source, destination, token, source_port=sport, port=port)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    family = socket.AF_INET if kind.version == 4 else socket.AF_INET6
    try:
        # IPPROTO_RAW: the packet brings its own header, for IPv4 (raw(7)) and IPv6.
        with namespace.socket(family, socket.SOCK_RAW, _IPPROTO_RAW) as raw:
            if destination.is_multicast and isinstance(source, IPv4Address):
                raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, source.packed)
            for _ in range(count):
                await _send_one(raw, packet, str(destination))
    except OSError as exc:
        raise KernelRefused(namespace.name, f"send {kind.name} to {destination}", exc.errno or 0) from exc
    return Sent(kind.name, token, count, count * len(packet))


def _find(mechanism: str | Mechanism) -> Mechanism:
    if isinstance(mechanism, Mechanism):
        return mechanism
    try:
        return MECHANISMS[mechanism]
    except KeyError:
        raise UsageError(f"there is no mechanism {mechanism!r}; choose from {', '.join(MECHANISMS)}") from None


async def _send_one(raw: socket.socket, packet: bytes, destination: str) -> None:
    while True:
        try:
            raw.sendto(packet, (destination, 0))
        except BlockingIOError:
            loop = asyncio.get_running_loop()
            writable = asyncio.Event()
            loop.add_writer(raw, writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(raw)
        else:
            return


class Arrivals:
    """The packets an interface has received since the counting began."""

    def __init__(self) -> None:
        self._packets: list[tuple[int, bytes]] = []
        """IP version and protocol as version * 256 + protocol, and the packet."""
        self._changed = asyncio.Event()

    def count(self, sent: Sent) -> int:
        """How many packets of `sent` have arrived; an ICMP error that quotes one is none of them."""
        kind = MECHANISMS[sent.mechanism]
        wanted = kind.version << 8 | kind.protocol
        return sum(key == wanted and sent.token in packet for key, packet in self._packets)

    async def wait(self, sent: Sent | Iterable[Sent], *, timeout_s: float = 1.0) -> bool:
        """Wait until all of it has arrived, at most `timeout_s`; whether it has."""
        batches = (sent,) if isinstance(sent, Sent) else tuple(sent)

        def is_all_here() -> bool:
            return all(self.count(batch) >= batch.count for batch in batches)

        with suppress(TimeoutError):
            async with patient_timeout_at(asyncio.get_running_loop().time() + timeout_s):
                while not is_all_here():
                    self._changed.clear()
                    await self._changed.wait()
        return is_all_here()  # a process that was kept waiting finds packets and the end of its patience together

    def _take(self, tap: socket.socket) -> None:
        for _ in range(64):
            try:
                frame, (_, ethertype, direction, _, _) = tap.recvfrom(_SNAPLEN)
            except BlockingIOError:
                break
            except OSError:  # the interface went down: said once, then the socket is as before
                continue
            if direction == _PACKET_OUTGOING:
                continue
            packet = frame[_ETHERNET:]
            if ethertype == 0x0800 and len(packet) >= 20:
                self._packets.append((0x400 | packet[9], packet))
            elif ethertype == 0x86DD and len(packet) >= 40:
                self._packets.append((0x600 | packet[6], packet))
        self._changed.set()


@asynccontextmanager
async def count_arrivals(namespace: Namespace, iface: str) -> AsyncIterator[Arrivals]:
    """Count what an Ethernet interface of a node receives, inside the block and after it.

    Raises KernelRefused when the node has no such interface.
    """
    loop = asyncio.get_running_loop()
    arrivals = Arrivals()
    with namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as tap:
        try:
            enlarge(tap, "receive", 4 << 20)
            tap.bind((iface, _ETH_P_ALL))
        except OSError as exc:
            raise KernelRefused(namespace.name, f"listen on {iface}", exc.errno or 0) from exc
        loop.add_reader(tap, arrivals._take, tap)
        try:
            yield arrivals
            arrivals._take(tap)
        finally:
            loop.remove_reader(tap)
