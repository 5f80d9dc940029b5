"""Generated packets cross a real network, and a filter stops those it is meant for: what is counted is what passed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Final

import pytest

from lab.actors.generators import MECHANISMS, Arrivals, Sent, count_arrivals, send
from lab.errors import KernelRefused, UsageError
from lab.kernel import nft
from lab.kernel.build import Fabric, build
from lab.topology.network import Network
from lab.topology.planner import make_plan
from tests.kernel.tunnels import until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "raw", "packet")]

IPV4: Final = [name for name, mechanism in MECHANISMS.items() if mechanism.version == 4]


class Path:
    """A laptop and a server with a firewall between them."""

    def __init__(self, fabric: Fabric, src: str, dst: str) -> None:
        self.fabric, self.src, self.dst = fabric, src, dst

    def rules(self, *rules: str) -> None:
        body = "\n".join(rules)
        chain = f"chain c {{\n type filter hook forward priority 0\n {body}\n }}"
        nft.load(self.fabric["firewall"], f"flush ruleset\ntable inet t {{\n {chain}\n }}\n")

    def _stopped(self) -> int:
        return nft.counters(self.fabric["firewall"]).get("stopped", (0, 0))[0]

    async def send_all(self, names: list[str], expected: set[str]) -> tuple[Arrivals, dict[str, Sent]]:
        """Send three packets of each; waits until all `expected` ones are there, and those filtered are counted."""
        rng = random.Random(1)
        async with count_arrivals(self.fabric["server"], "eth0") as arrivals:
            sent = {name: await send(self.fabric["laptop"], name, self.src, self.dst, 3, rng=rng) for name in names}
            there = await arrivals.wait([sent[name] for name in expected], timeout_s=30)
            assert there, {name: arrivals.count(batch) for name, batch in sent.items()}
            await until(lambda: self._stopped() == 3 * (len(names) - len(expected)), "the filter to have counted")
        return arrivals, sent


@pytest.fixture
def path() -> Iterator[Path]:
    net = Network("generators")
    net.link(net.host("laptop"), net.firewall("firewall", outside="server"))
    net.link("firewall", net.host("server"))
    plan = make_plan(net)
    fabric = build(plan)
    laptop, server = plan.node("laptop").ipv4, plan.node("server").ipv4
    assert laptop is not None
    assert server is not None
    yield Path(fabric, laptop, server)
    fabric.close()


def test_every_mechanism_arrives_through_an_open_firewall(path: Path) -> None:
    arrivals, sent = asyncio.run(path.send_all(IPV4, set(IPV4)))
    assert {name: arrivals.count(batch) for name, batch in sent.items()} == dict.fromkeys(IPV4, 3)


@pytest.mark.parametrize(
    ("rule", "stopped"),
    [
        ("ip protocol 41", {"6in4", "6over4", "6rd", "6to4", "isatap"}),
        ("udp dport 3544", {"teredo"}),
        ("udp dport 3653", {"tsp_control_udp", "tsp_data"}),
        ("tcp dport 3653", {"tsp_control_tcp"}),
        ("meta l4proto { tcp, udp } th dport 5072", {"ayiya_udp", "ayiya_tcp"}),
    ],
)
def test_a_filter_of_rfc_7123_stops_its_mechanism_and_nothing_else(path: Path, rule: str, stopped: set[str]) -> None:
    path.rules(f'{rule} counter drop comment "stopped"')
    arrivals, sent = asyncio.run(path.send_all(IPV4, set(IPV4) - stopped))
    assert {name for name, batch in sent.items() if arrivals.count(batch) == 0} == stopped
    assert all(arrivals.count(batch) in (0, 3) for batch in sent.values())


def test_native_ipv6_is_sent_and_counted_too() -> None:
    async def scenario() -> int:
        net = Network("native")
        net.link(net.host("laptop", ipv6_only=True), net.host("server", ipv6_only=True))
        plan = make_plan(net)
        fabric = build(plan)
        try:
            laptop, server = plan.node("laptop").ipv6, plan.node("server").ipv6
            assert laptop is not None
            assert server is not None
            async with count_arrivals(fabric["server"], "eth0") as arrivals:
                sent = await send(fabric["laptop"], "native_ipv6", laptop, server, 4)
                await arrivals.wait(sent, timeout_s=30)
            return arrivals.count(sent)
        finally:
            fabric.close()

    assert asyncio.run(scenario()) == 4


def test_6over4_multicast_leaves_by_the_interface_of_its_source(path: Path) -> None:
    async def scenario() -> int:
        async with count_arrivals(path.fabric["firewall"], "lan0") as arrivals:
            sent = await send(path.fabric["laptop"], "6over4", path.src, "239.192.1.2", 2)
            await arrivals.wait(sent, timeout_s=30)
        return arrivals.count(sent)

    assert asyncio.run(scenario()) == 2


def test_what_cannot_be_sent_is_told(path: Path) -> None:
    laptop = path.fabric["laptop"]
    with pytest.raises(UsageError, match="no mechanism '6in5'; choose from native_ipv6, 6in4"):
        asyncio.run(send(laptop, "6in5", path.src, path.dst))
    with pytest.raises(UsageError, match="6in4 goes from IPv4"):
        asyncio.run(send(laptop, "6in4", "::1", "::2"))
    nft.load(laptop, "table ip t {\n chain c {\n type filter hook output priority 0\n drop\n }\n }\n")
    with pytest.raises(KernelRefused, match="laptop: send 6in4 to"):
        asyncio.run(send(laptop, "6in4", path.src, path.dst))
