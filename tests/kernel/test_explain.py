"""One packet is sent through a real network and its story is true: where it went, what changed it, what ended it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.errors import UsageError
from lab.kernel import nft
from lab.kernel.build import build
from lab.results import ExplainRecord
from lab.run import run
from lab.scenario import Lab
from lab.topology import catalog
from lab.topology.planner import make_plan
from lab.why import explain

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "nft_nat", "raw", "packet")]


@asynccontextmanager
async def up(name: str, **parameters: Any) -> AsyncIterator[Lab]:
    """A topology that is up, without delays, its brokers running."""
    topology = catalog.load(name)
    values = catalog.bind_parameters(topology, {"delay_ms": 0, **parameters})
    plan = make_plan(catalog.build_network(topology, values))
    fabric = build(plan)
    lab = Lab(plan, fabric, parameters=values, seed="1")
    try:
        await lab.start()
        yield lab
    finally:
        await lab.stop()
        fabric.close()


def told(name: str, sender: str, receiver: str, policy: str | None = None, **packet: Any) -> ExplainRecord:
    """The story of one packet through a topology."""

    async def scenario() -> ExplainRecord:
        async with up(name) as lab:
            if policy is not None:
                await lab["firewall"].set_policy(policy)
            return await lab[sender].explain(receiver, **packet)

    return asyncio.run(scenario())


def fates(record: ExplainRecord) -> list[tuple[str, str]]:
    """Each node on the way and what it did."""
    return [(hop["node"], hop["fate"]) for hop in record.hops]


def heard(record: ExplainRecord) -> list[tuple[str, str]]:
    """What reached the sender: who said it, and what."""
    return [(answer["node"], answer["text"]) for answer in record.answers if answer["reached_sender"]]


THROUGH = [("laptop", "sent"), ("firewall", "forwarded"), ("internet", "forwarded"), ("broker", "delivered")]


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ({"udp": 3653}, "a UDP datagram"),
        ({"udp": 5000}, "ICMP port unreachable (type 3 code 3)"),
        ({"tcp": 3653}, "a TCP SYN-ACK: the port is open"),
        ({"tcp": 80}, "a TCP reset"),
        ({"icmp": True}, "an echo reply"),
    ],
    ids=str,
)
def test_a_packet_that_passes_is_followed_to_its_end_and_its_answer_back(
    packet: Mapping[str, Any], answer: str
) -> None:
    story = told("firewall_3653", "laptop", "broker", **packet)
    assert fates(story) == THROUGH
    assert story.hops[1]["by"] == "allow"
    assert (story.fate, story.ended_at, story.by) == ("delivered", "broker", "")
    assert heard(story) == [("broker", answer)]


@pytest.mark.parametrize(
    ("policy", "packet"),
    [
        ("drop_3653", {"udp": 3653}),
        ("drop_tcp_3653", {"tcp": 3653}),
        ("drop_proto41", {"proto": 41}),
        ("drop_ayiya+drop_teredo_any_port", {"mechanism": "teredo"}),
        ("drop_by_default", {"udp": 3653}),
    ],
)
def test_what_a_firewall_drops_is_told_with_policy_rule_and_section(policy: str, packet: Mapping[str, Any]) -> None:
    story = told("firewall_3653", "laptop", "broker", policy, **packet)
    name = policy.split("+")[-1]
    assert fates(story) == [("laptop", "sent"), ("firewall", "dropped")]
    assert (story.fate, story.ended_at, story.by) == ("dropped", "firewall", name)
    assert f"the policy {name}" in story.verdict
    assert "RFC 7123 section 3" in story.verdict
    assert "laptop was told nothing" in story.verdict
    assert heard(story) == []


@pytest.mark.parametrize(
    ("policy", "packet", "answer"),
    [
        ("reject_3653", {"udp": 3653}, "ICMP communication administratively prohibited (type 3 code 13)"),
        ("reject_3653", {"tcp": 3653}, "a TCP reset"),
        ("reject_proto41", {"proto": 41}, "ICMP communication administratively prohibited (type 3 code 13)"),
        ("reject_by_default", {"tcp": 22}, "a TCP reset"),
    ],
)
def test_what_a_firewall_rejects_is_told_with_what_it_said(policy: str, packet: Mapping[str, Any], answer: str) -> None:
    story = told("firewall_3653", "laptop", "broker", policy, **packet)
    assert fates(story) == [("laptop", "sent"), ("firewall", "rejected")]
    assert (story.fate, story.ended_at, story.by) == ("rejected", "firewall", policy)
    assert heard(story) == [("firewall", answer)]
    assert f"laptop was told: {answer}, by firewall" in story.verdict


def test_what_a_nat_lets_in_for_nobody_is_dropped_by_its_filtering() -> None:
    story = told("home_nat", "broker", "nat", udp=40_000)
    assert fates(story) == [("broker", "sent"), ("internet", "forwarded"), ("nat", "dropped")]
    assert story.by == "nat_unsolicited"
    assert "no mapping belongs to that port" in story.verdict


def test_somebody_elses_packet_to_a_mapping_is_told_whose_port_it_is() -> None:
    async def scenario() -> ExplainRecord:
        async with up("home_nat") as lab:
            await lab["laptop"].explain("broker", udp=3653, source_port=50_001)
            return await lab["broker"].explain("nat", udp=50_001, source_port=9999)

    story = asyncio.run(scenario())
    assert (story.fate, story.by) == ("dropped", "nat_unsolicited")
    assert "that port belongs to 192.168.0.2, which spoke to 198.51.100.2:3653" in story.verdict


def test_two_nats_each_translate_and_their_mappings_are_named() -> None:
    story = told("carrier_nat", "laptop", "broker", udp=3653, source_port=50_001)
    assert fates(story) == [
        ("laptop", "sent"),
        ("home", "translated"),
        ("carrier", "translated"),
        ("internet", "forwarded"),
        ("broker", "delivered"),
    ]
    home, carrier = story.hops[1:3]
    assert "source 192.168.0.2:50001 becomes 100.64.0." in home["happened"]
    assert "EIM mapping; nat_port_kept" in home["happened"]
    assert "source 100.64.0." in carrier["happened"]
    assert "APDM mapping" in carrier["happened"]
    assert home["flow"].startswith("192.168.0.2:50001 > ")
    assert carrier["packet"].startswith("192.0.2.")
    assert heard(story) == [("broker", "a UDP datagram")]


def test_a_later_packet_of_a_flow_keeps_its_mapping() -> None:
    async def scenario() -> ExplainRecord:
        async with up("home_nat") as lab:
            await lab["laptop"].explain("broker", udp=3653, source_port=50_001)
            return await lab["laptop"].explain("broker", udp=3653, source_port=50_001)

    story = asyncio.run(scenario())
    assert "its flow had a mapping before" in story.hops[1]["happened"]


def test_protocol_41_of_the_second_client_is_lost_in_connection_tracking() -> None:
    async def scenario() -> tuple[ExplainRecord, ExplainRecord]:
        async with up("two_clients_one_nat") as lab:
            first = await lab["ann"].explain("broker", proto=41)
            return first, await lab["bob"].explain("broker", proto=41)

    first, second = asyncio.run(scenario())
    assert (first.fate, first.ended_at) == ("delivered", "broker")
    assert fates(second) == [("bob", "sent"), ("nat", "lost")]
    assert second.by == "connection tracking"
    assert "protocol 41 between 192.0.2.2 and 198.51.100.2 already belongs to 192.168.0.2" in second.verdict


def test_where_there_is_no_way_routing_is_named() -> None:
    story = told("home_nat", "broker", "192.168.0.2", udp=40_000)
    assert fates(story) == [("broker", "sent"), ("internet", "rejected")]
    assert story.by == "routing"
    assert heard(story) == [("internet", "ICMP network unreachable (type 3 code 0)")]


NARROW = '''"""A narrow link.

    laptop --- nat --- internet --- far --- server
                           |
                         near
"""
from lab import Network


def build(net: Network, delay_ms: float = 0) -> None:
    net.link(net.client("laptop"), net.nat("nat"))
    net.link("nat", net.router("internet", ipv6=True))
    net.link("internet", net.router("far", ipv6=True), mtu=1300)
    net.link("far", net.host("server"))
    net.link("internet", net.host("near"))


async def scenario(net) -> None:
    pass


def check(run) -> None:
    pass
'''


@pytest.fixture
def narrow(tmp_path: Path) -> str:
    file = tmp_path / "narrow.py"
    file.write_text(NARROW)
    return str(file)


def test_a_packet_that_is_too_large_for_a_link_is_told_with_what_would_do(narrow: str) -> None:
    story = told(narrow, "laptop", "server", udp=3653, size=1301)
    assert fates(story) == [("laptop", "sent"), ("nat", "translated"), ("internet", "rejected")]
    assert story.by == "MTU"
    assert "too large for the next link, which takes 1300 bytes" in story.verdict
    assert heard(story) == [("internet", "ICMP too big, 1300 bytes would do (type 3 code 4)")]
    assert told(narrow, "laptop", "server", udp=3653, size=1300).fate == "delivered"


def test_over_ipv6_too_it_is_told_what_is_too_large(narrow: str) -> None:
    async def scenario() -> ExplainRecord:
        async with up(narrow) as lab:
            server = lab["server"].ipv6
            assert server is not None
            return await lab["near"].explain(server, icmp=True, size=1400)

    story = asyncio.run(scenario())
    assert (story.ended_at, story.by) == ("internet", "MTU")
    assert heard(story) == [("internet", "ICMPv6 too big, 1300 bytes would do (type 2 code 0)")]


def test_what_is_too_large_for_its_own_link_is_not_sent_at_all() -> None:
    story = told("firewall_3653", "laptop", "broker", udp=3653, size=1501)
    assert fates(story) == [("laptop", "lost")]
    assert "its own kernel did not send it (message too long)" in story.verdict


def test_a_packet_without_hops_left_to_live_is_told_where_it_ended() -> None:
    story = told("firewall_3653", "laptop", "broker", udp=3653, ttl=2)
    assert fates(story) == [("laptop", "sent"), ("firewall", "forwarded"), ("internet", "rejected")]
    assert story.by == "time to live"
    assert heard(story) == [("internet", "ICMP time exceeded (type 11 code 0)")]
    assert told("firewall_3653", "laptop", "broker", udp=3653, ttl=3).fate == "delivered"


def test_an_address_of_a_link_that_nobody_there_has_is_told() -> None:
    async def scenario() -> ExplainRecord:
        async with up("firewall_3653") as lab:
            internet = lab["internet"]
            for interface in internet.plan.interfaces:  # it gives up asking, and tells, after 3 s: not while we look
                internet.namespace.sysctl(f"net/ipv4/neigh/{interface.name}/mcast_solicit", "60")
            return await lab["laptop"].explain("203.0.113.77", udp=3653)

    story = asyncio.run(scenario())
    assert fates(story) == [*THROUGH[:2], ("internet", "lost")]
    assert story.by == "neighbour"
    assert "nobody there has that address" in story.verdict


def test_a_rule_on_the_sender_itself_is_found() -> None:
    async def scenario() -> ExplainRecord:
        async with up("firewall_3653") as lab:
            rule = 'udp dport 3653 counter drop comment "no_tunnels_here"'
            chain = f"chain out {{\n type filter hook output priority 0; policy accept;\n {rule}\n }}\n"
            nft.load(lab["laptop"].namespace, f"table inet own {{\n {chain}}}\n")
            return await lab["laptop"].explain("broker", udp=3653)

    story = asyncio.run(scenario())
    assert fates(story) == [("laptop", "dropped")]
    assert story.by == "no_tunnels_here"


@pytest.mark.needs("tun_fallback")
@pytest.mark.parametrize("tunnel", ["v6udpv4", "v6v4"])
def test_a_packet_in_a_tunnel_is_followed_inside_it(tunnel: str) -> None:
    async def scenario() -> tuple[ExplainRecord, ExplainRecord]:
        async with up("firewall_3653") as lab:
            await lab["laptop"].connect_tunnel("broker", tunnel=tunnel)
            open_ = await lab["laptop"].explain("server", icmp=True)
            await lab["firewall"].set_policy("drop_tsp_data+drop_proto41")
            return open_, await lab["laptop"].explain("server", icmp=True)

    passed, dropped = asyncio.run(scenario())
    assert fates(passed) == [
        ("laptop", "tunnelled"),
        ("firewall", "forwarded"),
        ("internet", "forwarded"),
        ("broker", "tunnelled"),
        ("server", "delivered"),
    ]
    assert heard(passed) == [("server", "an echo reply")]
    assert fates(dropped) == [("laptop", "tunnelled"), ("firewall", "dropped")]
    assert dropped.by == {"v6udpv4": "drop_tsp_data", "v6v4": "drop_proto41"}[tunnel]


@pytest.mark.parametrize("tunnel", ["v6udpv4", "v6v4"])
@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        ({"icmp": True}, "an echo reply"),
        ({"udp": 5000}, "ICMPv6 port unreachable (type 1 code 4)"),
        ({"tcp": 80}, "a TCP reset"),
    ],
    ids=str,
)
def test_who_is_at_the_end_of_a_tunnel_is_heard_too(tunnel: str, packet: Mapping[str, Any], answer: str) -> None:
    async def scenario() -> ExplainRecord:
        async with up("firewall_3653") as lab:
            setup = await lab["laptop"].connect_tunnel("broker", tunnel=tunnel)
            return await lab["server"].explain(str(setup.client_ipv6), **packet)

    story = asyncio.run(scenario())
    assert fates(story)[-2:] == [("firewall", "forwarded"), ("laptop", "delivered")]
    assert heard(story) == [("laptop", answer)]


def test_watching_leaves_nothing_behind() -> None:
    async def scenario() -> tuple[str, str, set[str]]:
        async with up("firewall_3653") as lab:
            firewall = lab["firewall"].namespace
            before = nft.list_ruleset(firewall)
            await lab["laptop"].explain("broker", tcp=9)
            after = nft.list_ruleset(firewall)
            return before, re.sub(r"packets \d+ bytes \d+", "packets 0 bytes 0", after), _children()

    children = _children()
    before, after, left = asyncio.run(scenario())
    assert after == before
    assert left <= children  # of those before, some may have ended meanwhile


def _children() -> set[str]:
    """Child processes of this one that have not ended."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


WRONG: tuple[tuple[Callable[[], object], str], ...] = (
    (lambda: told("home_nat", "laptop", "broker"), "exactly one of"),
    (lambda: told("home_nat", "laptop", "broker", udp=1, tcp=1), "exactly one of"),
    (lambda: told("home_nat", "laptop", "broker", udp=70_000), "1 to 65535"),
    (lambda: told("home_nat", "laptop", "broker", mechanism="6in5"), "no mechanism '6in5'"),
    (lambda: told("home_nat", "laptop", "laptop", udp=53), "to itself goes nowhere"),
    (lambda: told("home_nat", "laptop", "broker", udp=53, size=20), "bytes, not 20"),
    (lambda: told("home_nat", "laptop", "broker", udp=53, ttl=0), "1 to 255, not 0"),
    (lambda: told("home_nat", "laptop", "server", udp=53), "laptop has no IPv6 address to send from"),
    (lambda: explain("home_nat", "latpop", "broker", icmp=True, parameters={"delay_ms": 0}), "no node 'latpop'"),
    (lambda: explain("home_nat", "laptop", "borker", icmp=True, parameters={"delay_ms": 0}), "no node 'borker'"),
    (
        lambda: explain("home_nat", "laptop", "broker", udp=9, size=9, parameters={"delay_ms": 0}, on="host"),
        "bytes, not 9",
    ),
    (
        lambda: explain("home_nat", "laptop", "broker", icmp=True, policy="drop_all", parameters={"delay_ms": 0}),
        "no fire",
    ),
    (lambda: explain("firewall_3653", "laptop", "broker", icmp=True, policy="drop_al"), "did you mean drop_all"),
)


@pytest.mark.parametrize(("ask", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_question_without_sense_is_refused(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ask()


def test_a_run_explains_packets_with_its_own_parameters(tmp_path: Path) -> None:
    done = run("carrier_nat", on="host", out=tmp_path / "run", parameters={"carrier_mapping": "EIM"}, seed=1)
    assert done.status == "ok", done.message
    story = done.explain("laptop", "broker", udp=3653)
    assert story.fate == "delivered"
    assert "EIM mapping" in story.hops[2]["happened"]
