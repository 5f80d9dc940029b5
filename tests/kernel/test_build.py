"""A plan becomes a network: in order, in few messages, usable at once, and gone when it fails."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from pathlib import Path

import pytest

from lab.errors import KernelRefused
from lab.kernel import links, nft
from lab.kernel.build import Fabric, build
from lab.topology.plan import (
    AddAddress,
    AddBridge,
    AddLink,
    AddNode,
    AddRoute,
    LoadRules,
    Plan,
    SetSysctl,
    SetUp,
    Step,
)
from tests.kernel.prober import wait_for
from tests.kernel.stars import star

pytestmark = pytest.mark.kernel


def first_packet_arrives(fabric: Fabric, source: str, target: str, address: str) -> bool:
    """Whether one datagram, sent once, is received within half a minute."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ear = fabric[target].socket(family, socket.SOCK_DGRAM)
    mouth = fabric[source].socket(family, socket.SOCK_DGRAM)
    with ear, mouth:
        ear.bind(("::" if family == socket.AF_INET6 else "", 4000))
        mouth.sendto(b"first", (address, 4000))
        ear.settimeout(30)
        try:
            return ear.recv(10) == b"first"
        except TimeoutError:
            return False


def test_the_very_first_packet_arrives_in_every_direction() -> None:
    with build(star(40)) as fabric:
        for number in range(40):
            other = (number + 1) % 40
            assert first_packet_arrives(fabric, f"h{number}", f"h{other}", f"10.{other}.0.2")
            assert first_packet_arrives(fabric, f"h{number}", f"h{other}", f"2001:db8:{other:x}::2")


def test_nothing_appears_where_the_lab_was_started() -> None:
    before = socket.if_nameindex(), sorted(os.listdir("/run")), Path("/proc/self/mountinfo").read_text()
    with build(star(3)):
        assert (socket.if_nameindex(), sorted(os.listdir("/run")), Path("/proc/self/mountinfo").read_text()) == before


def test_indexes_macs_and_mtu_are_those_of_the_plan() -> None:
    with build(star(2, mtu=1400)) as fabric:
        assert links.link(fabric["hub"], "e1")[:2] == (3, "e1")
        assert links.link(fabric["hub"], "e1").mac == "02:00:00:00:01:01"
        assert links.link(fabric["h1"], "eth0").mac == "02:00:00:00:02:01"
        assert {links.link(fabric[node], iface).mtu for node, iface in (("hub", "e0"), ("h0", "eth0"))} == {1400}


def test_a_link_without_offloads_carries_no_super_packets() -> None:
    """TCP over a plain veth reaches a packet socket in pieces of up to 64 KB; on a link like a wire never above MTU."""

    def largest(offload: bool) -> int:
        with build(star(1, offload=offload)) as fabric:
            tap = fabric["h0"].socket(socket.AF_PACKET, socket.SOCK_RAW)
            server = fabric["h0"].socket(socket.AF_INET, socket.SOCK_STREAM)
            client = fabric["hub"].socket(socket.AF_INET, socket.SOCK_STREAM)
            with tap, server, client:
                tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
                tap.bind(("eth0", 3))
                server.bind(("10.0.0.2", 4000))
                server.listen()
                for sock in (server, client):
                    sock.settimeout(30)
                client.connect(("10.0.0.2", 4000))
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(30)
                    client.sendall(bytes(100_000))
                    received = 0
                    while received < 100_000:
                        received += len(connection.recv(100_000))
                sizes = []
                while True:
                    try:
                        sizes.append(len(tap.recv(70_000)))
                    except BlockingIOError:
                        return max(sizes)

    assert largest(offload=True) > 1514
    assert largest(offload=False) == 1514


@pytest.mark.needs("bridge")
def test_a_switch_forwards_at_once() -> None:
    hosts = 3
    steps: list[Step] = [AddNode("switch"), *(AddNode(f"h{n}") for n in range(hosts))]
    steps += [
        AddLink(f"h{n}", "eth0", 2, f"02:00:00:00:00:0{n}", "switch", f"p{n}", n + 2, f"02:00:00:00:01:0{n}")
        for n in range(hosts)
    ]
    steps.append(AddBridge("switch", "br0", 9, "02:00:00:00:02:00", tuple(f"p{n}" for n in range(hosts))))
    for n in range(hosts):
        steps += [AddAddress(f"h{n}", "eth0", 2, f"10.0.0.{n + 1}/24"), SetUp(f"h{n}", "eth0", 2)]
        steps.append(SetUp("switch", f"p{n}", n + 2))
    steps.append(SetUp("switch", "br0", 9))
    with build(Plan("switched", (), tuple(steps))) as fabric:
        assert first_packet_arrives(fabric, "h0", "h1", "10.0.0.2")
        assert first_packet_arrives(fabric, "h2", "h0", "10.0.0.1")


@pytest.mark.needs("nft")
def test_rules_are_loaded_and_counted_by_name() -> None:
    text = (
        "flush ruleset\ntable inet t {\n chain c {\n  type filter hook input priority 0;\n"
        '  udp dport 4000 counter comment "word"\n  udp dport 4001 counter drop comment "word"\n }\n}\n'
    )
    with build(star(1, extra=(LoadRules("h0", text),))) as fabric:
        assert nft.counters(fabric["h0"]) == {"word": (0, 0)}
        assert first_packet_arrives(fabric, "hub", "h0", "10.0.0.2")
        assert nft.counters(fabric["h0"]) == {"word": (1, 33)}
        assert nft.counters(fabric["hub"]) == {}
        assert "udp dport 4000" in nft.list_ruleset(fabric["h0"])
        with pytest.raises(KernelRefused, match=r"h0: load nftables rules: .*(?s:.)*flash"):
            nft.load(fabric["h0"], "flush ruleset\nflash\n")
        assert nft.counters(fabric["h0"]) == {"word": (1, 33)}  # all or nothing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (AddAddress("h1", "eth0", 2, "10.1.0.2/24"), "h1: add address 10.1.0.2/24 to eth0: File exists"),
        (AddAddress("h1", "eth7", 7, "10.9.0.2/24"), "h1: add address 10.9.0.2/24 to eth7: No such device"),
        (AddRoute("h1", "10.7.0.0/16", "10.8.0.1", "eth0", 2), "h1: add route 10.7.0.0/16 via 10.8.0.1: Network is"),
        (SetUp("h0", "eth1", 9), "h0: set eth1 up: No such device"),
        (SetSysctl("h0", "net/ipv4/nonsense", "1"), "h0: write sysctl net/ipv4/nonsense=1: No such file"),
        (AddNode("h0"), "h0: make a network namespace: the plan makes it twice"),
        (SetUp("nobody", "eth0", 2), "nobody: carry out the plan: no step made this node"),
        (
            AddLink("hub", "e0", 60, "02:00:00:00:09:01", "h0", "eth1", 3, "02:00:00:00:09:02"),
            "add link hub:e0 to h0:eth1: File exists",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_an_error_names_node_and_operation(wrong: Step, message: str) -> None:
    right: tuple[Step, ...] = (AddAddress("h1", "eth0", 2, "10.200.0.1/24"),)
    with pytest.raises(KernelRefused) as caught:
        build(star(2, extra=(*right, wrong, *right[:0])))
    assert message in str(caught.value)


def test_a_failed_build_leaves_no_descriptor_open() -> None:
    gc.collect()  # what earlier tests have left to it may hold some, and would go meanwhile
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(KernelRefused):
            build(star(4, extra=(SetUp("h0", "eth1", 9),)))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_closed_network_is_taken_apart(tmp_path: Path) -> None:
    """A link from inside to a namespace of ours goes when the kernel has removed the node it led from."""
    from lab.kernel import netlink
    from lab.kernel.namespace import Namespace

    with Namespace.create("witness") as witness:
        fabric = build(star(5))
        made = netlink.add_veth(
            "w", 0, "02:00:00:00:08:01", witness.fd, "x", 0, "02:00:00:00:08:02", fabric["hub"].fd, 1500
        )
        witness.netlink.do([made])
        fabric.close()
        wait_for(lambda: not links.exists(witness, "w"), "the link to vanish")


def test_steps_are_reported_in_their_order() -> None:
    plan = star(2)
    seen: list[Step] = []
    with build(plan, on_step=seen.append):
        assert tuple(seen) == plan.steps


def test_programs_see_the_routes_of_their_node() -> None:
    async def routes() -> list[dict[str, str]]:
        with build(star(1)) as fabric:
            found = json.loads((await fabric["h0"].run(["ip", "-j", "route"], check=True)).stdout)
            assert isinstance(found, list)
            return found

    assert [route["gateway"] for route in asyncio.run(routes()) if route["dst"] == "default"] == ["10.0.0.1"]
