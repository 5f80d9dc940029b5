"""The kernel's own 6in4 device, `sit` (RFC 4213), where the kernel has one; see `caps.sit`.

Layout: IFLA_IPTUN_* of linux/if_tunnel.h; what the kernel makes of it: net/ipv6/sit.c, ipip6_netlink_parms.
"""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import IPv4Address
from typing import Final

from lab.kernel import links, netlink, nft
from lab.kernel.namespace import Namespace
from lab.kernel.netlink import NLA_F_NESTED, Request, attribute

_IFLA_IPTUN_LOCAL: Final = 2
_IFLA_IPTUN_REMOTE: Final = 3
_IFLA_IPTUN_TTL: Final = 4
_IFLA_IPTUN_PMTUDISC: Final = 10


def create(
    ns: Namespace, name: str, local: IPv4Address, remote: IPv4Address, mtu: int = 1280, *, ttl: int = 64
) -> None:
    """A 6in4 tunnel device `name` between two IPv4 addresses, up.

    The outer packet may be fragmented (DF clear), as RFC 4213 section 3.2.1 asks of a fixed tunnel MTU.  `ttl` is the
    outer one (0: copy the inner hop limit).  Raises KernelRefused.
    """
    ns.netlink.do([add_sit(name, local, remote, mtu, ttl)])
    ns.sysctls({f"net/ipv6/conf/{name}/{key}": value for key, value in (("accept_ra", "0"), ("accept_dad", "0"))})
    links.link_up(ns, name)


def delete(ns: Namespace, name: str) -> None:
    """Remove the device.  Raises KernelRefused."""
    links.del_link(ns, name)


def add_sit(name: str, local: IPv4Address, remote: IPv4Address, mtu: int, ttl: int) -> Request:
    """The message that makes the device, down."""
    tunnel = (
        attribute(_IFLA_IPTUN_LOCAL, local.packed)
        + attribute(_IFLA_IPTUN_REMOTE, remote.packed)
        + attribute(_IFLA_IPTUN_TTL, bytes([ttl]))
        + attribute(_IFLA_IPTUN_PMTUDISC, bytes([0]))
    )
    info = attribute(netlink.IFLA_INFO_KIND, b"sit") + attribute(netlink.IFLA_INFO_DATA | NLA_F_NESTED, tunnel)
    body = (
        bytes(16)  # struct ifinfomsg: the kernel chooses the index
        + attribute(netlink.IFLA_IFNAME, name.encode() + b"\0")
        + attribute(netlink.IFLA_MTU, struct.pack("=I", mtu))
        + attribute(netlink.IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    return Request(f"add 6in4 device {name}", netlink.message(netlink.RTM_NEWLINK, netlink.ADD, body))


_QUIET_TABLE: Final = "lab_protocol_41"


def silence(ns: Namespace) -> None:
    """Keep a kernel with tunnel drivers from answering protocol 41 that a raw socket reads; nothing on others.

    Such a kernel offers each packet to its own tunnels first, and says "port unreachable" when none of them wants it,
    not knowing of the raw socket.  The peer would take its tunnel for broken.  Raises KernelRefused.
    """
    if not _has_driver(ns):
        return
    nft.load(
        ns,
        f"""\
table ip {_QUIET_TABLE} {{}}
delete table ip {_QUIET_TABLE}
table ip {_QUIET_TABLE} {{
\tchain output {{
\t\ttype filter hook output priority filter; policy accept;
\t\t# The quoted packet begins 8 bytes into the ICMP error, its protocol 9 bytes further on.
\t\ticmp type destination-unreachable icmp code port-unreachable @th,136,8 41 counter drop comment "not_unreachable"
\t}}
}}
""",
    )


def unsilence(ns: Namespace) -> None:
    """Undo `silence`; nothing happens where it was not needed."""
    if _has_driver(ns):
        nft.load(ns, f"table ip {_QUIET_TABLE} {{}}\ndelete table ip {_QUIET_TABLE}\n")


def _has_driver(ns: Namespace) -> bool:
    """Whether `sit` is in this kernel: it puts a fallback device into every namespace, or is a loaded module."""
    with ns.entered():
        names = {name for _, name in socket.if_nameindex()}
    return "sit0" in names or os.path.exists("/sys/module/sit")
