"""Router advertisements for a delegated prefix on a LAN, so that hosts make themselves addresses (RFC 4861).

An `Advertiser` gives the LAN interface the first address of the first /64 of the prefix, says hello with a few
unsolicited advertisements and answers solicitations.  When it stops it says so: lifetime 0, so that hosts drop the
default route at once (section 6.2.5).  It is no DHCPv6 server and announces one /64 only (RFC 4862 needs that size).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.errors import KernelRefused, UsageError

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

log = logging.getLogger(__name__)

ALL_NODES: Final = "ff02::1"
ALL_ROUTERS: Final = "ff02::2"
ROUTER_LIFETIME_S: Final = 1800
VALID_S: Final = 86_400
PREFERRED_S: Final = 14_400
INITIAL_ADVERTISEMENTS: Final = 3
INITIAL_INTERVAL_S: Final = 16.0
"""RFC 4861 section 10: MAX_INITIAL_RTR_ADVERTISEMENTS, MAX_INITIAL_RTR_ADVERT_INTERVAL."""
INTERVAL_S: Final = (200.0, 600.0)
"""RFC 4861 section 6.2.1: MinRtrAdvInterval, MaxRtrAdvInterval."""
MAX_ANSWER_DELAY_S: Final = 0.5
"""RFC 4861 section 10: MAX_RA_DELAY_TIME."""
MIN_MULTICAST_GAP_S: Final = 3.0
"""RFC 4861 section 10: MIN_DELAY_BETWEEN_RAS."""

_SOLICITATION: Final = 133
_ADVERTISEMENT: Final = 134
_HOP_LIMIT: Final = 255
_ASKING_AT_ONCE: Final = 16
"""More solicitors than this are answered together, by multicast."""
_ICMPV6_FILTER: Final = 1


def format_advertisement(
    prefix: IPv6Network, *, mtu: int, router_lifetime_s: int = ROUTER_LIFETIME_S, mac: bytes | None = None
) -> bytes:
    """An ICMPv6 router advertisement (RFC 4861 section 4.2) with the prefix, MTU and link-layer address options.

    The checksum is left to the kernel.  With a lifetime of 0 the prefix is deprecated as well.
    """
    if prefix.prefixlen != 64:
        raise ValueError(f"hosts make addresses in a /64, not in {prefix}")
    alive = router_lifetime_s > 0
    message = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, router_lifetime_s, 0, 0)
    on_link_and_autonomous = 0xC0
    message += struct.pack(
        "!BBBBIII",
        3,
        4,
        64,
        on_link_and_autonomous,
        VALID_S if alive else 7200,  # hosts refuse to shorten a valid lifetime below two hours (RFC 4862 5.5.3)
        PREFERRED_S if alive else 0,
        0,
    )
    message += prefix.network_address.packed
    message += struct.pack("!BBHI", 5, 1, 0, mtu)
    if mac is not None:
        message += bytes((1, 1)) + mac
    return message


def is_solicitation(message: bytes, hop_limit: int | None) -> bool:
    """True for a router solicitation that passes the checks of RFC 4861 section 6.1.1."""
    if hop_limit != _HOP_LIMIT or len(message) < 8 or message[0] != _SOLICITATION or message[1] != 0:
        return False
    at = 8
    while at < len(message):
        if at + 2 > len(message) or message[at + 1] == 0:
            return False
        at += 8 * message[at + 1]
    return at == len(message)


class Advertiser:
    """Announces the first /64 of `prefix` on one interface."""

    def __init__(
        self,
        namespace: Namespace,
        iface: str,
        prefix: IPv6Network,
        *,
        mtu: int = 1280,
        rng: random.Random | None = None,
    ) -> None:
        """UsageError if `prefix` is longer than /64.  `mtu` is what hosts are told to use: the tunnel's."""
        if prefix.prefixlen > 64:
            raise UsageError(f"hosts cannot make themselves addresses in {prefix}: a /64 or shorter is needed")
        self.prefix = prefix if prefix.prefixlen == 64 else next(prefix.subnets(new_prefix=64))
        self.address: IPv6Address = self.prefix[1]
        """The router's own address on the LAN."""
        self.counters = {"advertisements": 0, "solicitations": 0, "ignored": 0}
        self._namespace = namespace
        self._iface = iface
        self._mtu = mtu
        self._rng = rng or random.Random()
        self._socket: socket.socket | None = None
        self._index = 0
        self._mac: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answer: asyncio.TimerHandle | None = None
        self._asking: set[str] = set()
        self._last_multicast = -MIN_MULTICAST_GAP_S

    async def start(self) -> None:
        """Set the LAN address and send the first advertisement; raises KernelRefused, with nothing left then."""
        from lab.kernel import links

        links.add_address(self._namespace, self._iface, f"{self.address}/64")
        try:
            self._open()
        except BaseException as exc:
            self._close()
            if isinstance(exc, OSError):
                raise KernelRefused(self._namespace.name, f"advertise on {self._iface}", exc.errno or 0) from exc
            raise
        assert self._socket is not None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
        self._advertise_unasked(INITIAL_ADVERTISEMENTS)
        log.info("%s: announces %s on %s", self._namespace.name, self.prefix, self._iface)

    def _open(self) -> None:
        from lab.kernel import links

        self._index = links.index(self._namespace, self._iface)
        with self._namespace.entered():
            self._mac = _mac_of(self._iface)
        sock = self._socket = self._namespace.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._iface.encode())
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        only_solicitations = [0xFFFFFFFF] * 8
        only_solicitations[_SOLICITATION >> 5] &= ~(1 << (_SOLICITATION & 31))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("=8I", *only_solicitations))
        group = socket.inet_pton(socket.AF_INET6, ALL_ROUTERS) + struct.pack("=I", self._index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

    async def stop(self) -> None:
        """Withdraw: a last advertisement of lifetime 0, then the LAN address; safe to call twice."""
        for handle in (self._timer, self._answer):
            if handle is not None:
                handle.cancel()
        self._timer = self._answer = None
        if self._socket is None:
            return
        self._send(router_lifetime_s=0)
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._close()

    def _close(self) -> None:
        """Close the socket, if it is open, and take the LAN address away."""
        from lab.kernel import links

        if self._socket is not None:
            self._socket.close()
            self._socket = None
        try:
            links.del_address(self._namespace, self._iface, f"{self.address}/64")
        except KernelRefused as exc:
            log.debug("%s: %s", self._namespace.name, exc)  # the interface is gone already

    def _advertise_unasked(self, initial_left: int) -> None:
        """Multicast one advertisement and plan the next (RFC 4861 section 6.2.4)."""
        self._send()
        wait_s = self._rng.uniform(*INTERVAL_S)
        if initial_left > 1:
            wait_s = min(wait_s, INITIAL_INTERVAL_S)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._advertise_unasked, max(initial_left - 1, 0))

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(16):
            try:
                message, extra, _, sender = self._socket.recvmsg(1500, socket.CMSG_SPACE(4))
            except OSError:
                return
            hops = [
                struct.unpack("=i", data[:4])[0]
                for level, kind, data in extra
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT) and len(data) >= 4
            ]
            if not is_solicitation(message, hops[0] if hops else None):
                self.counters["ignored"] += 1
                continue
            self.counters["solicitations"] += 1
            if len(self._asking) < _ASKING_AT_ONCE:
                self._asking.add(sender[0].partition("%")[0])
            if self._answer is None:
                delay_s = self._rng.uniform(0, MAX_ANSWER_DELAY_S)
                self._answer = asyncio.get_running_loop().call_later(delay_s, self._answer_now)

    def _answer_now(self) -> None:
        """Answer all that asked: each by unicast, or all by multicast if one had no address or many asked."""
        self._answer = None
        asking, self._asking = self._asking, set()
        if "::" not in asking and len(asking) < _ASKING_AT_ONCE:
            for address in sorted(asking):
                self._send(address)
            return
        loop = asyncio.get_running_loop()
        wait_s = self._last_multicast + MIN_MULTICAST_GAP_S - loop.time()
        if wait_s <= 0:
            self._send()
        else:
            self._asking = asking
            self._answer = loop.call_later(wait_s, self._answer_now)

    def _send(self, to: str = ALL_NODES, router_lifetime_s: int = ROUTER_LIFETIME_S) -> None:
        assert self._socket is not None
        message = format_advertisement(self.prefix, mtu=self._mtu, router_lifetime_s=router_lifetime_s, mac=self._mac)
        if to == ALL_NODES:
            self._last_multicast = asyncio.get_running_loop().time()
        try:
            self._socket.sendto(message, (to, 0, 0, self._index))
            self.counters["advertisements"] += 1
        except OSError as exc:
            log.warning("%s: no advertisement on %s: %s", self._namespace.name, self._iface, exc)


def global_address(namespace: Namespace) -> IPv6Address | None:
    """A global address that the kernel made from an advertisement (RFC 4862), or None so far.

    Temporary addresses and ones that are still being checked for duplicates are passed over.
    """
    permanent, temporary, tentative, deprecated, failed = 0x80, 0x01, 0x40, 0x20, 0x08
    with namespace.entered():
        lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    for line in lines:
        number, _, length, scope, flags, name = line.split()
        bad = permanent | temporary | tentative | deprecated | failed
        if scope == "00" and name != "lo" and not int(flags, 16) & bad:
            return IPv6Interface((int(number, 16), int(length, 16))).ip
    return None


def _mac_of(iface: str) -> bytes | None:
    """The interface's Ethernet address in the calling thread's namespace, or None when it has none."""
    import fcntl

    siocgifhwaddr, arphrd_ether = 0x8927, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        reply = fcntl.ioctl(sock.fileno(), siocgifhwaddr, struct.pack("16s240x", iface.encode()))
    family = int.from_bytes(reply[16:18], "little")
    return reply[18:24] if family == arphrd_ether else None
