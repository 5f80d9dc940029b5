"""`lab detect` is exact on captures of the lab's own runs: every packet of a mechanism is found, and no other."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import pytest

from lab import run
from lab.actors.generators import MECHANISMS, count_arrivals, send
from lab.detect import Confidence, Finding, detect
from lab.detect.findings import Mechanism
from lab.detect.protocol41 import SixRd
from lab.generators.mechanisms import SIXRD_PREFIX
from lab.kernel.build import build
from lab.kernel.capture import Capture
from lab.topology import catalog
from lab.topology.network import Network
from lab.topology.planner import make_plan
from lab.wire import count, read_pcap
from tests.kernel.tunnels import direct, tunnels, until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet")]


@pytest.mark.parametrize("name", ["home_nat", "direct_6in4", "tcp_setup", "routed_lan", "two_clients_one_nat"])
def test_every_packet_of_a_run_is_found_and_no_other(name: str, tmp_path: Path) -> None:
    undelayed = {"delay_ms": 0} if "delay_ms" in catalog.load(name).parameters else {}
    done = run(name, on="host", out=tmp_path / "run", parameters=undelayed, seed=1)
    assert done.status == "ok", done.message
    captures = sorted(done.path.glob("*.pcap"))
    assert captures
    for file in captures:
        wire = count(file)
        report = detect(file)
        by_content = {
            Mechanism.TSP_CONTROL: wire["udp 3653 signalling"] + wire["tcp 3653"],
            Mechanism.TSP_DATA: wire["v6udpv4 data"],
            Mechanism.SIX_IN_FOUR: wire["protocol 41"],
            Mechanism.NATIVE: wire["ipv6"],
        }
        assert report.packets_by_mechanism() == {kind: packets for kind, packets in by_content.items() if packets}
        assert {found.confidence for found in report.findings} <= {Confidence.CERTAIN}
        assert report.notes == ()


def test_a_tunnel_is_found_when_its_broker_listens_on_the_port_of_https(tmp_path: Path) -> None:
    async def scenario() -> tuple[Finding, ...]:
        async with tunnels(direct(port=443)) as lab:
            capture = Capture(lab["internet"], "eth0", tmp_path / "internet.pcap")
            capture.start()
            await lab.connected("client", port=443, tunnel="v6udpv4")
            assert (await lab.ping("client", "server", count=3)).received == 3
            capture.stop()
        return detect(tmp_path / "internet.pcap").findings

    control, data = asyncio.run(scenario())
    assert (control.mechanism, data.mechanism) == (Mechanism.TSP_CONTROL, Mechanism.TSP_DATA)
    assert control.confidence is data.confidence is Confidence.CERTAIN
    assert control.outer == data.outer
    assert control.outer[1].endswith(":443")
    assert data.packets >= 6
    assert not control.filter.stops
    assert not data.filter.stops


def _resets(capture: Path) -> int:
    """How many TCP resets a capture of Ethernet holds."""
    return sum(
        frame[12:14] == b"\x08\0" and frame[23] == 6 and bool(frame[47] & 4) for _, _, frame in read_pcap(capture)
    )


def test_of_all_traffic_through_a_link_the_mechanisms_are_found_and_the_innocents_are_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        net = Network("all")
        net.link(net.host("laptop"), net.host("server"))
        plan = make_plan(net)
        fabric = build(plan)
        src, dst = plan.node("laptop").ipv4, plan.node("server").ipv4
        assert src is not None
        assert dst is not None
        names = [name for name, mechanism in MECHANISMS.items() if mechanism.version == 4]
        capture = Capture(fabric["server"], "eth0", tmp_path / "server.pcap")
        try:
            capture.start()
            async with count_arrivals(fabric["server"], "eth0") as arrivals:
                rng = random.Random(1)
                sent = [await send(fabric["laptop"], name, src, dst, 2, rng=rng) for name in names]
                sent.append(await send(fabric["laptop"], "6over4", src, "239.192.7.7", 2, rng=rng))
                assert await arrivals.wait(sent, timeout_s=30), [arrivals.count(batch) for batch in sent]

            # Who counts arrivals may be told of a packet before the capture is, and before it is answered.
            by_tcp = sum(batch.count for batch in sent if MECHANISMS[batch.mechanism].protocol == socket.IPPROTO_TCP)
            await until(lambda: _resets(capture.path) == by_tcp, f"the capture to have {by_tcp} TCP resets")
        finally:
            capture.stop()
            fabric.close()

    asyncio.run(scenario())
    report = detect(tmp_path / "server.pcap", [SixRd(SIXRD_PREFIX)])
    ours = [found for found in report.findings if found.mechanism is not Mechanism.NATIVE]
    assert sorted((found.mechanism, found.packets) for found in ours if found.carrier != "tcp") == sorted(
        [
            (Mechanism.SIX_IN_FOUR, 2),
            (Mechanism.SIX_OVER_FOUR, 2),
            (Mechanism.SIX_OVER_FOUR, 2),
            (Mechanism.SIX_RD, 2),
            (Mechanism.SIX_TO_FOUR, 2),
            (Mechanism.ISATAP, 2),
            (Mechanism.TEREDO, 2),
            (Mechanism.TEREDO, 2),
            (Mechanism.TSP_CONTROL, 2),
            (Mechanism.TSP_DATA, 2),
            (Mechanism.AYIYA, 2),
        ]
    )
    # The server resets these: its packets belong to the connection.
    assert sorted((found.mechanism, found.packets > 2) for found in ours if found.carrier == "tcp") == [
        (Mechanism.AYIYA, True),
        (Mechanism.TSP_CONTROL, True),
    ]
