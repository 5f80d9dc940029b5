"""Tunnel packets between a device and IPv4: v6udpv4 on the signalling socket, v6v4 on a raw protocol-41 socket.

One device holds all tunnels of a broker; a packet routed into it finds its tunnel by destination, a packet from
IPv4 by its outer source.  Both ends refuse what is not theirs (RFC 4213 section 3.6, RFC 5572 section 8): an outer
source that is no peer, an inner source outside the peer's prefixes.  What is dropped is counted by `Drop` reason.

Readers take up to `BURST` packets each time the event loop calls them: the loop itself is then a small part of
the cost of a packet, and signalling still gets its turn.  Outer packets may be fragmented (DF is not set), as
RFC 4213 section 3.2.1 wants of a tunnel with a static MTU.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from lab.encap import (
    PROTOCOL_41,
    AddressSet,
    Drop,
    PrefixTable,
    has_link_scope_destination,
    inner_destination,
    inner_source,
    parse_6in4,
    parse_inner,
    unroutable_source,
)
from lab.kernel.buffers import enlarge

if TYPE_CHECKING:
    from lab.actors.store import Lease
    from lab.kernel.namespace import Namespace
    from lab.kernel.tun import PacketDevice

log = logging.getLogger(__name__)

BURST: Final = 64
LARGEST: Final = 9216
"""Bytes read from a socket at once; a longer packet is cut and then dropped as truncated."""
_BUFFER: Final = 4 << 20
"""A burst of TCP's slow start fits."""
# linux/in.h: not in the socket module
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_DONT: Final = 0

OuterAddress = tuple[str, int]


def open_udp(namespace: Namespace) -> socket.socket:
    """A UDP socket for signalling and v6udpv4 data: large buffers, no DF.  OSError if there is none to be had."""
    return _roomy(namespace.socket(socket.AF_INET, socket.SOCK_DGRAM))


def open_protocol_41(namespace: Namespace) -> socket.socket:
    """A raw socket for protocol 41; the kernel writes the outer header.  OSError without CAP_NET_RAW."""
    return _roomy(namespace.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL_41))


def _roomy(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    enlarge(sock, "receive", _BUFFER)
    enlarge(sock, "send", _BUFFER)
    return sock


def _read_burst(device: PacketDevice, take: Callable[[bytes], None], on_gone: Callable[[OSError], None]) -> None:
    """Hand up to `BURST` waiting packets to `take`; `on_gone` is told of a device that will never give another."""
    for _ in range(BURST):
        try:
            packet = device.read()
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.ENETDOWN:  # that one is set down, and may come up again
                on_gone(exc)
            return
        take(packet)


@dataclass(slots=True, eq=False)
class Tunnel:
    """One tunnel as the broker's data plane needs it."""

    lease: Lease
    """What is routed to the client."""
    outer: OuterAddress
    """The client as the broker sees it: IPv4 address and, for v6udpv4, port (0 for v6v4)."""
    allowed: AddressSet
    """What the client may send from: its lease."""
    last_heard: float
    """When a good packet last came from the client, in the event loop's seconds."""
    expires_at: float
    """When the tunnel's lifetime is over, in the event loop's seconds."""
    idle_s: float | None = None
    """Seconds of silence after which the client is taken for dead; None: never."""
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    """Of IPv6 packets from the client; `bytes_out` to it."""
    bytes_out: int = 0


class BrokerDataPlane:
    """All tunnels of one broker.

    `on_other(datagram, source, now)` gets what the UDP socket received besides IPv6; `on_device_gone` is told when
    somebody removed the device.
    """

    def __init__(
        self,
        device: PacketDevice,
        udp: socket.socket,
        raw: socket.socket,
        counters: Counter[str],
        on_other: Callable[[bytes, OuterAddress, float], None],
        on_device_gone: Callable[[OSError], None],
    ) -> None:
        self._device = device
        self._udp = udp
        self._raw = raw
        self._counters = counters
        self._on_other = on_other
        self._on_device_gone = on_device_gone
        self._by_inner: PrefixTable[Tunnel] = PrefixTable()
        self._by_udp: dict[OuterAddress, Tunnel] = {}
        self._by_raw: dict[str, list[Tunnel]] = {}  # several clients behind one NAT share their IPv4 address
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin to carry packets."""
        self._loop.add_reader(self._device.fileno(), self._device_readable)
        self._loop.add_reader(self._udp.fileno(), self._udp_readable)
        self._loop.add_reader(self._raw.fileno(), self._raw_readable)

    def stop(self) -> None:
        """Stop carrying packets.  The device and the sockets are the caller's to close."""
        for source in (self._device, self._udp, self._raw):
            if source.fileno() >= 0:
                self._loop.remove_reader(source.fileno())

    def insert(self, tunnel: Tunnel) -> None:
        """Bring a tunnel up."""
        for network in tunnel.lease.networks:
            self._by_inner.insert(network, tunnel)
        if tunnel.outer[1]:
            self._by_udp[tunnel.outer] = tunnel
        else:
            self._by_raw.setdefault(tunnel.outer[0], []).append(tunnel)

    def remove(self, tunnel: Tunnel) -> None:
        """Take a tunnel down; a newer one with the same addresses is left alone."""
        for network in tunnel.lease.networks:
            self._by_inner.remove(network, tunnel)
        if self._by_udp.get(tunnel.outer) is tunnel:
            del self._by_udp[tunnel.outer]
        sharing = self._by_raw.get(tunnel.outer[0], [])
        if tunnel in sharing:
            sharing.remove(tunnel)
            if not sharing:
                del self._by_raw[tunnel.outer[0]]

    def lookup(self, address: IPv6Address) -> Tunnel | None:
        """The tunnel that `address` is routed into."""
        return self._by_inner.lookup(address)

    # ------------------------------------------------------------------ from the clients

    def _udp_readable(self) -> None:
        now = self._loop.time()
        for _ in range(BURST):
            try:
                datagram, source = self._udp.recvfrom(LARGEST)
            except BlockingIOError:
                return
            except OSError as exc:  # an ICMP error that some earlier datagram earned
                self._counters["icmp_errors"] += 1
                log.debug("UDP: %s", exc)
                continue
            if datagram and datagram[0] >> 4 == 6:
                tunnel = self._by_udp.get(source)
                self._decapsulate(parse_inner(datagram), (tunnel,) if tunnel is not None else (), now)
            else:
                self._on_other(datagram, source, now)

    def _raw_readable(self) -> None:
        now = self._loop.time()
        for _ in range(BURST):
            try:
                packet, source = self._raw.recvfrom(LARGEST)
            except BlockingIOError:
                return
            except OSError as exc:
                self._counters["icmp_errors"] += 1
                log.debug("protocol 41: %s", exc)
                continue
            self._decapsulate(parse_6in4(packet), self._by_raw.get(source[0], ()), now)

    def _decapsulate(self, packet: bytes | Drop, tunnels: tuple[Tunnel, ...] | list[Tunnel], now: float) -> None:
        """Hand a packet from one of `tunnels` (those with its outer source) to the kernel."""
        if isinstance(packet, Drop):
            self._counters[packet] += 1
            return
        if not tunnels:
            self._counters[Drop.OUTER_SOURCE] += 1
            return
        source = inner_source(packet)
        for tunnel in tunnels:
            if source in tunnel.allowed:
                break
        else:
            self._counters[unroutable_source(packet) or Drop.INNER_SOURCE] += 1
            return
        if has_link_scope_destination(packet):
            self._counters[Drop.LINK_SCOPE] += 1
            return
        try:
            self._device.write(packet)
        except OSError as exc:
            self._counters[Drop.SEND_FAILED] += 1
            log.debug("device: %s", exc)
            return
        tunnel.last_heard = now
        tunnel.packets_in += 1
        tunnel.bytes_in += len(packet)
        self._counters["packets_in"] += 1

    # ------------------------------------------------------------------ to the clients

    def _device_readable(self) -> None:
        _read_burst(self._device, self._encapsulate, self._device_gone)

    def _device_gone(self, error: OSError) -> None:
        self._loop.remove_reader(self._device.fileno())
        self._on_device_gone(error)

    def _encapsulate(self, packet: bytes) -> None:
        if len(packet) < 40 or packet[0] >> 4 != 6:
            self._counters[Drop.NOT_IPV6] += 1
            return
        tunnel = self._by_inner.lookup(inner_destination(packet))
        if tunnel is None:
            link_scope = has_link_scope_destination(packet)
            self._counters[Drop.LINK_SCOPE if link_scope else Drop.NO_TUNNEL] += 1
            return
        if (unroutable := unroutable_source(packet)) is not None:
            self._counters[unroutable] += 1
            return
        try:
            (self._udp if tunnel.outer[1] else self._raw).sendto(packet, tunnel.outer)
        except OSError as exc:
            self._counters[Drop.SEND_FAILED] += 1
            log.debug("to %s: %s", tunnel.outer[0], exc)
            return
        tunnel.packets_out += 1
        tunnel.bytes_out += len(packet)
        self._counters["packets_out"] += 1


class ClientDataPlane:
    """One tunnel, client side.  `on_other` gets what the UDP socket received besides IPv6 (late signalling);
    `on_device_gone` is told when somebody removed the device.

    `outer` is a UDP socket connected to the broker (the kernel then passes only the broker's datagrams), or a raw
    protocol-41 socket, where the source is compared here.
    """

    def __init__(
        self,
        device: PacketDevice,
        outer: socket.socket,
        server: IPv4Address,
        own: AddressSet,
        counters: Counter[str],
        *,
        on_device_gone: Callable[[OSError], None],
        on_other: Callable[[bytes], None] | None = None,
        on_packet: Callable[[], None] | None = None,
        on_error: Callable[[OSError], None] | None = None,
    ) -> None:
        self._device = device
        self._outer = outer
        self._is_udp = outer.type == socket.SOCK_DGRAM
        self._server = (str(server), 0)
        self._own = own
        self._counters = counters
        self._on_other = on_other
        self._on_device_gone = on_device_gone
        self._on_packet = on_packet
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Begin to carry packets."""
        self._loop.add_reader(self._device.fileno(), self._device_readable)
        self._loop.add_reader(self._outer.fileno(), self._udp_readable if self._is_udp else self._raw_readable)

    def stop(self) -> None:
        """Stop carrying packets.  The device and the socket are the caller's to close."""
        for source in (self._device, self._outer):
            if source.fileno() >= 0:
                self._loop.remove_reader(source.fileno())

    def _udp_readable(self) -> None:
        for _ in range(BURST):
            try:
                datagram = self._outer.recv(LARGEST)
            except BlockingIOError:
                return
            except OSError as exc:
                self._refused(exc)
                continue
            if datagram and datagram[0] >> 4 == 6:
                self._decapsulate(parse_inner(datagram))
            elif self._on_other is not None:
                self._on_other(datagram)

    def _raw_readable(self) -> None:
        for _ in range(BURST):
            try:
                packet, source = self._outer.recvfrom(LARGEST)
            except BlockingIOError:
                return
            except OSError as exc:
                self._refused(exc)
                continue
            if source[0] == self._server[0]:
                self._decapsulate(parse_6in4(packet))
            else:
                self._counters[Drop.OUTER_SOURCE] += 1

    def _decapsulate(self, packet: bytes | Drop) -> None:
        if isinstance(packet, Drop):
            self._counters[packet] += 1
            return
        if (unroutable := unroutable_source(packet)) is not None:
            self._counters[unroutable] += 1
        elif inner_source(packet) in self._own:  # our own addresses are on this side
            self._counters[Drop.INNER_SOURCE] += 1
        elif inner_destination(packet) not in self._own:
            self._counters[Drop.INNER_DESTINATION] += 1
        else:
            try:
                self._device.write(packet)
            except OSError as exc:
                self._counters[Drop.SEND_FAILED] += 1
                log.debug("device: %s", exc)
                return
            self._counters["packets_in"] += 1
            self._counters["bytes_in"] += len(packet)
            if self._on_packet is not None:
                self._on_packet()

    def _device_readable(self) -> None:
        _read_burst(self._device, self._encapsulate, self._device_gone)

    def _device_gone(self, error: OSError) -> None:
        self._loop.remove_reader(self._device.fileno())
        self._on_device_gone(error)

    def _encapsulate(self, packet: bytes) -> None:
        if len(packet) < 40 or packet[0] >> 4 != 6:
            self._counters[Drop.NOT_IPV6] += 1
        elif (
            inner_destination(packet) in self._own
        ):  # an unused part of a delegated prefix: it would come straight back
            self._counters[Drop.INNER_DESTINATION] += 1
        elif inner_source(packet) not in self._own:
            self._counters[unroutable_source(packet) or Drop.INNER_SOURCE] += 1
        elif has_link_scope_destination(packet):
            self._counters[Drop.LINK_SCOPE] += 1
        else:
            self._send(packet)

    def _send(self, packet: bytes) -> None:
        for _ in range(2):  # a pending ICMP error is reported in place of sending, once
            try:
                if self._is_udp:
                    self._outer.send(packet)
                else:
                    self._outer.sendto(packet, self._server)
            except OSError as exc:
                if exc.errno in (errno.EAGAIN, errno.ENOBUFS):
                    break
                self._refused(exc)
                continue
            self._counters["packets_out"] += 1
            self._counters["bytes_out"] += len(packet)
            return
        self._counters[Drop.SEND_FAILED] += 1

    def _refused(self, error: OSError) -> None:
        self._counters["icmp_errors"] += 1
        log.debug("outer socket: %s", error)
        if self._on_error is not None:
            self._on_error(error)
