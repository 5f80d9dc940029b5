"""Route netlink for the messages of a bring-up: encoders of bytes, and a socket that sends many at once.

A network of 500 nodes is some 5,000 messages.  The kernel carries out every message of one `send` before the call
returns, and answers a failed one even when no acknowledgement was asked for; so one look at the receive queue after
each send is a complete check, and an error is traced to its message by sequence number.  Queueing disciplines
and `sit` devices have encoders of the same form in `lab.kernel.shaping` and `lab.kernel.sit`.

Layouts: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h; rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from lab.errors import KernelRefused

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_NEWROUTE: Final = 24
RTM_NEWNEIGH: Final = 28
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWRULE: Final = 32

NLM_F_REQUEST: Final = 0x001
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
ADD: Final = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL

IFF_UP: Final = 0x1
IFF_NOARP: Final = 0x80
IFF_MULTICAST: Final = 0x1000
IFF_LOWER_UP: Final = 0x10000
"""Up, and the other end of the link is too."""

_IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
_IFLA_MASTER: Final = 10
_IFLA_OPERSTATE: Final = 16
IFLA_LINKINFO: Final = 18
_IFLA_NET_NS_FD: Final = 28
IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
NLA_F_NESTED: Final = 0x8000

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_NODAD: Final = 0x02

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_METRICS: Final = 8
_RTAX_MTU: Final = 2
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RTN_UNICAST: Final = 1
_RTN_LOCAL: Final = 2
_RTN_UNREACHABLE: Final = 7

_FRA_FWMARK: Final = 10
_FR_ACT_PROHIBIT: Final = 8

_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NUD_PERMANENT: Final = 0x80

_NLMSG_ERROR: Final = 2
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11

OPERSTATE_UP: Final = 6
"""RFC 2863 state: the interface carries packets."""

_BATCH_BYTES: Final = 64 * 1024

_header: Final = struct.Struct("=IHHII")
_ifinfo: Final = struct.Struct("=BxHiII")
_ifaddr: Final = struct.Struct("=BBBBI")
_rtmsg: Final = struct.Struct("=BBBBBBBBI")
_ndmsg: Final = struct.Struct("=BxxxiHBB")
_attribute: Final = struct.Struct("=HH")
_u32: Final = struct.Struct("=I")
_s32: Final = struct.Struct("=i")


class Request(NamedTuple):
    """One message and what it does, in words for an error."""

    action: str
    data: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = len(value) + 4
    return _attribute.pack(length, kind) + value + b"\0" * (-length & 3)


def message(kind: int, flags: int, body: bytes) -> bytes:
    """One message; the sequence number is filled in when it is sent."""
    return _header.pack(16 + len(body), kind, flags, 0, 0) + body


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _address(text: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return family, socket.inet_pton(family, text)


def _prefix(text: str) -> tuple[int, bytes, int]:
    address, _, length = text.partition("/")
    family, packed = _address(address)
    return family, packed, int(length) if length else len(packed) * 8


def add_veth(
    name: str,
    index: int,
    mac: str,
    netns_fd: int,
    peer: str,
    peer_index: int,
    peer_mac: str,
    peer_netns_fd: int,
    mtu: int,
) -> Request:
    """A veth pair, each end in the namespace its descriptor holds, down.  Index 0 leaves the choice to the kernel."""
    size = attribute(IFLA_MTU, _u32.pack(mtu))
    far = (
        _ifinfo.pack(0, 0, peer_index, 0, 0)
        + attribute(IFLA_IFNAME, _name(peer))
        + attribute(_IFLA_ADDRESS, _mac(peer_mac))
        + size
        + attribute(_IFLA_NET_NS_FD, _s32.pack(peer_netns_fd))
    )
    ends = attribute(_VETH_INFO_PEER | NLA_F_NESTED, far)
    info = attribute(IFLA_INFO_KIND, b"veth") + attribute(IFLA_INFO_DATA | NLA_F_NESTED, ends)
    body = (
        _ifinfo.pack(0, 0, index, 0, 0)
        + attribute(IFLA_IFNAME, _name(name))
        + attribute(_IFLA_ADDRESS, _mac(mac))
        + size
        + attribute(_IFLA_NET_NS_FD, _s32.pack(netns_fd))
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    return Request(f"add link {name}", message(RTM_NEWLINK, ADD, body))


def add_bridge(name: str, index: int, mac: str) -> Request:
    """A Linux bridge without ports, down; spanning tree is off, as the kernel makes it."""
    body = (
        _ifinfo.pack(0, 0, index, 0, 0)
        + attribute(IFLA_IFNAME, _name(name))
        + attribute(_IFLA_ADDRESS, _mac(mac))
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, attribute(IFLA_INFO_KIND, b"bridge"))
    )
    return Request(f"add bridge {name}", message(RTM_NEWLINK, ADD, body))


def set_master(name: str, bridge: str, bridge_index: int) -> Request:
    """Make interface `name` a port of the bridge with that index."""
    body = _ifinfo.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _name(name))
    body += attribute(_IFLA_MASTER, _u32.pack(bridge_index))
    return Request(f"make {name} a port of {bridge}", message(RTM_NEWLINK, NLM_F_REQUEST, body))


def set_link(
    name: str, index: int, *, flags: int = 0, change: int = 0, mtu: int | None = None, mac: str | None = None
) -> Request:
    """Change an interface: the bits of `change` become those of `flags`; `mtu` and `mac` where given."""
    body = _ifinfo.pack(0, 0, index, flags, change)
    if mtu is not None:
        body += attribute(IFLA_MTU, _u32.pack(mtu))
    if mac is not None:
        body += attribute(_IFLA_ADDRESS, _mac(mac))
    action = f"set {name} up" if flags & change & IFF_UP else f"change link {name}"
    return Request(action, message(RTM_NEWLINK, NLM_F_REQUEST, body))


def set_up(name: str, index: int) -> Request:
    """Bring an interface up."""
    return set_link(name, index, flags=IFF_UP, change=IFF_UP)


def delete_link(name: str, index: int) -> Request:
    """Remove an interface (and the other end of a veth pair)."""
    return Request(f"delete link {name}", message(RTM_DELLINK, NLM_F_REQUEST, _ifinfo.pack(0, 0, index, 0, 0)))


def get_link(name: str, index: int) -> Request:
    """Ask for an interface; with index 0 it is found by name."""
    body = _ifinfo.pack(0, 0, index, 0, 0)
    if not index:
        body += attribute(IFLA_IFNAME, _name(name))
    return Request(f"look up link {name}", message(RTM_GETLINK, NLM_F_REQUEST, body))


def add_address(name: str, index: int, address: str) -> Request:
    """Give an interface "192.0.2.1/24" or "2001:db8::1/64" (no duplicate address detection)."""
    return Request(f"add address {address} to {name}", message(RTM_NEWADDR, ADD, _address_body(index, address)))


def delete_address(name: str, index: int, address: str) -> Request:
    """Take an address from an interface."""
    body = _address_body(index, address)
    return Request(f"delete address {address} from {name}", message(RTM_DELADDR, NLM_F_REQUEST, body))


def _address_body(index: int, address: str) -> bytes:
    family, packed, length = _prefix(address)
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    return (
        _ifaddr.pack(family, length, flags, _RT_SCOPE_UNIVERSE, index)
        + attribute(_IFA_LOCAL, packed)
        + attribute(_IFA_ADDRESS, packed)
    )


def add_route(dst: str, via: str | None, index: int, *, mtu: int | None = None, replace: bool = False) -> Request:
    """A route to prefix `dst` through the interface with `index`, by gateway `via` or directly.

    `mtu` limits what is sent along it, in bytes of IP packet.
    """
    flags = NLM_F_REQUEST | NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(f"add route {_route_words(dst, via)}", message(RTM_NEWROUTE, flags, _route(dst, via, index, mtu)))


def delete_route(dst: str, via: str | None, index: int) -> Request:
    """Remove a route that `add_route` made."""
    body = _route(dst, via, index, None)
    return Request(f"delete route {_route_words(dst, via)}", message(RTM_DELROUTE, NLM_F_REQUEST, body))


def add_unreachable(dst: str) -> Request:
    """A route to prefix `dst` that answers "unreachable", for what no other route to the prefix or in it takes."""
    body = _route(dst, None, 0, None, _RTN_UNREACHABLE)
    return Request(f"add route unreachable {dst}", message(RTM_NEWROUTE, ADD, body))


def delete_unreachable(dst: str) -> Request:
    """Remove a route that `add_unreachable` made."""
    body = _route(dst, None, 0, None, _RTN_UNREACHABLE)
    return Request(f"delete route unreachable {dst}", message(RTM_DELROUTE, NLM_F_REQUEST, body))


def add_neighbor(name: str, index: int, address: str, mac: str) -> Request:
    """A permanent neighbour entry: `address` is at `mac`, without asking."""
    family, packed = _address(address)
    body = _ndmsg.pack(family, index, _NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, packed) + attribute(_NDA_LLADDR, _mac(mac))
    return Request(f"add neighbour {address} on {name}", message(RTM_NEWNEIGH, ADD, body))


def prohibit(mark: int) -> Request:
    """A rule of routing: refuse IPv4 packets with this mark with an ICMP error (ip rule add fwmark MARK prohibit)."""
    body = _rtmsg.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, _FR_ACT_PROHIBIT, 0) + attribute(_FRA_FWMARK, _u32.pack(mark))
    return Request(f"have routing refuse what has the mark {mark}", message(RTM_NEWRULE, ADD, body))


def _route_words(dst: str, via: str | None) -> str:
    return f"{dst} via {via}" if via else dst


def _route(dst: str, via: str | None, index: int, mtu: int | None, kind: int = _RTN_UNICAST) -> bytes:
    family, packed, length = _prefix(dst)
    scope = _RT_SCOPE_LINK if via is None and family == socket.AF_INET else _RT_SCOPE_UNIVERSE
    body = _rtmsg.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, kind, 0)
    if length:
        body += attribute(_RTA_DST, packed)
    if via is not None:
        body += attribute(_RTA_GATEWAY, _address(via)[1])
    if index:
        body += attribute(_RTA_OIF, _u32.pack(index))
    if mtu is not None:
        body += attribute(_RTA_METRICS | NLA_F_NESTED, attribute(_RTAX_MTU, _u32.pack(mtu)))
    return body


class LinkState(NamedTuple):
    """What the kernel says of an interface."""

    number: int
    """Interface index."""
    name: str
    flags: int
    mtu: int
    operstate: int
    """RFC 2863; OPERSTATE_UP when it carries packets."""
    mac: str


class Netlink:
    """A route netlink socket of the namespace the thread is in when it is made; `node` names it in errors."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def do(self, requests: Sequence[Request]) -> None:
        """Carry out `requests` in order.  Raises KernelRefused for the first that failed.

        The ones after a failed one have been tried as well: the caller throws the namespace away.
        """
        start = 0
        while start < len(requests):
            end, size = start, 0
            while end < len(requests) and (end == start or size + len(requests[end].data) <= _BATCH_BYTES):
                size += len(requests[end].data)
                end += 1
            for _ in self._exchange(requests[start:end]):
                pass
            start = end

    def links(self, indexes: Sequence[tuple[str, int]]) -> list[LinkState]:
        """The state of interfaces given as (name, index); index 0 means: by name.  Raises KernelRefused."""
        return [
            state
            for name, index in indexes
            for kind, body in self._exchange([get_link(name, index)])
            if kind == RTM_NEWLINK
            for state in [_parse_link(body)]
        ]

    def is_local(self, address: str) -> bool:
        """Whether a packet to `address` ("2001:db8::1", with or without a prefix length) is for this namespace."""
        family, packed, _ = _prefix(address)
        body = _rtmsg.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(_RTA_DST, packed)
        ask = Request(f"look up the route to {address}", message(RTM_GETROUTE, NLM_F_REQUEST, body))
        try:
            answers = list(self._exchange([ask]))
        except KernelRefused as exc:
            if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return False
            raise
        return any(_rtmsg.unpack_from(body)[7] == _RTN_LOCAL for kind, body in answers if kind == RTM_NEWROUTE)

    def _exchange(self, batch: Sequence[Request]) -> Iterator[tuple[int, bytes]]:
        data = bytearray(b"".join([request.data for request in batch]))
        offset = 0
        for number, request in enumerate(batch):
            _u32.pack_into(data, offset + 8, number)
            offset += len(request.data)
        try:
            self._socket.send(data)
        except OSError as exc:
            raise KernelRefused(self.node, batch[0].action, exc.errno or 0) from exc
        while True:
            try:
                answer = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as exc:  # ENOBUFS: more answers than the socket holds
                raise KernelRefused(self.node, f"read the answer to: {batch[0].action}", exc.errno or 0) from exc
            for kind, flags, number, body in _messages(answer):
                if kind == _NLMSG_ERROR:
                    code = -_s32.unpack_from(body)[0]
                    if code:
                        self._drain()
                        raise KernelRefused(self.node, batch[number].action, code, _words(flags, body, code))
                else:
                    yield kind, body

    def _drain(self) -> None:
        try:
            while True:
                self._socket.recv(65536)
        except BlockingIOError:
            return


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, number, _ = _header.unpack_from(data, offset)
        yield kind, flags, number, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (type, value) attributes in `data`."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _attribute.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _words(flags: int, body: bytes, code: int) -> str:
    """The errno in words, with the kernel's own explanation where it gave one (extended acknowledgement)."""
    text = os.strerror(code)
    if flags & _NLM_F_ACK_TLVS:
        offset = 4 + (16 if flags & _NLM_F_CAPPED else _u32.unpack_from(body, 4)[0])
        for kind, value in attributes(body[(offset + 3) & ~3 :]):
            if kind == _NLMSGERR_ATTR_MSG:
                text += f" ({value.rstrip(bytes(1)).decode(errors='replace')})"
    return text


def _parse_link(body: bytes) -> LinkState:
    _, _, index, flags, _ = _ifinfo.unpack_from(body)
    found = dict(attributes(body[16:]))
    return LinkState(
        number=index,
        name=found[IFLA_IFNAME].rstrip(b"\0").decode(),
        flags=flags,
        mtu=_u32.unpack(found[IFLA_MTU])[0],
        operstate=found.get(_IFLA_OPERSTATE, b"\0")[0],
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
    )
