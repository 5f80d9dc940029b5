"""What each firewall policy does to each kind of packet; everything is first shown passing with the box open."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from lab.kernel import nft
from lab.rules.firewall import POLICIES, PROHIBITED_MARK, firewall_ruleset
from lab.topology.network import Network
from tests.kernel.prober import Prober, received, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft")]

PROBES: Final = ("udp 3653", "tcp 3653", "protocol 41", "udp 5000", "tcp 5000", "icmp")

BLOCKED: Final = {
    "allow": (),
    "drop_udp_3653": ("udp 3653",),
    "reject_udp_3653": ("udp 3653",),
    "drop_tcp_3653": ("tcp 3653",),
    "reject_tcp_3653": ("tcp 3653",),
    "drop_3653": ("udp 3653", "tcp 3653"),
    "reject_3653": ("udp 3653", "tcp 3653"),
    "drop_proto41": ("protocol 41",),
    "reject_proto41": ("protocol 41",),
    "drop_6in4": ("protocol 41",),
    "reject_6in4": ("protocol 41",),
    "drop_udp": ("udp 3653", "udp 5000"),
    "reject_udp": ("udp 3653", "udp 5000"),
    "drop_tsp": ("udp 3653", "tcp 3653", "protocol 41"),
    "reject_tsp": ("udp 3653", "tcp 3653", "protocol 41"),
    "drop_but_80_443": PROBES,
    "reject_but_80_443": PROBES,
    "drop_by_default": ("udp 3653", "tcp 3653", "protocol 41", "udp 5000", "tcp 5000"),
    "reject_by_default": ("udp 3653", "tcp 3653", "protocol 41", "udp 5000", "tcp 5000"),
    "drop_all": PROBES,
    "reject_all": PROBES,
}
"""What a policy stops of these; test_policy_matrix.py has every policy and every mechanism."""

PROHIBITED: Final = errno.EHOSTUNREACH
"""What a socket reports of the ICMP error "communication administratively prohibited"."""


class Crossing:
    """A client and a server with a firewall between them, and one probe of each kind."""

    def __init__(self, lab: Prober) -> None:
        self.lab = lab
        self.server = lab.address("server")

    def load(self, policy: str) -> None:
        nft.load(self.lab.namespace("firewall"), firewall_ruleset(policy))

    def count(self, policy: str) -> int:
        return self.lab.dropped("firewall", policy)

    def outcome(self, probe: str, policy: str) -> str:
        """ "passed", "dropped" (the policy counted it and nobody heard of it) or the errno the sender got."""
        before = self.count(policy)
        sender, ear, payload = self.send(probe)
        result: list[str] = []

        def settled() -> bool:
            error = sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                result.append(errno.errorcode[error])
            elif _accepted(ear) if probe.startswith("tcp") else _heard(ear, payload):
                result.append("passed")
            elif policy.startswith("drop") and self.count(policy) > before:
                result.append("dropped")
            return bool(result)

        with sender, ear:
            wait_for(settled, f"{probe} to pass or to be stopped by {policy}")
        return result[0]

    def send(self, probe: str) -> tuple[socket.socket, socket.socket, bytes]:
        """Send the probe; the socket it left by, the one it should arrive at, and what to look for."""
        kind, _, number = probe.partition(" ")
        if kind == "tcp":
            ear = self.lab.tcp_listener("server", int(number))
            sender = self.lab.open("client", socket.SOCK_STREAM)
            sender.connect_ex((self.server, int(number)))
            return sender, ear, b""
        if kind == "udp":
            ear = self.lab.udp("server", int(number))
            sender = self.lab.udp("client")
            sender.connect((self.server, int(number)))
        else:
            protocol = socket.IPPROTO_IPV6 if kind == "protocol" else socket.IPPROTO_ICMP
            ear = self.lab.open("server", socket.SOCK_RAW, protocol)
            sender = self.lab.open("client", socket.SOCK_RAW, protocol)
            sender.connect((self.server, 0))
        payload = b"\x08\x00\xf7\xff\x00\x00\x00\x00" if kind == "icmp" else b"\x60".ljust(40, b"\0") + b"probe"
        sender.send(payload)
        return sender, ear, payload


def _accepted(listener: socket.socket) -> bool:
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return False
    with connection:  # ends with a reset: what is said again and again later would be counted by the next policy
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


def _heard(ear: socket.socket, payload: bytes) -> bool:
    got = received(ear)
    return got is not None and got[0].endswith(payload)


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    net = Network("crossing")
    net.client("client")
    net.firewall("firewall", outside="server")
    net.host("server")
    net.link("client", "firewall")
    net.link("firewall", "server")
    with Prober(net) as lab:
        yield Crossing(lab)


@pytest.mark.parametrize("policy", BLOCKED)
def test_a_policy_stops_what_its_name_says_and_nothing_else(crossing: Crossing, policy: str) -> None:
    for probe in PROBES:
        assert crossing.outcome(probe, "allow") == "passed", f"{probe} with the box open"
        crossing.load(policy)
        assert crossing.outcome(probe, policy) == expected(policy, probe), f"{probe} under {policy}"
        crossing.load("allow")


def expected(policy: str, probe: str) -> str:
    if probe not in BLOCKED[policy]:
        return "passed"
    if policy.startswith("drop"):
        return "dropped"
    return "ECONNREFUSED" if probe.startswith("tcp") else errno.errorcode[PROHIBITED]


@pytest.mark.parametrize("policy", [policy for policy in BLOCKED if policy != "allow"])
def test_what_a_policy_stops_is_counted_under_its_name(crossing: Crossing, policy: str) -> None:
    crossing.load(policy)
    assert crossing.count(policy) == 0
    crossing.outcome(BLOCKED[policy][0], policy)
    assert crossing.count(policy) > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_nft_takes_every_policy(crossing: Crossing, policy: str) -> None:
    crossing.load(policy)
    assert set(nft.counters(crossing.lab.namespace("firewall"))) <= {policy, "allow", "not_answered"}


def test_of_joined_policies_each_stops_and_counts_its_own(crossing: Crossing) -> None:
    crossing.load("drop_udp_3653+reject_proto41+reject_tcp_3653")
    assert crossing.outcome("udp 3653", "drop_udp_3653") == "dropped"
    assert crossing.outcome("protocol 41", "reject_proto41") == errno.errorcode[PROHIBITED]
    assert crossing.outcome("tcp 3653", "reject_tcp_3653") == "ECONNREFUSED"
    assert crossing.outcome("udp 5000", "allow") == "passed"
    assert [crossing.count(name) for name in ("drop_udp_3653", "reject_proto41", "reject_tcp_3653")] == [1, 1, 1]


def test_what_routing_does_not_refuse_is_dropped_all_the_same(crossing: Crossing) -> None:
    firewall = crossing.lab.namespace("firewall")
    assert crossing.outcome("protocol 41", "allow") == "passed"
    with firewall.entered():
        subprocess.run(["ip", "rule", "delete", "fwmark", str(PROHIBITED_MARK)], check=True)
    crossing.load("reject_proto41")
    sender, ear, _ = crossing.send("protocol 41")
    wait_for(lambda: crossing.count("not_answered") == 1, "the drop")
    assert received(ear) is None
    assert sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_policy_loaded_later_stops_a_conversation_in_both_directions(crossing: Crossing) -> None:
    lab = crossing.lab
    client, server = lab.udp("client", 40000), lab.udp("server", 3653)
    client.sendto(b"hello", (crossing.server, 3653))
    wait_for(lambda: received(server) is not None, "the first datagram")
    server.sendto(b"hello yourself", (lab.address("client"), 40000))
    wait_for(lambda: received(client) is not None, "the answer")
    crossing.load("drop_3653")
    server.sendto(b"are you there", (lab.address("client"), 40000))
    wait_for(lambda: crossing.count("drop_3653") == 1, "the answer's drop")
    client.sendto(b"yes", (crossing.server, 3653))
    wait_for(lambda: crossing.count("drop_3653") == 2, "the question's drop")
    assert received(client) is None
    assert received(server) is None
