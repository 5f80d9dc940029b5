"""Client and broker joined: good links, terrible links, every mechanism, both transports."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv6Network

import pytest

from lab.errors import LabError, SetupTimeout, TunnelRefused
from lab.tsp import (
    Authenticated,
    BrokerState,
    ClientConfig,
    ClientSession,
    ClientState,
    Mechanism,
    PhaseChanged,
    Retransmission,
    SessionFailed,
    SessionRestarted,
    Status,
    Transport,
    TunnelAccepted,
    TunnelReady,
    TunnelRequested,
    TunnelType,
)
from tests.pair import CLIENT, PRIVATE, Link, Pair, broker_session, tunnel_for

BOTH = list(Transport)
ROUND_TRIPS = {
    (Transport.UDP, Mechanism.ANONYMOUS): 4,
    (Transport.UDP, Mechanism.PLAIN): 5,
    (Transport.UDP, Mechanism.DIGEST_MD5): 6,
    (Transport.TCP, Mechanism.ANONYMOUS): 3,
    (Transport.TCP, Mechanism.PLAIN): 3,
    (Transport.TCP, Mechanism.DIGEST_MD5): 5,
}


def config(mechanism: Mechanism = Mechanism.ANONYMOUS, *, password: str = "secret", **more: object) -> ClientConfig:
    return ClientConfig(
        client_address=CLIENT,
        user="ann",
        password=password,
        mechanisms=(mechanism,),
        **more,  # type: ignore[arg-type]
    )


def failure(pair: Pair) -> LabError:
    (event,) = [event for event in pair.client_events if isinstance(event, SessionFailed)]
    return event.error


@pytest.mark.parametrize(("transport", "mechanism"), ROUND_TRIPS)
def test_tunnel_is_set_up_in_as_many_round_trips_as_the_mechanism_needs(
    transport: Transport, mechanism: Mechanism
) -> None:
    pair = Pair(config(mechanism, prefix_length=56), transport, Link(delay_s=0.05))
    pair.run()
    (ready,) = [event for event in pair.client_events if isinstance(event, TunnelReady)]
    (request,) = [event.request for event in pair.broker_events if isinstance(event, TunnelRequested)]
    expected = tunnel_for(request, CLIENT)
    assert ready.tunnel.prefix == expected.prefix == IPv6Network("2001:db8:f100::/56")
    assert ready.tunnel.keepalive_address == expected.server_ipv6
    assert (ready.tunnel.client_ipv6, ready.tunnel.server_ipv4) == (expected.client_ipv6, expected.server_ipv4)
    assert pair.broker.state is BrokerState.UP
    counters = pair.client.counters
    assert counters.round_trips == ROUND_TRIPS[transport, mechanism]
    assert counters.retransmissions == counters.ignored == 0
    finished = [event.at for event in pair.client_events if isinstance(event, PhaseChanged)][-1]
    # Over TCP, PLAIN's two lines and DIGEST-MD5's two answers travel together.
    trips = {Mechanism.DIGEST_MD5: 4}.get(mechanism, 3) if transport is Transport.TCP else counters.round_trips
    assert finished == pytest.approx(0.1 * trips)
    assert counters.bytes_sent == pair.broker.counters.bytes_received
    assert counters.bytes_received == pair.broker.counters.bytes_sent


def test_anonymous_set_up_over_udp_is_eight_datagrams() -> None:
    pair = Pair()
    pair.run()
    assert [who for who, _ in pair.log] == ["C", "B"] * 4
    assert pair.bodies()[-2:] == [("C", b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'), ("B", b"")]
    assert [data[:4].hex() for _, data in pair.log[::2]] == ["f00000f0", "f00000f1", "f00000f2", "f00000f3"]


@pytest.mark.parametrize(
    ("transport", "inner", "wanted", "result"),
    [
        (Transport.UDP, CLIENT, TunnelType.V6ANYV4, TunnelType.V6V4),
        (Transport.UDP, PRIVATE, TunnelType.V6ANYV4, TunnelType.V6UDPV4),
        (Transport.UDP, PRIVATE, TunnelType.V6V4, TunnelType.V6V4),
        (Transport.UDP, CLIENT, TunnelType.V6UDPV4, TunnelType.V6UDPV4),
        (Transport.TCP, CLIENT, TunnelType.V6ANYV4, TunnelType.V6V4),
        (Transport.TCP, PRIVATE, TunnelType.V6ANYV4, 303),
        (Transport.TCP, CLIENT, TunnelType.V6UDPV4, 303),
    ],
)
def test_tunnel_type_depends_on_transport_and_nat(
    transport: Transport, inner: object, wanted: TunnelType, result: TunnelType | int
) -> None:
    pair = Pair(ClientConfig(client_address=inner, tunnel=wanted), transport)  # type: ignore[arg-type]
    pair.run()
    if isinstance(result, TunnelType):
        (ready,) = [event for event in pair.client_events if isinstance(event, TunnelReady)]
        assert ready.tunnel.type is result
    else:
        error = failure(pair)
        assert isinstance(error, TunnelRefused)
        assert error.code == result
        assert "ask over UDP" in error.reason


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize("mechanism", [Mechanism.PLAIN, Mechanism.DIGEST_MD5])
def test_wrong_password_is_refused_with_300(mechanism: Mechanism, transport: Transport) -> None:
    pair = Pair(config(mechanism, password="wrong"), transport)
    pair.run()
    error = failure(pair)
    assert isinstance(error, TunnelRefused)
    assert error.code == 300
    assert pair.broker.closed


@pytest.mark.parametrize("transport", BOTH)
def test_decision_may_take_its_time(transport: Transport) -> None:
    pair = Pair(transport=transport, decide=lambda broker, request, now: None)
    pair.run(horizon_s=5.0)
    pair.clock.advance_to(5.0)
    (request,) = [event.request for event in pair.broker_events if isinstance(event, TunnelRequested)]
    pair.broker.offer(tunnel_for(request, CLIENT), pair.clock.now)
    pair.run()
    assert pair.client.state is ClientState.READY
    assert pair.broker.state is BrokerState.UP


@pytest.mark.parametrize("transport", BOTH)
def test_refusal_by_the_driver_reaches_the_client(transport: Transport) -> None:
    pair = Pair(
        transport=transport,
        decide=lambda broker, request, now: broker.refuse(Status.NO_MORE_TUNNELS, "the pool is empty", now),
    )
    pair.run()
    error = failure(pair)
    assert isinstance(error, TunnelRefused)
    assert (error.code, error.reason) == (301, "the pool is empty")


@pytest.mark.parametrize("seed", range(100))
def test_set_up_over_a_terrible_link(seed: int) -> None:
    mechanism = list(Mechanism)[seed % 3]
    patient = Retransmission(first_transmissions=8)
    link = Link(delay_s=0.05, jitter_s=3.0, drop=0.2, repeat=0.2)
    pair = Pair(config(mechanism, retransmission=patient), link=link, seed=seed)
    pair.run()
    assert pair.client.state is ClientState.READY
    assert pair.broker.state is BrokerState.UP
    kinds = [type(event) for event in pair.broker_events]
    assert kinds == [Authenticated, TunnelRequested, TunnelAccepted]


def test_terrible_link_really_dropped_repeated_and_reordered() -> None:
    totals = [0, 0, 0]
    for seed in range(100):
        link = Link(delay_s=0.05, jitter_s=3.0, drop=0.2, repeat=0.2)
        pair = Pair(config(retransmission=Retransmission(first_transmissions=8)), link=link, seed=seed)
        pair.run()
        totals[0] += pair.client.counters.retransmissions
        totals[1] += pair.broker.counters.retransmissions
        totals[2] += pair.client.counters.ignored
    assert all(total > 50 for total in totals), totals


def test_same_seed_gives_the_same_bytes_at_the_same_times() -> None:
    def once() -> tuple[list[tuple[str, bytes]], float]:
        link = Link(delay_s=0.05, jitter_s=3.0, drop=0.2, repeat=0.2)
        pair = Pair(config(Mechanism.DIGEST_MD5), link=link, seed=4)
        pair.run()
        return pair.log, pair.clock.now

    assert once() == once()


def test_dead_link_ends_in_a_timeout_on_the_client_and_nothing_on_the_broker() -> None:
    pair = Pair(link=Link(drop=1.0))
    pair.run()
    error = failure(pair)
    assert isinstance(error, SetupTimeout)
    assert (error.transmissions, error.waited_s) == (3, 7.0)
    assert pair.broker_events == []


@pytest.mark.parametrize("heard", range(4))
def test_link_that_dies_midway_is_noticed_by_both(heard: int) -> None:
    pair = Pair(link=Link(delay_s=0.05))
    pair.run(lambda: pair.client.counters.round_trips == heard)
    pair.link.drop = 1.0  # what is under way still arrives, its answer does not
    pair.run()
    error = failure(pair)
    assert isinstance(error, SetupTimeout)
    assert error.transmissions == (8 if heard else 3)
    if heard == 3:
        assert pair.broker.state is BrokerState.UP
    else:
        (event,) = [event for event in pair.broker_events if isinstance(event, SessionFailed)]
        assert isinstance(event.error, SetupTimeout)


def test_new_client_on_the_same_port_replaces_the_old_tunnel() -> None:
    pair = Pair(config(Mechanism.DIGEST_MD5))
    pair.run()
    pair.clock.advance(3.0)
    pair.client = ClientSession(pair.config, Transport.UDP, rng=random.Random(99))
    pair.client_events.clear()
    pair.broker_events.clear()
    pair.run()
    assert pair.client.state is ClientState.READY
    kinds = [type(event) for event in pair.broker_events]
    assert kinds == [SessionRestarted, Authenticated, TunnelRequested, TunnelAccepted]


@pytest.mark.parametrize("mechanism", list(Mechanism))
def test_tcp_gives_the_same_result_whatever_the_segments(mechanism: Mechanism) -> None:
    for size in (1, 2, 3, 50):
        now = 0.0
        client = ClientSession(config(mechanism), Transport.TCP, rng=random.Random(1))
        broker = broker_session(Transport.TCP)
        client.start(now)
        for _ in range(20):
            for data in client.to_send(now):
                for start in range(0, len(data), size):
                    broker.receive(data[start : start + size], now)
            for event in iter(broker.next_event, None):
                if isinstance(event, TunnelRequested):
                    broker.offer(tunnel_for(event.request, CLIENT), now)
                elif isinstance(event, TunnelAccepted):
                    broker.confirm(now)
            answers = b"".join(broker.to_send(now))
            for start in range(0, len(answers), size):
                client.receive(answers[start : start + size], now)
        assert (client.state, broker.state) == (ClientState.READY, BrokerState.UP)


def test_two_sessions_of_one_broker_share_nothing() -> None:
    pairs = [Pair(config(mechanism), seed=seed) for seed, mechanism in enumerate(Mechanism)]
    for pair in pairs:
        pair.client.start(0.0)
    for pair, _ in itertools.product(pairs, range(5)):
        pair.run(lambda: True)
    for pair in pairs:
        pair.run()
        assert pair.client.state is ClientState.READY
