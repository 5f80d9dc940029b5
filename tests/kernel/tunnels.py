"""A lab of tunnels for kernel tests: real namespaces, a broker, clients, and packets made by hand."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from lab.actors.broker import TunnelBroker
from lab.actors.client import TunnelClient
from lab.actors.ping import PingReport, ping
from lab.kernel import nft
from lab.kernel.build import Fabric, build
from lab.kernel.namespace import Namespace
from lab.topology.network import Network
from lab.topology.plan import NodePlan
from lab.topology.planner import make_plan
from lab.tsp import ClientConfig, Mechanism, Retransmission, TunnelType

IMPATIENT = Retransmission(initial_rto_s=0.05, min_rto_s=0.05, first_transmissions=3, transmissions=3)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait until `condition` holds; AssertionError naming `what` if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for: {what}"
        await asyncio.sleep(0.005)


class Tunnels:
    """A network that is up, its broker running."""

    def __init__(self, network: Network) -> None:
        self.plan = make_plan(network)
        self.fabric: Fabric = build(self.plan)
        self.rng = random.Random(1)
        self.broker = TunnelBroker.from_options(self.fabric["broker"], self.node("broker"), rng=self.rng)
        self.clients: list[TunnelClient] = []
        self.sockets: list[socket.socket] = []

    def node(self, name: str) -> NodePlan:
        return self.plan.node(name)

    def __getitem__(self, name: str) -> Namespace:
        return self.fabric[name]

    def ipv4(self, name: str) -> str:
        address = self.node(name).ipv4
        assert address is not None
        return address

    def ipv6(self, name: str) -> str:
        address = self.node(name).ipv6
        assert address is not None
        return address

    def client(self, name: str, tunnel: str = "v6anyv4", transport: str = "udp", **options: Any) -> TunnelClient:
        """A client on node `name`; `options` are fields of ClientConfig or arguments of TunnelClient.

        It carries its packets itself, also on a kernel with `sit`, unless it is told to use that.
        """
        options.setdefault("use_sit", False)
        fields = {"user", "password", "prefix_length", "keepalive_interval_s", "retransmission", "client_address"}
        asked = {key: options.pop(key) for key in list(options) if key in fields}
        if mechanism := options.pop("mechanism", None):
            asked["mechanisms"] = (Mechanism(mechanism),)
        asked.setdefault("client_address", IPv4Address(self.ipv4(name)))
        config = ClientConfig(tunnel=TunnelType(tunnel), **asked)
        broker = (self.ipv4("broker"), options.pop("port", 3653))
        made = TunnelClient(self[name], config, broker, transport, rng=self.rng, **options)
        self.clients.append(made)
        return made

    async def connected(
        self, name: str, tunnel: str = "v6anyv4", transport: str = "udp", **options: Any
    ) -> TunnelClient:
        """A client whose tunnel is up and has carried an echo."""
        made = self.client(name, tunnel, transport, **options)
        report = await made.connect()
        assert report.outcome == "ready", report
        assert report.carries_data, report
        return made

    async def ping(self, node: str, target: str, **options: Any) -> PingReport:
        """Echo requests from a node to a node's IPv6 address, or to an address.

        Who expects no answer says how long to wait for it: `timeout_s`.
        """
        address = target if ":" in target or "." in target else self.ipv6(target)
        return await ping(self[node], address, **{"count": 2, "timeout_s": 10.0, **options})

    async def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for client in self.clients:
            await client.close(delete_timeout_s=0)
        await self.broker.stop()
        self.fabric.close()


@asynccontextmanager
async def tunnels(network: Network) -> AsyncIterator[Tunnels]:
    """Build `network`, start its broker, take everything down afterwards."""
    made = Tunnels(network)
    try:
        await made.broker.start()
        yield made
    finally:
        await made.close()


def direct(clients: tuple[str, ...] = ("client", "other"), **broker: Any) -> Network:
    """client and other - internet - broker - server."""
    net = Network("direct")
    net.router("internet")
    net.broker("broker", users={"ann": "secret", "bob": "hidden"}, **broker)
    net.host("server", ipv6_only=True)
    for name in clients:
        net.client(name)
        net.link(name, "internet")
    net.link("internet", "broker")
    net.link("broker", "server")
    return net


def behind_nat(**broker: Any) -> Network:
    """ann and bob - nat - internet - broker - server."""
    net = Network("nat")
    net.router("internet")
    net.broker("broker", users={"ann": "secret", "bob": "hidden"}, **broker)
    net.host("server", ipv6_only=True)
    net.nat("nat")
    for name in ("ann", "bob"):
        net.client(name)
        net.link(name, "nat")
    net.link("nat", "internet")
    net.link("internet", "broker")
    net.link("broker", "server")
    return net


def hush(namespace: Namespace) -> None:
    """Have the kernel keep its announcements of addresses and groups (RFC 4862, RFC 3810) out of the tunnel.

    They come at random times in the first second of a device, and disturb who counts packets.
    """
    nft.load(
        namespace,
        "table ip6 hush { chain output { type filter hook output priority 0; "
        'oifname "tsp*" ip6 daddr ff02::/16 drop; }; }',
    )


def assert_nothing_is_left(namespace: Namespace, device: str = "tsp0") -> None:
    """The namespace has no such device, no global IPv6 address and no default IPv6 route."""
    with namespace.entered():
        names = [name for _, name in socket.if_nameindex()]
    assert device not in names
    with namespace.entered(), open("/proc/thread-self/net/ipv6_route") as routes:
        assert not [line for line in routes if line.split()[-1] == device]


# --- packets made by hand ---------------------------------------------------------------------------------------


def echo_request(source: str, destination: str, identifier: int = 7) -> bytes:
    """An IPv6 packet with an ICMPv6 echo request, checksum and all."""
    message = struct.pack("!BBHHH", 128, 0, 0, identifier, 1) + b"spoof me"
    a, b = IPv6Address(source).packed, IPv6Address(destination).packed
    data = a + b + struct.pack("!II", len(message), 58) + message
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    return struct.pack("!IHBB", 0x60000000, len(message), 58, 64) + a + b + message


def ipv4_packet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """An IPv4 packet for a raw socket with IP_HDRINCL; the kernel fills in length, identification and checksum."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, protocol, 0) + addresses + payload


def udp_payload(source_port: int, destination_port: int, payload: bytes) -> bytes:
    """A UDP datagram without a checksum."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def send_raw(namespace: Namespace, packet: bytes) -> None:
    """Send an IPv4 packet, header included, from a namespace, whatever its source address says."""
    with namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
