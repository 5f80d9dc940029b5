"""A client and a broker on real namespaces: set-up by every way there is, and IPv6 through the tunnel."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from ipaddress import IPv6Network

import pytest

from lab.actors.advertise import Advertiser, global_address
from lab.actors.transfer import transfer
from lab.errors import KernelRefused
from lab.topology.network import Network
from lab.tsp import BrokerSession
from tests.kernel.tunnels import assert_nothing_is_left, behind_nat, direct, tunnels, until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("tun_fallback", "raw")]

PHASES = ["connect", "version", "auth", "create", "accept", "first_packet"]


@pytest.mark.parametrize(
    ("transport", "tunnel", "type_"),
    [("udp", "v6anyv4", "v6v4"), ("udp", "v6v4", "v6v4"), ("udp", "v6udpv4", "v6udpv4"), ("tcp", "v6anyv4", "v6v4")],
)
@pytest.mark.parametrize(
    ("mechanism", "user", "password"),
    [("ANONYMOUS", None, None), ("PLAIN", "ann", "secret"), ("DIGEST-MD5", "ann", "secret")],
)
def test_a_tunnel_comes_up_and_carries_ipv6(
    transport: str, tunnel: str, type_: str, mechanism: str, user: str | None, password: str | None
) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = await net.connected("client", tunnel, transport, mechanism=mechanism, user=user, password=password)
            report = client.report
            assert (report.type, report.transport, report.mechanism) == (type_, transport, mechanism)
            assert list(report.phases_s) == PHASES
            assert all(seconds >= 0 for seconds in report.phases_s.values())
            assert report.retransmissions == 0
            assert (await net.ping("client", "server")).received == 2
            assert (await net.ping("client", "server", size=1280, count=1)).received == 1
            assert client.counters["packets_out"] >= 4
            assert net.broker.counters["packets_in"] >= 4

    asyncio.run(scenario())


def test_udp_set_up_takes_the_round_trips_of_the_protocol() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            for mechanism, user, round_trips in (("ANONYMOUS", None, 4), ("PLAIN", "ann", 5), ("DIGEST-MD5", "ann", 6)):
                client = await net.connected("client", mechanism=mechanism, user=user, password=user and "secret")
                assert client.report.round_trips == round_trips
                await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_tunnel_is_up_before_the_acceptance_is_answered(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            up_at_confirm: list[int] = []
            confirm = BrokerSession.confirm

            def watched(self: BrokerSession, now: float) -> None:
                up_at_confirm.append(len(net.broker.tunnels))
                confirm(self, now)

            monkeypatch.setattr(BrokerSession, "confirm", watched)
            await net.connected("client", "v6v4", transport)
            assert up_at_confirm == [1]

    asyncio.run(scenario())


@pytest.mark.needs("nft_nat")
def test_behind_a_nat_v6anyv4_becomes_v6udpv4_and_over_tcp_is_refused() -> None:
    async def scenario() -> None:
        async with tunnels(behind_nat()) as net:
            ann = await net.connected("ann")
            assert ann.report.type == "v6udpv4"
            assert ann.report.client_ipv6 is not None
            outside = next(i.ipv4 for i in net.node("nat").interfaces if i.role == "outside")
            assert outside is not None
            assert str(net.broker.peer_of(ann.report.client_ipv6)) == outside.partition("/")[0]
            bob = await net.connected("bob")
            assert (await net.ping("ann", str(bob.report.client_ipv6))).received == 2
            await bob.close()
            report = await net.client("bob", "v6anyv4", "tcp").connect()
            assert (report.outcome, report.code) == ("refused", 303)
            assert "UDP" in report.reason
            assert_nothing_is_left(net["bob"])

    asyncio.run(scenario())


@pytest.mark.parametrize("tunnel", ["v6v4", "v6udpv4"])
def test_a_megabyte_arrives_whole_in_both_directions(tunnel: str) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = await net.connected("client", tunnel)
            rng = random.Random(2)
            up = await transfer(net["client"], net["server"], net.ipv6("server"), size=1_000_000, rng=rng)
            down = await transfer(net["server"], net["client"], str(client.report.client_ipv6), size=1_000_000, rng=rng)
            assert up.intact
            assert down.intact
            assert up.sha256_sent != down.sha256_sent

    asyncio.run(scenario())


@pytest.mark.needs("sit")
def test_the_kernels_own_6in4_device_carries_a_v6v4_tunnel() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = await net.connected("client", "v6v4", use_sit=True)
            assert client.report.data_plane == "sit"
            assert (await net.ping("client", "server", size=1280)).received == 2
            report = await transfer(net["client"], net["server"], net.ipv6("server"), size=200_000, rng=net.rng)
            assert report.intact
            await client.close()
            assert_nothing_is_left(net["client"])

    asyncio.run(scenario())


def test_it_works_as_well_where_there_is_no_tun_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.kernel.tun._TUN_NODE", "/dev/net/no-such-device")

    async def scenario() -> None:
        async with tunnels(direct()) as net:
            for tunnel in ("v6v4", "v6udpv4"):
                client = await net.connected("client", tunnel)
                assert client.report.data_plane == "veth"
                assert (await net.ping("client", "server", size=1280)).received == 2
                report = await transfer(net["client"], net["server"], net.ipv6("server"), size=200_000, rng=net.rng)
                assert report.intact
                await client.close()
                assert_nothing_is_left(net["client"])

    asyncio.run(scenario())


def test_clients_reach_each_other_through_the_broker_one_hop_further() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.connected("client", "v6v4")
            other = await net.connected("other", "v6udpv4")
            assert (await net.ping("client", str(other.report.client_ipv6))).received == 2
            assert net.broker.counters["packets_out"] >= 4

    asyncio.run(scenario())


def test_a_packet_of_1281_bytes_is_too_big_for_the_tunnel() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.connected("client")
            report = await net.ping("client", "server", size=1281, count=1, timeout_s=0)
            assert report.received == 0
            assert report.errors == ("1281 bytes is more than the path carries",)

    asyncio.run(scenario())


def test_a_larger_mtu_on_both_ends_carries_larger_packets() -> None:
    async def scenario() -> None:
        async with tunnels(direct(mtu=1472)) as net:
            await net.connected("client", "v6udpv4", mtu=1472)
            assert (await net.ping("client", "server", size=1472, count=1)).received == 1

    asyncio.run(scenario())


# --- who gets what ----------------------------------------------------------------------------------------------


def test_a_user_keeps_the_address_and_an_anonymous_client_does_not() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            users, anonymous = [], []
            for node, tunnel in (("client", "v6v4"), ("other", "v6udpv4"), ("client", "v6udpv4")):
                client = await net.connected(node, tunnel, user="ann", password="secret", prefix_length=60)
                users.append((client.report.client_ipv6, client.report.prefix))
                await client.close()
                client = await net.connected(node, tunnel)
                anonymous.append(client.report.client_ipv6)
                await client.close()
            assert len(set(users)) == 1
            assert len(set(anonymous)) == 3

    asyncio.run(scenario())


def test_a_second_login_takes_the_first_tunnel_down_and_gets_its_addresses() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            old = await net.connected("client", "v6udpv4", user="ann", password="secret")
            assert (await net.ping("client", "server")).received == 2
            new = await net.connected("other", "v6udpv4", user="ann", password="secret")
            assert new.report.client_ipv6 == old.report.client_ipv6
            assert len(net.broker.tunnels) == 1
            assert (await net.ping("other", "server")).received == 2
            before = net.broker.counters["outer_source"]
            assert (await net.ping("client", "server", timeout_s=0.3)).received == 0
            await until(lambda: net.broker.counters["outer_source"] - before == 2, "both packets counted")

    asyncio.run(scenario())


def test_a_prefix_longer_than_64_or_too_short_is_507() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            for length in (40, 72):
                report = await net.client("client", prefix_length=length).connect()
                assert (report.outcome, report.code) == ("refused", 507)
                assert "gives /48 to /64" in report.reason
                assert_nothing_is_left(net["client"])

    asyncio.run(scenario())


def test_close_takes_the_tunnel_down_at_both_ends() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            for tunnel in ("v6v4", "v6udpv4"):
                client = await net.connected("client", tunnel)
                assert len(net.broker.tunnels) == 1
                await client.close()
                assert not net.broker.tunnels
                assert_nothing_is_left(net["client"])

    asyncio.run(scenario())


def test_a_stopped_broker_leaves_nothing_and_can_start_again() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.connected("client")
            await net.broker.stop()
            assert_nothing_is_left(net["broker"])

    asyncio.run(scenario())


# --- a router ---------------------------------------------------------------------------------------------------


def routed() -> Network:
    """tablet - client - internet - broker - server, the tablet with nothing but SLAAC."""
    net = Network("routed")
    net.host("tablet", slaac=True)
    net.client("client")
    net.router("internet")
    net.broker("broker", users={"ann": "secret"})
    net.host("server", ipv6_only=True)
    net.link("tablet", "client")
    net.link("client", "internet")
    net.link("internet", "broker")
    net.link("broker", "server")
    return net


@pytest.mark.parametrize("length", [64, 56])
def test_a_host_behind_the_client_makes_itself_an_address_and_reaches_the_server(length: int) -> None:
    async def scenario() -> None:
        async with tunnels(routed()) as net:
            client = await net.connected("client", user="ann", password="secret", prefix_length=length)
            prefix = client.report.prefix
            assert isinstance(prefix, IPv6Network)
            assert prefix.prefixlen == length
            lan = next(i.name for i in net.node("client").interfaces if i.peer == "tablet")
            advertiser = Advertiser(net["client"], lan, prefix, rng=net.rng)
            await advertiser.start()
            try:
                await until(lambda: global_address(net["tablet"]) is not None, "the tablet's own address")
                address = global_address(net["tablet"])
                assert address in prefix
                assert (await net.ping("tablet", "server", size=1280)).received == 2
                assert (await net.ping("server", str(address), size=1280)).received == 2
            finally:
                await advertiser.stop()
            # An unused part of the prefix must not bounce between client and broker.
            if length < 64:
                before = client.counters["inner_destination"]
                nowhere = str(prefix[-1])
                assert (await net.ping("server", nowhere, count=1, timeout_s=0.3)).received == 0
                await until(lambda: client.counters["inner_destination"] - before == 1, "the packet counted, once")

    asyncio.run(scenario())


def test_a_host_that_asks_is_answered_and_a_last_advertisement_withdraws_the_route() -> None:
    async def scenario() -> None:
        async with tunnels(routed()) as net:
            lan = next(i.name for i in net.node("client").interfaces if i.peer == "tablet")
            advertiser = Advertiser(net["client"], lan, IPv6Network("2001:db8:f123:4::/64"), rng=net.rng)
            await advertiser.start()
            await until(lambda: global_address(net["tablet"]) is not None, "the tablet's own address")
            await net["tablet"].run(["ip", "link", "set", "eth0", "down"], check=True)
            await net["tablet"].run(["ip", "link", "set", "eth0", "up"], check=True)
            await until(lambda: advertiser.counters["solicitations"] > 0, "a solicitation")
            await until(lambda: global_address(net["tablet"]) is not None, "the tablet's address again")
            routes = await net["tablet"].run(["ip", "-6", "route", "show", "default"], check=True)
            assert "proto ra" in routes.stdout
            await advertiser.stop()

            async def default_gone() -> bool:
                return not (await net["tablet"].run(["ip", "-6", "route", "show", "default"])).stdout

            for _ in range(200):
                if await default_gone():
                    break
                await asyncio.sleep(0.02)
            assert await default_gone()

    asyncio.run(scenario())


def test_an_advertiser_that_cannot_start_leaves_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(iface: str) -> bytes:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    async def scenario() -> None:
        async with tunnels(routed()) as net:
            lan = next(i.name for i in net.node("client").interfaces if i.peer == "tablet")
            advertiser = Advertiser(net["client"], lan, IPv6Network("2001:db8:f123:4::/64"), rng=net.rng)
            monkeypatch.setattr("lab.actors.advertise._mac_of", vanished)
            with pytest.raises(KernelRefused, match=f"advertise on {lan}"):
                await advertiser.start()
            assert not net["client"].netlink.is_local("2001:db8:f123:4::1")
            monkeypatch.undo()
            await advertiser.start()
            assert net["client"].netlink.is_local("2001:db8:f123:4::1")
            await advertiser.stop()
            await advertiser.stop()  # safe to call twice
            assert not net["client"].netlink.is_local("2001:db8:f123:4::1")

    asyncio.run(scenario())
