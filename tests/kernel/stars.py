"""Plans made by hand for the tests of the kernel package: hosts around a hub."""

from __future__ import annotations

from collections.abc import Iterator

from lab.topology.plan import AddAddress, AddLink, AddNode, AddRoute, Plan, SetSysctl, SetUp, Step


def star(hosts: int = 2, *, mtu: int = 1500, offload: bool = False, extra: tuple[Step, ...] = ()) -> Plan:
    """Hosts h0, h1 ... (10.N.0.2, 2001:db8:N::2) behind a forwarding hub (10.N.0.1, 2001:db8:N::1)."""
    return Plan("star", (), (*_steps(hosts, mtu, offload), *extra))


def _steps(hosts: int, mtu: int, offload: bool) -> Iterator[Step]:
    names = ["hub", *(f"h{number}" for number in range(hosts))]
    for name in names:
        yield AddNode(name)
        yield SetSysctl(name, "net/ipv6/conf/default/accept_dad", "0")
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        yield SetSysctl("hub", f"net/{key}", "1")
    for n in range(hosts):
        macs = f"02:00:00:00:01:{n:02x}", f"02:00:00:00:02:{n:02x}"
        yield AddLink("hub", f"e{n}", n + 2, macs[0], f"h{n}", "eth0", 2, macs[1], mtu=mtu, offload=offload)
    for n in range(hosts):
        for end, node, iface, index in ((1, "hub", f"e{n}", n + 2), (2, f"h{n}", "eth0", 2)):
            yield AddAddress(node, iface, index, f"10.{n}.0.{end}/24")
            yield AddAddress(node, iface, index, f"2001:db8:{n:x}::{end}/64")
            yield SetUp(node, iface, index)
        yield AddRoute(f"h{n}", "0.0.0.0/0", f"10.{n}.0.1", "eth0", 2)
        yield AddRoute(f"h{n}", "::/0", f"2001:db8:{n:x}::1", "eth0", 2)
