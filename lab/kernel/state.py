"""What a node's kernel looks like: links, addresses, routes, neighbours and queueing disciplines, read with pyroute2.

For people and for evidence, never on the way of a run: a run writes with `lab.kernel.netlink`, and this reads with
somebody else's code, so the two check each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.kernel.namespace import Namespace

_FAMILIES = {"ipv4": 2, "ipv6": 10}


def snapshot(ns: Namespace) -> dict[str, Any]:
    """The state of the namespace as plain JSON values, by kind; lists are in the kernel's order.

    links: name, kind, mtu, mac, up.  addresses: iface, address ("192.0.2.1/24").  routes: dst, via, iface.
    neighbours: iface, address, mac.  qdiscs: iface, kind, options.  Raises OSError as the kernel does.
    """
    from pyroute2 import IPRoute

    with ns.entered():
        route = IPRoute()
    with route:
        links = list(route.get_links())
        name = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
        return {
            "links": [_link(link) for link in links],
            "addresses": [
                {"iface": name.get(a["index"]), "address": f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}"}
                for a in route.get_addr()
            ],
            "routes": [
                _route(r, name)
                for family in _FAMILIES.values()
                for r in route.get_routes(family=family, table=254)
                if r["type"] == 1
            ],
            "neighbours": [
                {"iface": name.get(n["ifindex"]), "address": n.get_attr("NDA_DST"), "mac": n.get_attr("NDA_LLADDR")}
                for family in _FAMILIES.values()
                for n in route.get_neighbours(family=family)
                if n.get_attr("NDA_LLADDR") not in (None, "00:00:00:00:00:00")
            ],
            "qdiscs": [
                {"iface": name.get(q["index"]), "kind": q.get_attr("TCA_KIND")}
                for q in route.get_qdiscs()
                if q.get_attr("TCA_KIND") not in ("noqueue", "pfifo_fast", "fq_codel", "mq")
            ],
        }


def _link(link: Any) -> dict[str, Any]:
    info = link.get_attr("IFLA_LINKINFO")
    return {
        "name": link.get_attr("IFLA_IFNAME"),
        "kind": info.get_attr("IFLA_INFO_KIND") if info is not None else "",
        "mtu": link.get_attr("IFLA_MTU"),
        "mac": link.get_attr("IFLA_ADDRESS"),
        "up": bool(link["flags"] & 1),
    }


def _route(route: Any, name: Mapping[int, str]) -> dict[str, Any]:
    dst = route.get_attr("RTA_DST")
    return {
        "dst": f"{dst}/{route['dst_len']}" if dst else "default",
        "via": route.get_attr("RTA_GATEWAY"),
        "iface": name.get(route.get_attr("RTA_OIF")),
    }
