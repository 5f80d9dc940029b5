"""Changes to the interfaces of one namespace while a lab runs: addresses, routes, MTU, up and down.

A bring-up goes through `lab.kernel.build`; this is for actors, which change one thing at a time by interface name.
Every function raises KernelRefused naming the node and what was asked for.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import struct
from typing import Final

from lab.errors import KernelRefused
from lab.kernel import netlink, settle
from lab.kernel.namespace import Namespace

_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_STXCSUM: Final = 0x17
_ETHTOOL_SGSO: Final = 0x24
_IFNAMSIZ: Final = 16


def link(ns: Namespace, iface: str) -> netlink.LinkState:
    """What the kernel says of an interface."""
    return ns.netlink.links([(iface, 0)])[0]


def index(ns: Namespace, iface: str) -> int:
    """The interface's number in its namespace."""
    return link(ns, iface).number


def exists(ns: Namespace, iface: str) -> bool:
    """Whether the namespace has an interface of that name."""
    try:
        link(ns, iface)
    except KernelRefused as exc:
        if exc.errno == errno.ENODEV:
            return False
        raise
    return True


def add_address(ns: Namespace, iface: str, address: str) -> None:
    """Give an interface "192.0.2.1/24" or "2001:db8::1/64" (no duplicate address detection).

    Of an interface that is up it is usable when this comes back, some tenths of a millisecond later for IPv6.
    """
    state = link(ns, iface)
    ns.netlink.do([netlink.add_address(iface, state.number, address)])
    if ":" in address and state.flags & netlink.IFF_LOWER_UP:
        settle.addresses_answer({ns: [address]})


def del_address(ns: Namespace, iface: str, address: str) -> None:
    """Take an address from an interface."""
    ns.netlink.do([netlink.delete_address(iface, index(ns, iface), address)])


def add_route(
    ns: Namespace, dst: str, via: str | None, iface: str, *, mtu: int | None = None, replace: bool = False
) -> None:
    """Add a route to prefix `dst`, by gateway `via` or (None) directly; `mtu` in bytes of IP packet."""
    ns.netlink.do([netlink.add_route(dst, via, index(ns, iface), mtu=mtu, replace=replace)])


def del_route(ns: Namespace, dst: str, via: str | None, iface: str) -> None:
    """Remove a route."""
    ns.netlink.do([netlink.delete_route(dst, via, index(ns, iface))])


def add_unreachable(ns: Namespace, dst: str) -> None:
    """Have what goes to prefix `dst`, and no other route to it or in it takes, answered "unreachable"."""
    ns.netlink.do([netlink.add_unreachable(dst)])


def del_unreachable(ns: Namespace, dst: str) -> None:
    """Remove a route of `add_unreachable`."""
    ns.netlink.do([netlink.delete_unreachable(dst)])


def link_up(ns: Namespace, iface: str) -> None:
    """Bring an interface up."""
    ns.netlink.do([netlink.set_up(iface, index(ns, iface))])


def link_down(ns: Namespace, iface: str) -> None:
    """Bring an interface down; its IPv6 addresses and the routes through it go."""
    ns.netlink.do([netlink.set_link(iface, index(ns, iface), change=netlink.IFF_UP)])


def del_link(ns: Namespace, iface: str) -> None:
    """Remove an interface."""
    ns.netlink.do([netlink.delete_link(iface, index(ns, iface))])


def set_mtu(ns: Namespace, iface: str, mtu: int) -> None:
    """Set the largest IP packet the interface sends, in bytes."""
    ns.netlink.do([netlink.set_link(iface, index(ns, iface), mtu=mtu)])


def disable_offloads(ns: Namespace, iface: str) -> None:
    """No transmit checksum and segmentation offload: what leaves the interface looks as on a real wire.

    Without this a veth passes 64 KB super-packets with unfinished TCP checksums to a raw, packet or UDP socket.
    """
    # A request is on any socket of the namespace, the netlink one too.
    _disable_offloads(ns.name, ns.netlink.fileno(), iface)


def _disable_offloads(node: str, fd: int, iface: str) -> None:
    for command in (_ETHTOOL_STXCSUM, _ETHTOOL_SGSO):  # without checksums the kernel drops TCP and UDP segmentation
        value = array.array("I", [command, 0])
        request = struct.pack(f"{_IFNAMSIZ}sP", iface.encode(), value.buffer_info()[0])
        try:
            fcntl.ioctl(fd, _SIOCETHTOOL, request)
        except OSError as exc:
            number = exc.errno or 0
            raise KernelRefused(node, f"turn off the offloads of {iface}", number, os.strerror(number)) from exc
