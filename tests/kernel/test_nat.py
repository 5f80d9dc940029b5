"""What NATs do to packets, on the real kernel.  (That each is the NAT it says: tests/kernel/test_nat_kinds.py.)"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab.kernel import nft
from lab.topology.network import Network
from lab.topology.plan import LoadRules
from tests.kernel.prober import Prober, deliver, passes, received, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft_nat", "conntrack")]


def observers(net: Network) -> None:
    """A public network with two hosts to be spoken to."""
    net.router("internet")
    for name in ("one", "two"):
        net.host(name)
        net.link("internet", name)


def home(mapping: str, inside: tuple[str, ...] = ("ann", "bob"), *, parity: bool = False) -> Network:
    """Hosts behind one NAT."""
    net = Network("home")
    observers(net)
    net.nat("nat", mapping=mapping, parity=parity)
    net.link("nat", "internet")
    for name in inside:
        net.link(net.client(name), "nat")
    return net


@pytest.fixture(params=["EIM", "APDM"])
def mapping(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def lab(mapping: str) -> Iterator[Prober]:
    with Prober(home(mapping)) as prober:
        yield prober


@pytest.fixture
def eim() -> Iterator[Prober]:
    with Prober(home("EIM")) as prober:
        yield prober


def test_the_observers_see_the_outside_address(lab: Prober) -> None:
    with lab.udp("one", 3653) as ear:
        source, _ = deliver(lab.udp("ann"), (lab.address("one"), 3653), ear)
    assert source == lab.address("nat")


def test_an_endpoint_independent_mapping_keeps_a_free_port_number(eim: Prober) -> None:
    with eim.udp("one", 3653) as ear:
        assert deliver(eim.udp("ann", 5001), (eim.address("one"), 3653), ear) == (eim.address("nat"), 5001)


def test_two_hosts_with_one_source_port_each_keep_a_mapping_of_their_own(eim: Prober) -> None:
    """Plain masquerade fails this: it overloads the port and breaks the mapping of whoever comes second."""
    ann, bob = eim.udp("ann", 7000), eim.udp("bob", 7000)
    with eim.udp("one", 3653) as one, eim.udp("two", 3653) as two:
        seen = {
            (who, whom): deliver(sock, (eim.address(whom), 3653), ear)
            for who, sock, whom, ear in (
                ("ann", ann, "one", one),
                ("bob", bob, "two", two),
                ("bob", bob, "one", one),
                ("ann", ann, "two", two),
            )
        }
        assert seen["ann", "one"] == seen["ann", "two"] == (eim.address("nat"), 7000)
        assert seen["bob", "one"] == seen["bob", "two"]
        assert seen["bob", "one"] != seen["ann", "one"]
        assert seen["bob", "one"][1] >= 1024
        deliver(one, seen["bob", "one"], bob)
        deliver(one, seen["ann", "one"], ann)


@pytest.mark.parametrize("parity", [False, True])
def test_many_hosts_with_one_source_port_share_no_outside_port(parity: bool) -> None:
    inside = tuple(f"h{number}" for number in range(12))
    with Prober(home("EIM", inside, parity=parity)) as lab, lab.udp("one", 3653) as one, lab.udp("two", 3653) as two:
        sockets = [lab.udp(name, 7001) for name in inside]
        first = [deliver(sock, (lab.address("one"), 3653), one) for sock in sockets]
        second = [deliver(sock, (lab.address("two"), 3653), two) for sock in sockets]
    assert first == second
    assert len(set(first)) == len(inside)
    if parity:
        assert {port % 2 for _, port in first} == {1}


def test_an_early_probe_from_the_peer_does_not_move_the_mapping(eim: Prober) -> None:
    """Without the drop on INPUT, connection tracking would remember the probe and renumber the flow."""
    with eim.udp("one", 3653) as one:
        ann = eim.udp("ann", 5001)
        assert not passes(eim, "nat", "nat_unsolicited", one, (eim.address("nat"), 5001), ann)
        assert deliver(ann, (eim.address("one"), 3653), one) == (eim.address("nat"), 5001)


def test_the_early_probe_test_can_fail(eim: Prober) -> None:
    """With INPUT open, as on a Linux router without a firewall, the very same probe moves the mapping."""
    rules = next(step.text for step in eim.plan.steps if isinstance(step, LoadRules))
    assert rules.count("nat_unsolicited") == 2
    nft.load(eim.namespace("nat"), "".join(line for line in rules.splitlines(True) if "nat_unsolicited" not in line))
    with eim.udp("one", 3653) as one, eim.udp("nat", 5001) as box:
        ann = eim.udp("ann", 5001)
        deliver(one, (eim.address("nat"), 5001), box)
        assert deliver(ann, (eim.address("one"), 3653), one)[1] != 5001


def test_a_packet_straight_to_the_inside_network_is_refused(lab: Prober) -> None:
    """Someone on the outside link who routes to the inside prefix gets nothing through."""
    sock = lab.udp("ann", 4000)
    inside = lab.address("ann")
    with lab.namespace("internet").entered():
        subprocess.run(["ip", "route", "add", inside, "via", lab.address("nat")], check=True)
    with lab.udp("internet", 3653) as intruder:
        assert not passes(lab, "nat", "nat_unsolicited", intruder, (inside, 4000), sock)


def test_tcp_works_from_inside_and_not_from_outside(lab: Prober) -> None:
    listener = lab.tcp_listener("one", 3653)
    caller = lab.open("ann", socket.SOCK_STREAM)
    assert caller.connect_ex((lab.address("one"), 3653)) != 0
    accepted: list[tuple[socket.socket, tuple[str, int]]] = []

    def connected() -> bool:
        try:
            accepted.append(listener.accept())
        except BlockingIOError:
            return False
        return True

    wait_for(connected, "a connection through the NAT")
    connection, (source, _) = accepted[0]
    connection.close()
    assert source == lab.address("nat")

    lab.tcp_listener("ann", 3653)
    before = lab.dropped("nat", "nat_unsolicited")
    intruder = lab.open("one", socket.SOCK_STREAM)
    intruder.connect_ex((lab.address("nat"), 3653))
    wait_for(lambda: lab.dropped("nat", "nat_unsolicited") > before, "the NAT to refuse a connection from outside")


def test_protocol_41_reaches_the_first_inside_host_only(lab: Prober) -> None:
    """No ports to tell the hosts apart by: the pair of addresses belongs to who spoke first."""
    broker = lab.open("one", socket.SOCK_RAW, socket.IPPROTO_IPV6)
    ann = lab.open("ann", socket.SOCK_RAW, socket.IPPROTO_IPV6)
    bob = lab.open("bob", socket.SOCK_RAW, socket.IPPROTO_IPV6)
    ann.sendto(b"from ann", (lab.address("one"), 0))
    first: list[bytes] = []

    def heard() -> bool:
        while (got := received(broker)) is not None:
            first.append(got[0][20:])
        return bool(first)

    wait_for(heard, "protocol 41 from the first host")
    assert first == [b"from ann"]
    bob.sendto(b"from bob", (lab.address("one"), 0))
    ann.sendto(b"ann again", (lab.address("one"), 0))
    wait_for(lambda: heard() and first[-1] == b"ann again", "protocol 41 from the first host again")
    assert b"from bob" not in first
    broker.sendto(b"answer", (lab.address("nat"), 0))
    answers: list[bytes] = []

    def answered() -> bool:
        while (got := received(ann)) is not None:
            answers.append(got[0][20:])
        return bool(answers)

    wait_for(answered, "the answer at the first host")
    assert answers == [b"answer"]
    assert received(bob) is None


@pytest.mark.parametrize("filtering", ["APDF", "ADF"])
def test_a_port_is_not_given_away_while_answers_kept_its_flow_but_not_its_mapping(filtering: str) -> None:
    """With refresh=outbound a mapping dies under a talking peer, and connection tracking remembers the flow for longer.

    Whoever got that port would be mapped and never heard: of the 31 other ports of a block, each is good.
    """
    net = Network("home")
    observers(net)
    timeouts = {"udp_timeout_s": 5, "udp_stream_timeout_s": 5}
    net.nat("nat", ports="block", block_size=32, refresh="outbound", filtering=filtering, **timeouts)  # type: ignore[arg-type]
    net.link("nat", "internet")
    net.link(net.client("ann"), "nat")
    with Prober(net) as lab, lab.udp("one", 3653) as one:
        to = (lab.address("one"), 3653)
        ann = lab.udp("ann", 5000)
        mapped = deliver(ann, to, one)
        deadline = time.monotonic() + 20
        while passes(lab, "nat", "nat_unsolicited", one, mapped, ann):
            assert time.monotonic() < deadline, "the mapping does not die"
            time.sleep(0.05)
        ports = [deliver(lab.udp("ann", 5001 + number), to, one)[1] for number in range(31)]
    assert mapped[1] not in ports
