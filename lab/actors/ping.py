"""Echo requests by ICMP and ICMPv6, through the kernel of a namespace (RFC 792, RFC 4443 section 4).

A raw socket opened inside the namespace: the packet takes the node's real routes, so a ping through a tunnel goes
through its device.  Sizes are bytes of the whole IP packet, which is what an MTU counts.  Packets are never
fragmented here (IPv4 DF, IPV6_DONTFRAG): one that is too big fails and says so.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from lab.actors.patience import patient_timeout_at
from lab.errors import UsageError

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

_IPV4_HEADER: Final = 20
_IPV6_HEADER: Final = 40
_ICMP_HEADER: Final = 8
_LARGEST: Final = 65_535
_ECHO_REQUEST: Final = {4: 8, 6: 128}
_ECHO_REPLY: Final = {4: 0, 6: 129}
# linux/in.h, linux/in6.h, linux/icmpv6.h, linux/icmp.h: not in the socket module
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DO: Final = 2
_IPV6_DONTFRAG: Final = 62
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1
_ICMPV6_FILTER: Final = 1


@dataclass(frozen=True, slots=True)
class PingReport:
    """What came of a series of echo requests."""

    destination: str
    size: int
    """Bytes of each IP packet."""
    sent: int
    received: int
    rtts_s: tuple[float, ...] = ()
    """Round-trip times in seconds, in the order of the requests; unanswered ones are left out."""
    sent_s: tuple[float, ...] = ()
    """When each request was sent, in seconds since the first was about to be."""
    lost: tuple[int, ...] = ()
    """Which requests were not answered, counted from 0."""
    errors: tuple[str, ...] = field(default=())
    """What the kernel said to requests that could not be sent."""


class EchoSocket:
    """A non-blocking raw socket that sends echo requests of one identifier and hands over the replies to them.

    `on_reply(sequence, payload_length)` is called from the event loop.  Close it when done.
    """

    def __init__(
        self,
        namespace: Namespace,
        destination: IPv4Address | IPv6Address,
        on_reply: Callable[[int, int], None],
        *,
        source: IPv4Address | IPv6Address | None = None,
        identifier: int,
    ) -> None:
        self._destination = destination
        self._version = destination.version
        self._identifier = identifier
        self._on_reply = on_reply
        if self._version == 4:
            self._socket = namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        else:
            self._socket = namespace.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        try:
            self._prepare(source)
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def _prepare(self, source: IPv4Address | IPv6Address | None) -> None:
        self._socket.setblocking(False)
        if self._version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            self._socket.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << 0) & 0xFFFFFFFF))
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
            blocked = bytearray(b"\xff" * 32)  # a bit set means: do not pass
            words = list(struct.unpack("=8I", blocked))
            words[_ECHO_REPLY[6] >> 5] &= ~(1 << (_ECHO_REPLY[6] & 31)) & 0xFFFFFFFF
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *words))
        if source is not None:
            self._socket.bind((str(source), 0))

    def send(self, sequence: int, size: int) -> None:
        """Send one request in an IP packet of `size` bytes; OSError if the kernel does not take it."""
        header = _IPV4_HEADER if self._version == 4 else _IPV6_HEADER
        payload = bytes(size - header - _ICMP_HEADER)
        fields = (self._identifier, sequence & 0xFFFF)
        packet = struct.pack("!BBHHH", _ECHO_REQUEST[self._version], 0, 0, *fields) + payload
        if self._version == 4:
            packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
        self._socket.sendto(packet, (str(self._destination), 0))

    def _readable(self) -> None:
        for _ in range(64):
            try:
                message, sender = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error, reported once; the request stays unanswered
            if self._version == 4 and message:
                message = message[(message[0] & 15) * 4 :]
            if len(message) < _ICMP_HEADER or ip_address(sender[0].partition("%")[0]) != self._destination:
                continue
            kind, code, _, identifier, sequence = struct.unpack_from("!BBHHH", message)
            if (kind, code, identifier) == (_ECHO_REPLY[self._version], 0, self._identifier):
                self._on_reply(sequence, len(message) - _ICMP_HEADER)

    def close(self) -> None:
        """Stop listening; safe to call twice."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()


async def ping(
    namespace: Namespace,
    destination: str | IPv4Address | IPv6Address,
    *,
    count: int = 3,
    size: int = 104,
    interval_s: float = 0.05,
    timeout_s: float = 2.0,
    before: Callable[[], Awaitable[object]] | None = None,
    source: IPv4Address | IPv6Address | None = None,
    rng: random.Random | None = None,
) -> PingReport:
    """Send `count` echo requests, `interval_s` apart, and wait for the replies until `timeout_s` after the last.

    With `before`, that is awaited before each request, and there is no interval.
    Raises UsageError when `size` does not fit the headers, or for a `count` below 1.  A request the kernel refuses (no
    route, too big) counts as sent and unanswered, and its reason is in the report.
    """
    target = ip_address(destination) if isinstance(destination, str) else destination
    if count < 1:
        raise UsageError(f"a ping sends at least one request, not {count}")
    smallest = (_IPV4_HEADER if target.version == 4 else _IPV6_HEADER) + _ICMP_HEADER
    if not smallest <= size <= _LARGEST:
        raise UsageError(f"a ping of {size} bytes does not exist; an IPv{target.version} one has {smallest} to 65535")
    loop = asyncio.get_running_loop()
    began = loop.time()
    sent_s: list[float] = []
    sent_at: dict[int, float] = {}
    rtts: dict[int, float] = {}
    errors: list[str] = []
    arrived = asyncio.Event()

    def on_reply(sequence: int, payload: int) -> None:
        if sequence in sent_at and sequence not in rtts and payload == size - smallest:
            rtts[sequence] = loop.time() - sent_at[sequence]
            arrived.set()

    identifier = rng.getrandbits(16) if rng else int.from_bytes(os.urandom(2), "big")
    echo = EchoSocket(namespace, target, on_reply, source=source, identifier=identifier)
    try:
        for sequence in range(count):
            if before is not None:
                await before()
            elif sequence:
                await asyncio.sleep(interval_s)
            sent_at[sequence] = loop.time()
            sent_s.append(sent_at[sequence] - began)
            try:
                echo.send(sequence, size)
            except OSError as exc:
                del sent_at[sequence]
                errors.append(_explain(exc, size))
        with suppress(TimeoutError):
            async with patient_timeout_at(loop.time() + timeout_s):
                while len(rtts) < len(sent_at):
                    arrived.clear()
                    await arrived.wait()
    finally:
        echo.close()
    in_order = tuple(rtts[sequence] for sequence in sorted(rtts))
    lost = tuple(sequence for sequence in range(count) if sequence not in rtts)
    return PingReport(str(target), size, count, len(in_order), in_order, tuple(sent_s), lost, tuple(errors))


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, as the number to put into a header."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _explain(error: OSError, size: int) -> str:
    if error.errno == errno.EMSGSIZE:
        return f"{size} bytes is more than the path carries"
    return error.strerror or str(error)
