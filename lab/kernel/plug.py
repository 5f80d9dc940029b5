"""Pull a node's cable out and put another one in, as a machine does that goes from one network to the next.

What a DHCP client would do on the way is done here as well: the old network's address and default route go, the new
one's come.  Sockets stay as they are; what becomes of them is what the kernel makes of it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping

from lab.errors import KernelRefused
from lab.kernel import links, netlink
from lab.kernel.namespace import Namespace
from lab.kernel.netlink import OPERSTATE_UP

EVERYWHERE = "0.0.0.0/0"


def unplug(ns: Namespace, iface: str, addresses: Iterable[str]) -> None:
    """Take an interface down, and from it its IPv4 `addresses` ("192.0.2.2/24"), its routes and its neighbours.

    Packets under way on the link are lost.  Of one that is unplugged already nothing is taken.  Raises KernelRefused.
    """
    links.link_down(ns, iface)
    for address in addresses:
        try:
            links.del_address(ns, iface, address)
        except KernelRefused as exc:
            if exc.errno != errno.EADDRNOTAVAIL:
                raise


def plug(ns: Namespace, iface: str, address: str, gateway: str | None, neighbours: Mapping[str, str]) -> None:
    """Bring an interface up with an address and, by `gateway`, the default route; raises KernelRefused.

    `neighbours` are MAC addresses by IP address, entered for good.  Packets pass as soon as `carries` says so.
    """
    links.link_up(ns, iface)
    links.add_address(ns, iface, address)
    if gateway is not None:
        links.add_route(ns, EVERYWHERE, gateway, iface)
    number = links.index(ns, iface)
    ns.netlink.do([netlink.add_neighbor(iface, number, known, mac) for known, mac in neighbours.items()])


def carries(ns: Namespace, iface: str) -> bool:
    """Whether the interface carries packets: it and the other end are up, and the kernel has noticed."""
    return links.link(ns, iface).operstate == OPERSTATE_UP
