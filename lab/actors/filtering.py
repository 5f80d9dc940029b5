"""Which mechanisms of RFC 7123 get through a firewall: one packet of each is sent, and both ends are watched."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from itertools import product
from typing import TYPE_CHECKING, Final

from lab.actors.probing import send_probe
from lab.errors import KernelRefused
from lab.explain.probe import Kind, Probe, make_probe
from lab.generators.mechanisms import MECHANISMS
from lab.kernel import links, nft
from lab.kernel.trace import Watch
from lab.rules.firewall import firewall_ruleset

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

GROUP_6OVER4: Final = IPv4Address("239.192.1.2")
"""Where a 6over4 host asks for its neighbours: an organisation-local group (RFC 2529 section 6)."""

_QUIET_S: Final = 0.05
_LETTERS: Final = b"bcdfghjkmnpqrstvwxz"
"""Of tokens."""
_MRT_INIT: Final = 200
_MRT_ADD_VIF: Final = 202
_MRT_ADD_MFC: Final = 204
_VIFF_USE_IFINDEX: Final = 0x8
_vifctl: Final = struct.Struct("=HBBIi4s")
_mfcctl: Final = struct.Struct("=4s4sH32sxxIIIi")


@dataclass(frozen=True, slots=True)
class Crossing:
    """What became of one packet of each mechanism, by the mechanisms' names."""

    policy: str
    passed: tuple[str, ...]
    dropped: tuple[str, ...]
    """Did not arrive, and nobody told the sender."""
    rejected: tuple[str, ...]
    """Did not arrive, and the sender was told."""
    counted: int
    """Packets that the policy's rules counted."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A firewall and its two neighbours, which have IPv4 and IPv6 addresses."""

    sender: Namespace
    firewall: Namespace
    receiver: Namespace
    src: IPv4Interface
    """The sender's address and prefix; others of the prefix are borrowed."""
    src_iface: str
    dst: IPv4Address
    src6: IPv6Address
    dst6: IPv6Address
    inside: str
    """The firewall's interface to the sender."""
    outside: str


async def try_policies(passage: Passage, policies: Sequence[str], rng: random.Random) -> AsyncIterator[Crossing]:
    """Load each policy in turn, send one packet of every mechanism past it, and see which arrive.

    The limits on the number of ICMP errors are lifted on the firewall.  For what routing refuses they cannot be:
    five at once to each host, so every policy is tried from another address.
    Packets of 6over4 go to a multicast group, and are left out where the kernel does not route multicast.
    """
    for key in ("net/ipv4/icmp_ratemask", "net/ipv6/icmp/ratelimit"):
        with suppress(KernelRefused):  # a firewall of IPv4 only
            passage.firewall.sysctl(key, "0")
    with multicast_routed(passage.firewall, str(passage.src.ip), passage.inside, passage.outside) as routed:
        names = [name for name in MECHANISMS if routed or name != "6over4"]
        for number, policy in enumerate(policies):
            nft.load(passage.firewall, firewall_ruleset(policy))
            source = _borrow(passage, number)
            yield await _cross(passage, policy, source, names, rng)


def _borrow(passage: Passage, number: int) -> IPv4Address:
    """Another address of the sender's prefix, added to its interface; its own where there are no more."""
    offset = 16 + number
    if offset >= passage.src.network.num_addresses - 1:
        return passage.src.ip
    address = passage.src.network.network_address + offset
    links.add_address(passage.sender, passage.src_iface, f"{address}/{passage.src.network.prefixlen}")
    return address


async def _cross(
    passage: Passage, policy: str, source: IPv4Address, mechanisms: Sequence[str], rng: random.Random
) -> Crossing:
    ports = rng.sample(range(49_152, 65_536), len(mechanisms))
    tokens = rng.sample([bytes(token) for token in product(_LETTERS, repeat=4)], len(mechanisms))
    probes = {
        name: _probe(passage, name, source, port, token)
        for name, port, token in zip(mechanisms, ports, tokens, strict=True)
    }
    watched = {"sender": passage.sender, "receiver": passage.receiver}
    with ExitStack() as stack:
        async with Watch(watched, [], lambda packet: False) as watch:
            for probe in probes.values():
                send_probe(passage.sender, probe, stack)
            await watch.quiet(_QUIET_S)
    came = [seen for seen in watch.sightings if not seen.outgoing]
    at_receiver = [seen.packet for seen in came if seen.node == passage.receiver.name]
    at_sender = [seen.packet for seen in came if seen.node == passage.sender.name]
    passed, dropped, rejected = [], [], []
    for name, probe in probes.items():
        if any(probe.is_in(packet) for packet in at_receiver):
            passed.append(name)
        elif any(probe.is_answered_by(packet, [probe.header]) for packet in at_sender):
            rejected.append(name)
        else:
            dropped.append(name)
    counts = nft.counters(passage.firewall)
    counted = sum(counts.get(part, (0, 0))[0] for part in policy.split("+"))
    return Crossing(policy, tuple(passed), tuple(dropped), tuple(rejected), counted)


def _probe(passage: Passage, name: str, source: IPv4Address, port: int, token: bytes) -> Probe:
    src: IPv4Address | IPv6Address = source
    dst: IPv4Address | IPv6Address = passage.dst
    if MECHANISMS[name].version == 6:
        src, dst = passage.src6, passage.dst6
    elif name == "6over4":  # routed for this source
        src, dst = passage.src.ip, GROUP_6OVER4
    return make_probe(Kind(mechanism=name), "", "", src, dst, token, source_port=port)


@contextmanager
def multicast_routed(ns: Namespace, source: str, from_iface: str, to_iface: str) -> Iterator[bool]:
    """Inside the block, a router forwards what `source` sends to GROUP_6OVER4; False where its kernel cannot.

    Raises KernelRefused for other reasons.
    """
    with ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as igmp:
        try:
            igmp.setsockopt(socket.IPPROTO_IP, _MRT_INIT, 1)
        except OSError:  # a kernel without multicast routing
            yield False
            return
        try:
            with ns.entered():
                indices = [socket.if_nametoindex(iface) for iface in (from_iface, to_iface)]
            for number, index in enumerate(indices):
                vif = _vifctl.pack(number, _VIFF_USE_IFINDEX, 1, 0, index, bytes(4))
                igmp.setsockopt(socket.IPPROTO_IP, _MRT_ADD_VIF, vif)
            limits = b"\xff\x01".ljust(32, b"\xff")  # of the time to live, by interface: 255 is none, 1 is any
            route = _mfcctl.pack(IPv4Address(source).packed, GROUP_6OVER4.packed, 0, limits, 0, 0, 0, 0)
            igmp.setsockopt(socket.IPPROTO_IP, _MRT_ADD_MFC, route)
        except OSError as exc:
            raise KernelRefused(ns.name, "route multicast", exc.errno or 0) from exc
        yield True
