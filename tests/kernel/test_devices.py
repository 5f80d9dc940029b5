"""Packet devices, captures, shaping and its verification, each against the real kernel."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lab.errors import ImpairmentError, KernelRefused
from lab.kernel import links, shaping, sit
from lab.kernel.build import build
from lab.kernel.caps import Capabilities
from lab.kernel.capture import Capture
from lab.kernel.namespace import Namespace
from lab.kernel.tun import Kind, PacketDevice
from lab.kernel.verify import verify
from lab.topology.plan import Shape
from tests.kernel.prober import received
from tests.kernel.stars import star
from tests.kernel.tunnels import until

pytestmark = pytest.mark.kernel

KINDS = [
    pytest.param("tun", marks=pytest.mark.needs("tun")),
    pytest.param("veth", marks=pytest.mark.needs("tun_fallback")),
]
FAR = "2001:db8:ffff::9"


@pytest.fixture
def laptop() -> Iterator[Namespace]:
    with Namespace.create("laptop") as ns:
        yield ns


def routed_device(ns: Namespace, kind: Kind, mtu: int = 1280) -> PacketDevice:
    device = PacketDevice.open(ns, "tsp0", mtu, kind=kind)
    links.add_address(ns, "tsp0", "2001:db8:f000::2/128")
    links.add_route(ns, "2001:db8:ffff::/48", None, "tsp0")
    return device


def next_packet(device: PacketDevice) -> bytes:
    deadline = time.monotonic() + 30
    while True:
        try:
            return device.read()
        except BlockingIOError:
            assert time.monotonic() < deadline, "no packet came out of the device"
            time.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_packets_pass_both_ways_and_nothing_else_comes_out(laptop: Namespace, kind: Kind) -> None:
    device = routed_device(laptop, kind)
    assert device.kind == kind
    with laptop.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("2001:db8:f000::2", 5000))
        sock.sendto(b"question", (FAR, 5001))
        packet = next_packet(device)  # the first packet: no solicitation, report or address check before it
        assert packet[0] >> 4 == 6
        assert packet[24:40] == socket.inet_pton(socket.AF_INET6, FAR)
        assert packet[48:] == b"question"
        # With source and destination exchanged the checksum holds.
        device.write(packet[:8] + packet[24:40] + packet[8:24] + packet[42:44] + packet[40:42] + packet[44:])
        sock.settimeout(30)
        assert sock.recv(20) == b"question"
        with pytest.raises(BlockingIOError):
            device.read()
    device.close()


@pytest.mark.parametrize("kind", KINDS)
def test_tcp_comes_out_in_packets_of_the_mtu_with_whole_checksums(laptop: Namespace, kind: Kind) -> None:
    """Two devices back to back: segments that were cut or unfinished would never be acknowledged."""
    with Namespace.create("server") as server:
        near = routed_device(laptop, kind)
        far = PacketDevice.open(server, "tsp0", 1280, kind=kind)
        links.add_address(server, "tsp0", f"{FAR}/128")
        links.add_route(server, "2001:db8:f000::/48", None, "tsp0")

        async def transfer() -> tuple[int, int]:
            loop = asyncio.get_running_loop()
            largest = 0

            def pump(source: PacketDevice, target: PacketDevice) -> None:
                nonlocal largest
                try:
                    while True:
                        packet = source.read()
                        largest = max(largest, len(packet))
                        target.write(packet)
                except BlockingIOError:
                    pass

            loop.add_reader(near, pump, near, far)
            loop.add_reader(far, pump, far, near)
            listener = server.socket(socket.AF_INET6, socket.SOCK_STREAM)
            client = laptop.socket(socket.AF_INET6, socket.SOCK_STREAM)
            with listener, client:
                listener.bind((FAR, 80))
                listener.listen()
                async with asyncio.timeout(45):
                    _, (connection, _) = await asyncio.gather(
                        loop.sock_connect(client, (FAR, 80)), loop.sock_accept(listener)
                    )
                    with connection:
                        sending = asyncio.create_task(loop.sock_sendall(client, bytes(300_000)))
                        received = 0
                        while received < 300_000:
                            received += len(await loop.sock_recv(connection, 65536))
                        await sending
            for device in (near, far):
                loop.remove_reader(device)
                device.close()
            return received, largest

        assert asyncio.run(transfer()) == (300_000, 1280)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken_is_refused_and_nothing_is_left(laptop: Namespace, kind: Kind) -> None:
    first = PacketDevice.open(laptop, "tsp0", 1280, kind=kind)
    with pytest.raises(KernelRefused, match="laptop: .*tsp0"):
        PacketDevice.open(laptop, "tsp0", 1280, kind=kind)
    assert links.exists(laptop, "tsp0")
    first.close()


def test_without_the_tun_device_the_veth_is_taken(laptop: Namespace, caps: Capabilities) -> None:
    device = PacketDevice.open(laptop, "tsp0", 1280)
    assert device.kind == ("tun" if caps.tun.ok else "veth")
    device.close()


def read_back(path: Path, *fields: str) -> list[list[str]]:
    """Fields of each packet, as tshark understands them."""
    argv = ["tshark", "-r", str(path), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_capture_holds_every_packet_once_and_tshark_reads_it(tmp_path: Path) -> None:
    async def record() -> Capture:
        with build(star(2)) as fabric:
            capture = Capture(fabric["hub"], "e0", tmp_path / "hub-e0.pcap")
            capture.start()
            ear = fabric["h1"].socket(socket.AF_INET, socket.SOCK_DGRAM)
            mouth = fabric["h0"].socket(socket.AF_INET, socket.SOCK_DGRAM)
            heard = 0

            def all_heard() -> bool:
                nonlocal heard
                while received(ear) is not None:
                    heard += 1
                return heard == sent

            with ear, mouth:
                ear.bind(("", 4000))
                for sent in range(1, 301):
                    mouth.sendto((sent - 1).to_bytes(2, "big"), ("10.1.0.2", 4000))
                    if sent % 50 == 0:  # the kernel may carry them later, and the ear holds some 250
                        await until(all_heard, f"{sent} datagrams to arrive")
            capture.stop()
            capture.stop()
            return capture

    began = time.time()
    capture = asyncio.run(record())
    assert capture.dropped == 0
    rows = read_back(capture.path, "frame.time_epoch", "udp.dstport", "udp.payload")
    assert len(rows) == capture.packets
    # In any order: a sender that changes the processor is overtaken by itself now and then.
    assert sorted(row[2] for row in rows if row[1] == "4000") == [f"{number:04x}" for number in range(300)]
    assert all(began - 0.001 <= float(row[0]) <= time.time() + 0.001 for row in rows)


@pytest.mark.needs("tun")
def test_a_capture_of_a_tunnel_device_is_of_raw_ip(laptop: Namespace, tmp_path: Path) -> None:
    async def record() -> None:
        device = routed_device(laptop, "tun")
        capture = Capture(laptop, "tsp0", tmp_path / "laptop-tsp0.pcap")
        capture.start()
        with laptop.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"question", (FAR, 5001))
        device.close()  # under the capture: what was recorded stays
        await asyncio.sleep(0)
        capture.stop()

    asyncio.run(record())
    assert read_back(tmp_path / "laptop-tsp0.pcap", "ipv6.dst", "udp.dstport") == [[FAR, "5001"]]


def test_a_capture_on_no_interface_is_refused(laptop: Namespace, tmp_path: Path) -> None:
    async def record() -> None:
        Capture(laptop, "eth7", tmp_path / "x.pcap").start()

    with pytest.raises(KernelRefused, match="laptop: capture on eth7: No such device"):
        asyncio.run(record())


@pytest.mark.needs("tbf")
@pytest.mark.parametrize("rate", [1.0, 20.0, 300.0])
def test_a_rate_is_limited_to_what_was_asked_for_and_measured(rate: float) -> None:
    plan = star(1, extra=(Shape("hub", "e0", 2, rate_mbit=rate),))

    async def run() -> None:
        with build(plan) as fabric:
            [row] = await verify(fabric, plan)
            assert row["direction"] == "hub -> h0"
            assert row["requested"] == {"rate_mbit": rate}
            assert row["achieved"]["rate_mbit"] == pytest.approx(rate, rel=0.1)
            seen = json.loads((await fabric["hub"].run(["tc", "-j", "qdisc", "show", "dev", "e0"], check=True)).stdout)
            assert seen[0]["kind"] == "tbf"
            assert seen[0]["options"]["rate"] == rate * 1e6 / 8
            assert seen[0]["options"]["burst"] == pytest.approx(shaping.burst_bytes(rate, 1500), rel=0.01)

    asyncio.run(run())


@pytest.mark.needs("tbf")
def test_a_link_that_does_not_do_what_was_asked_is_an_error() -> None:
    asked = star(1, extra=(Shape("hub", "e0", 2, rate_mbit=20.0),))
    made = star(1, extra=(Shape("hub", "e0", 2, rate_mbit=10.0),))

    async def run() -> None:
        with build(made) as fabric:
            await verify(fabric, asked)

    with pytest.raises(ImpairmentError) as caught:
        asyncio.run(run())
    assert caught.value.requested == {"rate_mbit": 20.0}
    assert caught.value.achieved["rate_mbit"] == pytest.approx(10.0, rel=0.1)


def test_an_unshaped_link_that_should_delay_is_found_out() -> None:
    asked = star(1, extra=(Shape("hub", "e0", 2, delay_ms=20.0, loss_pct=10.0),))

    async def run() -> None:
        with build(star(1)) as fabric:
            await verify(fabric, asked)

    with pytest.raises(ImpairmentError) as caught:
        asyncio.run(run())
    assert caught.value.achieved["delay_ms"] < 19
    assert caught.value.achieved["loss_pct"] == 0


def test_the_mtu_of_a_link_is_tried() -> None:
    plan = star(1, mtu=1280)

    async def run() -> None:
        with build(plan) as fabric:
            rows = await verify(fabric, plan)
            assert [row["achieved"] for row in rows] == [{"mtu": 1280.0}, {"mtu": 1280.0}]
            links.set_mtu(fabric["h0"], "eth0", 1400)
            with pytest.raises(ImpairmentError):
                await verify(fabric, plan)

    asyncio.run(run())


@pytest.mark.needs("netem", "tbf")
def test_delay_jitter_loss_and_rate_are_measured_together() -> None:
    wanted = Shape("hub", "e0", 2, delay_ms=20.0, jitter_ms=4.0, loss_pct=5.0, rate_mbit=20.0)
    plan = star(1, extra=(wanted,))

    async def run() -> None:
        with build(plan) as fabric:
            [row] = await verify(fabric, plan)
            assert row["achieved"].keys() == row["requested"].keys()

    asyncio.run(run())


@pytest.mark.needs("sit")
def test_a_6in4_device_of_the_kernel_carries_ipv6() -> None:
    async def run() -> None:
        with build(star(2)) as fabric:
            for node, local, remote in (("h0", 0, 1), ("h1", 1, 0)):
                addresses = IPv4Address(f"10.{local}.0.2"), IPv4Address(f"10.{remote}.0.2")
                sit.create(fabric[node], "sit1", *addresses, mtu=1280)
                links.add_address(fabric[node], "sit1", f"2001:db8:f000::{local}/64")
            with fabric["h1"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as ear:
                ear.bind(("2001:db8:f000::1", 4000))
                with fabric["h0"].socket(socket.AF_INET6, socket.SOCK_DGRAM) as mouth:
                    mouth.sendto(b"word", ("2001:db8:f000::1", 4000))
                ear.settimeout(30)
                assert ear.recv(10) == b"word"
            sit.delete(fabric["h0"], "sit1")
            assert not links.exists(fabric["h0"], "sit1")

    asyncio.run(run())


def test_a_missing_feature_says_what_was_tried_and_what_to_do(caps: Capabilities) -> None:
    assert caps.namespaces.ok
    assert [
        capability.name for capability in caps if not capability.ok and not (capability.detail and capability.instead)
    ] == []
