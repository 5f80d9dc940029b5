"""What goes wrong: refusals, silence, ICMP, resets, death.  The client says which it was and leaves nothing."""

from __future__ import annotations

import asyncio
import socket

import pytest

from lab.errors import KernelRefused, LocalProtocolError, UsageError
from lab.kernel import nft
from lab.kernel.tun import PacketDevice
from lab.rules.firewall import firewall_ruleset
from lab.topology.network import Network
from tests.kernel.tunnels import IMPATIENT, Tunnels, assert_nothing_is_left, direct, tunnels, until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("tun_fallback", "raw", "nft")]


def guarded() -> Network:
    """client - firewall - internet - broker - server."""
    net = Network("guarded")
    net.client("client")
    net.firewall("firewall")
    net.router("internet")
    net.broker("broker", users={"ann": "secret"})
    net.host("server", ipv6_only=True)
    net.link("client", "firewall")
    net.link("firewall", "internet")
    net.link("internet", "broker")
    net.link("broker", "server")
    return net


async def passes_first(net: Tunnels, transport: str, tunnel: str) -> None:
    """With the firewall open, the very same set-up works."""
    client = await net.connected("client", tunnel, transport)
    await client.close()


@pytest.mark.parametrize(
    ("mechanism", "user", "password"),
    [("PLAIN", "ann", "wrong"), ("DIGEST-MD5", "ann", "wrong"), ("DIGEST-MD5", "eve", "secret")],
)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_wrong_credentials_are_refused_with_300(transport: str, mechanism: str, user: str, password: str) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = net.client("client", "v6v4", transport, mechanism=mechanism, user=user, password=password)
            report = await client.connect()
            assert (report.outcome, report.code) == ("refused", 300)
            assert report.reason
            assert "create" not in report.phases_s
            assert not client.alive
            assert_nothing_is_left(net["client"])
            assert not net.broker.tunnels

    asyncio.run(scenario())


def test_a_broker_for_users_only_refuses_anonymous_clients() -> None:
    async def scenario() -> None:
        async with tunnels(direct(anonymous=False)) as net:
            report = await net.client("client").connect()
            assert (report.outcome, report.code) == ("refused", 300)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("policy", "transport", "outcome", "words"),
    [
        ("drop_udp_3653", "udp", "timeout", "3"),
        ("reject_udp_3653", "udp", "unreachable", "prohibited"),
        ("drop_tcp_3653", "tcp", "timeout", "TCP"),
        ("reject_tcp_3653", "tcp", "unreachable", "reset"),
    ],
)
def test_a_filter_is_told_from_silence_and_from_an_answer(
    policy: str, transport: str, outcome: str, words: str
) -> None:
    async def scenario() -> None:
        async with tunnels(guarded()) as net:
            await passes_first(net, transport, "v6v4")
            nft.load(net["firewall"], firewall_ruleset(policy))
            client = net.client("client", "v6v4", transport, retransmission=IMPATIENT, connect_timeout_s=0.3)
            report = await client.connect()
            assert report.outcome == outcome, report
            assert words in report.reason
            assert report.type is None
            assert_nothing_is_left(net["client"])
            assert nft.counters(net["firewall"])[policy][0] >= 1

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_host_without_a_broker_says_so_at_once(transport: str) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.broker.stop()
            report = await net.client("client", transport=transport).connect()
            assert report.outcome == "unreachable"
            assert net.ipv4("broker") in report.reason
            assert "port unreachable" in report.reason if transport == "udp" else "reset" in report.reason
            assert report.retransmissions == 0

    asyncio.run(scenario())


def test_a_client_without_a_route_says_so() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net["client"].run(["ip", "route", "del", "default"], check=True)
            for transport in ("udp", "tcp"):
                report = await net.client("client", transport=transport).connect()
                assert report.outcome == "unreachable"
                assert "no route" in report.reason

    asyncio.run(scenario())


def test_auto_goes_from_udp_to_tcp_and_tells_of_both() -> None:
    async def scenario() -> None:
        async with tunnels(guarded()) as net:
            client = await net.connected("client", "v6v4", "auto")
            assert client.report.transport == "udp"
            assert client.report.attempts == ()
            await client.close()
            nft.load(net["firewall"], firewall_ruleset("drop_udp_3653"))
            client = await net.connected("client", "v6v4", "auto", retransmission=IMPATIENT)
            report = client.report
            assert (report.outcome, report.transport) == ("ready", "tcp")
            assert [(attempt.transport, attempt.outcome) for attempt in report.attempts] == [("udp", "timeout")]
            assert report.total_s > report.attempts[0].total_s
            assert (await net.ping("client", "server")).received == 2

    asyncio.run(scenario())


def test_auto_does_not_try_tcp_after_a_refusal_or_for_v6udpv4() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            report = await net.client("client", "v6v4", "auto", prefix_length=40).connect()
            assert (report.outcome, report.transport, report.attempts) == ("refused", "udp", ())
            await net.broker.stop()
            report = await net.client("client", "v6udpv4", "auto").connect()
            assert (report.outcome, report.transport, report.attempts) == ("unreachable", "udp", ())

    asyncio.run(scenario())


def test_a_filter_for_protocol_41_lets_the_set_up_pass_and_stops_the_data() -> None:
    async def scenario() -> None:
        async with tunnels(guarded()) as net:
            await passes_first(net, "udp", "v6v4")
            nft.load(net["firewall"], firewall_ruleset("drop_proto41"))
            client = net.client("client", "v6v4", first_packet_timeout_s=0.3)
            report = await client.connect()
            assert report.outcome == "ready"
            assert not report.carries_data
            assert "no echo" in report.reason
            assert (await net.ping("client", "server", timeout_s=0.3)).received == 0

    asyncio.run(scenario())


def test_a_lost_datagram_is_sent_again() -> None:
    async def scenario() -> None:
        async with tunnels(guarded()) as net:
            nft.load(net["firewall"], firewall_ruleset("drop_udp_3653"))
            client = net.client("client", "v6udpv4", retransmission=IMPATIENT)
            attempt = asyncio.ensure_future(client.connect())
            await until(lambda: nft.counters(net["firewall"])["drop_udp_3653"][0] >= 1, "a dropped datagram")
            nft.load(net["firewall"], firewall_ruleset("allow"))
            report = await attempt
            assert report.outcome == "ready", report
            assert report.retransmissions >= 1

    asyncio.run(scenario())


# --- this machine's own faults ----------------------------------------------------------------------------------


def test_a_taken_device_name_is_an_error_of_this_machine_and_leaves_no_socket() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            held = PacketDevice.open(net["client"], "tsp0", 1280)
            try:
                with pytest.raises(KernelRefused, match="client: .*tsp0"):
                    await net.client("client", "v6udpv4").connect()
            finally:
                held.close()
            await net.connected("client", "v6udpv4")

    asyncio.run(scenario())


def test_a_cancelled_set_up_leaves_nothing() -> None:
    async def scenario() -> None:
        async with tunnels(guarded()) as net:
            for policy, transport in (("drop_udp_3653", "udp"), ("drop_tcp_3653", "tcp"), ("drop_proto41", "udp")):
                nft.load(net["firewall"], firewall_ruleset(policy))
                client = net.client("client", "v6v4", transport, first_packet_timeout_s=30)
                attempt = asyncio.ensure_future(client.connect())
                await until(lambda name=policy: nft.counters(net["firewall"])[name][0] >= 1, "a dropped packet")  # type: ignore[misc]
                attempt.cancel()
                await asyncio.wait([attempt])
                assert attempt.cancelled()
                assert_nothing_is_left(net["client"])

    asyncio.run(scenario())


def test_a_client_has_one_tunnel_at_a_time() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = net.client("client")
            with pytest.raises(LocalProtocolError, match="not tried"):
                _ = client.report
            await client.connect()
            with pytest.raises(LocalProtocolError, match="close it first"):
                await client.connect()
            await client.close()
            await client.close()
            assert (await client.connect()).outcome == "ready"

    asyncio.run(scenario())


def test_a_transport_that_does_not_exist_is_a_usage_error() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            with pytest.raises(UsageError, match="choose from udp, tcp, auto"):
                net.client("client", transport="sctp")

    asyncio.run(scenario())


# --- death ------------------------------------------------------------------------------------------------------


def test_a_dead_tunnel_is_noticed_by_its_keepalive_and_an_idle_one_by_the_broker() -> None:
    async def scenario() -> None:
        async with tunnels(guarded()) as net:
            client = await net.connected("client", "v6udpv4", keepalive_interval_s=1)
            keepalive = client.keepalive
            assert keepalive is not None
            await until(lambda: keepalive.sent >= 2 and keepalive.missed == 0, "two keepalives, the last one answered")
            assert client.alive
            nft.load(net["firewall"], firewall_ruleset("drop_udp_3653"))
            async with asyncio.timeout(20):
                await client.wait_lost()
            assert not client.alive
            await until(lambda: not net.broker.tunnels, "the broker taking the idle tunnel down", 20)
            assert net.broker.counters["tunnels_idle"] == 1

    asyncio.run(scenario())


def test_a_broker_that_is_gone_is_noticed() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = await net.connected("client", "v6udpv4", keepalive_interval_s=1)
            await net.broker.stop()
            async with asyncio.timeout(20):
                await client.wait_lost()
            assert client.counters["icmp_errors"] >= 1

    asyncio.run(scenario())


def test_a_tunnel_ends_with_its_lifetime() -> None:
    async def scenario() -> None:
        async with tunnels(direct(lifetime_min=1)) as net:
            client = await net.connected("client")
            assert client.report.lifetime_min == 1
            (tunnel,) = net.broker.tunnels
            tunnel.expires_at -= 60
            await until(lambda: not net.broker.tunnels, "the end of the tunnel's lifetime")
            assert net.broker.counters["tunnels_expired"] == 1

    asyncio.run(scenario())


def test_a_tcp_broker_that_answers_nothing_is_a_timeout_and_one_that_hangs_up_a_protocol_error() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.broker.stop()
            listener = net["broker"].socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.bind((net.ipv4("broker"), 3653))
            listener.listen(4)
            with listener:
                report = await net.client("client", transport="tcp", setup_timeout_s=0.3).connect()
                assert report.outcome == "timeout"
                attempt = asyncio.ensure_future(net.client("client", transport="tcp").connect())
                loop = asyncio.get_running_loop()
                for _ in range(2):
                    connection, _ = await loop.sock_accept(listener)
                    connection.close()
                report = await attempt
                assert report.outcome in ("protocol_error", "unreachable")
                assert_nothing_is_left(net["client"])

    asyncio.run(scenario())
