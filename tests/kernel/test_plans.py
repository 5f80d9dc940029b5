"""What the planner decides works on the kernel: packets go where its routes say."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lab.topology.network import Network
from lab.topology.plan import Plan
from tests.kernel.prober import Prober, deliver, received, wait_for
from tests.unit.shapes import ALL

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft_nat", "conntrack", "bridge")]

PORT = 4000


def undelayed(net: Network) -> Network:
    """The same network without impairments, which a kernel may not have."""
    plain = Network(net.name, ranges=net.ranges)
    plain._nodes = dict(net._nodes)
    for node in net.nodes:
        if node.kind == "firewall":
            plain._nodes.pop(node.name)
            plain.firewall(node.name)
    for link in net.links:
        plain.link(link.a, link.b, mtu=link.mtu, ipv4=link.ipv4, ipv6=link.ipv6, plugged=link.plugged)
    return plain


@pytest.fixture(params=list(ALL))
def lab(request: pytest.FixtureRequest) -> Iterator[Prober]:
    with Prober(undelayed(ALL[request.param]())) as prober:
        yield prober


def test_every_client_reaches_every_broker_and_is_answered(lab: Prober) -> None:
    for broker in nodes(lab.plan, "broker"):
        with lab.udp(broker, PORT) as ear:
            for client in nodes(lab.plan, "client"):
                with lab.udp(client, PORT) as sock:
                    source = deliver(sock, (lab.address(broker), PORT), ear)
                    assert deliver(ear, source, sock) == (lab.address(broker), PORT)


def test_whoever_has_ipv6_reaches_whoever_has_ipv6(lab: Prober) -> None:
    speakers = [node for node in lab.plan.nodes if node.ipv6 is not None]
    for target in speakers:
        ear = lab.open(target.name, socket.SOCK_DGRAM, family=socket.AF_INET6)
        ear.bind(("::", PORT))
        for node in speakers:
            if node is target:
                continue
            sock = lab.open(node.name, socket.SOCK_DGRAM, family=socket.AF_INET6)
            token = node.name.encode()
            sock.sendto(token, (target.ipv6, PORT))
            arrived: list[bytes] = []
            wait_for(
                lambda arrived=arrived, ear=ear: bool(take(ear, arrived)),  # type: ignore[misc]
                f"IPv6 from {node.name} to {target.name}",
            )
            assert arrived == [token]


def take(sock: socket.socket, into: list[bytes]) -> list[bytes]:
    got = received(sock)
    if got is not None:
        into.append(got[0])
    return into


def nodes(plan: Plan, kind: str) -> list[str]:
    return [node.name for node in plan.nodes if node.kind == kind]
