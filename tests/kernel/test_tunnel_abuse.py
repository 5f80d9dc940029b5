"""Forged, malformed and greedy input: dropped, counted, and never the end of the broker."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from lab.actors.broker import TunnelBroker
from lab.actors.dataplane import Tunnel
from lab.errors import KernelRefused
from lab.kernel import links
from lab.tsp import BrokerConfig, BrokerSession
from tests.kernel.tunnels import (
    IMPATIENT,
    Tunnels,
    assert_nothing_is_left,
    behind_nat,
    direct,
    echo_request,
    hush,
    ipv4_packet,
    send_raw,
    tunnels,
    udp_payload,
    until,
)

pytestmark = [pytest.mark.kernel, pytest.mark.needs("tun_fallback", "raw")]

VERSION = b"VERSION=2.0.0\r\n"


def signalling(body: bytes, sequence: int = 240, timestamp: int = 1) -> bytes:
    return struct.pack("!II", 0xF0000000 + sequence, timestamp) + body


def outer(net: Tunnels, tunnel: Tunnel, inner: bytes, source: str | None = None, port: int | None = None) -> bytes:
    """`inner` as the client of `tunnel` would send it, or with another outer source."""
    address, client_port = tunnel.outer
    if client_port:
        payload = udp_payload(port or client_port, 3653, inner)
        return ipv4_packet(source or address, net.ipv4("broker"), 17, payload)
    return ipv4_packet(source or address, net.ipv4("broker"), 41, inner)


@pytest.mark.needs("nft")
@pytest.mark.parametrize("kind", ["v6v4", "v6udpv4"])
def test_a_forged_source_is_dropped_and_counted_at_the_broker_and_the_true_one_passes(kind: str) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            for name in ("broker", "client", "other"):
                hush(net[name])
            client = await net.connected("client", kind)
            other = await net.connected("other", kind)
            (tunnel, _) = net.broker.tunnels
            own, counters = str(client.report.client_ipv6), net.broker.counters

            async def counted(reason: str, packet: bytes, node: str = "client") -> None:
                before, passed = counters[reason], counters["packets_in"]
                send_raw(net[node], packet)
                await until(lambda: counters[reason] == before + 1, f"one packet counted as {reason}")
                if reason != "packets_in":
                    assert counters["packets_in"] == passed

            good = echo_request(own, net.ipv6("server"))
            await counted("packets_in", outer(net, tunnel, good))
            # The very same packet from another outer address: that of nobody, and that of another client.
            await counted("outer_source", outer(net, tunnel, good, source="203.0.113.77"), "other")
            if kind == "v6udpv4":
                await counted("outer_source", outer(net, tunnel, good, port=tunnel.outer[1] ^ 1))
            await counted("inner_source", outer(net, net.broker.tunnels[1], good), "other")
            # From the right outer address, with inner sources that are not the client's.
            for source, reason in (
                (net.ipv6("server"), "inner_source"),
                (str(other.report.client_ipv6), "inner_source"),
                (str(net.broker.store.server_address), "inner_source"),
                ("fe80::1", "link_scope"),
                ("::", "link_scope"),
                ("::1", "forbidden_source"),
                ("ff02::1", "forbidden_source"),
                ("::ffff:192.0.2.1", "forbidden_source"),
                ("::192.0.2.1", "forbidden_source"),
            ):
                await counted(reason, outer(net, tunnel, echo_request(source, net.ipv6("server"))))
            await counted("link_scope", outer(net, tunnel, echo_request(own, "ff02::1")))
            await counted("truncated", outer(net, tunnel, good[:-1]))
            if kind == "v6v4":
                await counted("not_ipv6", outer(net, tunnel, b"\x45" + good[1:]))
            else:
                await counted("unknown_marker", outer(net, tunnel, b"\x45" + good[1:]))
            assert (await net.ping("client", "server")).received == 2

    asyncio.run(scenario())


@pytest.mark.needs("nft")
@pytest.mark.parametrize("kind", ["v6v4", "v6udpv4"])
def test_a_forged_source_is_dropped_and_counted_at_the_client_too(kind: str) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            hush(net["client"])
            client = await net.connected("client", kind)
            own, broker, counters = str(client.report.client_ipv6), net.ipv4("broker"), client.counters

            def towards_client(inner: bytes, source: str = broker) -> bytes:
                if kind == "v6v4":
                    return ipv4_packet(source, net.ipv4("client"), 41, inner)
                assert client.report.local_port is not None
                return ipv4_packet(source, net.ipv4("client"), 17, udp_payload(3653, client.report.local_port, inner))

            async def counted(reason: str, packet: bytes, node: str = "broker") -> None:
                before = counters[reason]
                send_raw(net[node], packet)
                await until(lambda: counters[reason] == before + 1, f"one packet counted as {reason}")

            good = echo_request(net.ipv6("server"), own)
            await counted("packets_in", towards_client(good))
            if kind == "v6v4":  # over UDP the kernel passes only what comes from the broker
                await counted("outer_source", towards_client(good, source="203.0.113.77"), "other")
            await counted("inner_source", towards_client(echo_request(own, own)))
            await counted("inner_destination", towards_client(echo_request(net.ipv6("server"), "2001:db8:9::1")))
            await counted("link_scope", towards_client(echo_request("fe80::1", own)))
            # What the client's own kernel routes into the tunnel with another source stays there as well.
            before = counters["inner_source"]
            links.add_address(net["client"], "lo", "2001:db8:bad::1/128")  # waits until it may be used
            source = IPv6Address("2001:db8:bad::1")
            assert (await net.ping("client", "server", source=source, count=1, timeout_s=0.2)).received == 0
            await until(lambda: counters["inner_source"] == before + 1, "one packet counted as inner_source")

    asyncio.run(scenario())


def test_nobody_in_the_pool_gets_packets_for_an_address_without_a_tunnel() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.connected("client")
            before = net.broker.counters["no_tunnel"]
            await net.ping("server", "2001:db8:ffff:ffff::1", count=1, timeout_s=0.2)
            await until(lambda: net.broker.counters["no_tunnel"] == before + 1, "a packet without a tunnel")

    asyncio.run(scenario())


# --- signalling -------------------------------------------------------------------------------------------------


def open_udp(net: Tunnels, node: str = "other") -> socket.socket:
    sock = net[node].socket(socket.AF_INET, socket.SOCK_DGRAM)
    net.sockets.append(sock)
    sock.connect((net.ipv4("broker"), 3653))
    return sock


def noise() -> list[bytes]:
    """Datagrams that no client sends: cut, over-long, wrong in every place; reproducible."""
    rng = random.Random(3)
    bodies = [
        VERSION,
        b"VERSION=",
        b"VERSION=9.9.9\r\n",
        b"AUTHENTICATE ANONYMOUS\r\n",
        b"AUTHENTICATE \xff\xfe\r\n",
        b"Content-length: 99999999999999999999\r\n<tunnel/>",
        b"Content-length: -5\r\n<tunnel/>",
        b'Content-length: 80\r\n<!DOCTYPE a [<!ENTITY b "b">]><tunnel action="create">&b;</tunnel>',
        b"Content-length: 9\r\n<tunnel/>" * 30,
        b"\0" * 64,
        b"",
    ]
    found = [signalling(body, sequence) for sequence, body in enumerate(bodies * 3)]
    found += [rng.randbytes(rng.randrange(1400)) for _ in range(200)]
    found += [signalling(VERSION + rng.randbytes(40), rng.randrange(1 << 28)) for _ in range(50)]
    return [*found, b"", b"\xf0", b"\xf0" * 7, b"\x60" * 39, b"V" * 9000]


def test_noise_on_the_signalling_port_stops_nothing() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = await net.connected("client", "v6udpv4")
            with open_udp(net) as sock:
                for datagram in noise():
                    sock.send(datagram)
                    await asyncio.sleep(0)
            await net.connected("other", "v6udpv4")
            assert (await net.ping("client", "server")).received == 2
            assert client.alive
            assert net.broker.counters["internal_errors"] == 0
            assert net.broker.counters["no_session"] > 0
            assert net.broker.counters["unknown_marker"] > 0

    asyncio.run(scenario())


def test_a_fault_of_the_broker_costs_one_client_its_session_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.connected("client")
            receive = BrokerSession.receive

            def faulty(self: BrokerSession, data: bytes, now: float) -> None:
                if self.peer == IPv4Address(net.ipv4("other")):
                    raise ZeroDivisionError
                receive(self, data, now)

            monkeypatch.setattr(BrokerSession, "receive", faulty)
            for transport in ("udp", "tcp"):
                before = net.broker.counters["internal_errors"]
                report = await net.client("other", transport=transport, setup_timeout_s=0.5).connect()
                assert report.outcome != "ready"
                await until(lambda n=before: net.broker.counters["internal_errors"] > n, "the fault counted")  # type: ignore[misc]
            assert (await net.ping("client", "server")).received == 2

    asyncio.run(scenario())


def test_a_junk_datagram_makes_no_session_and_gets_no_answer() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            with open_udp(net) as sock:
                sock.send(signalling(b"AUTHENTICATE ANONYMOUS\r\n"))
                sock.send(signalling(b""))
                await until(lambda: net.broker.counters["no_session"] == 2, "two datagrams without a session")
                with pytest.raises(BlockingIOError):
                    sock.recv(100)
                assert net.broker.counters["sessions"] == 0

    asyncio.run(scenario())


def test_set_ups_under_way_are_bounded_and_the_oldest_go_first() -> None:
    async def scenario() -> None:
        async with tunnels(direct(setups=8)) as net:
            socks = [open_udp(net) for _ in range(20)]
            for sock in socks:
                sock.send(signalling(VERSION))
            await until(lambda: net.broker.counters["setups_pushed_out"] == 12, "twelve set-ups pushed out")
            assert len(net.broker._links) == 8  # what is kept is what this test is about
            await net.connected("client")

    asyncio.run(scenario())


def test_slow_set_ups_are_forgotten() -> None:
    async def scenario() -> None:
        async with tunnels(direct(setup_s=0.2)) as net:
            with open_udp(net) as sock:
                sock.send(signalling(VERSION))
                await until(lambda: net.broker.counters["setups_expired"] == 1, "the set-up forgotten")
                assert not net.broker._links

    asyncio.run(scenario())


def test_a_storm_from_one_source_is_throttled_and_others_are_served() -> None:
    async def scenario() -> None:
        async with tunnels(direct(burst=20, datagrams_per_s=1)) as net:
            with open_udp(net) as sock:
                for sequence in range(200):
                    sock.send(signalling(VERSION, sequence))
                await until(lambda: net.broker.counters["rate_limited"] >= 150, "the storm throttled")
            await net.connected("client")

    asyncio.run(scenario())


@pytest.mark.needs("nft_nat")
def test_one_ipv4_address_has_a_bounded_number_of_tunnels() -> None:
    async def scenario() -> None:
        async with tunnels(behind_nat(tunnels_per_ipv4=1)) as net:
            ann = await net.connected("ann")
            report = await net.client("bob").connect()
            assert (report.outcome, report.code) == ("refused", 506)
            assert "1 tunnels, which is the limit" in report.reason
            await ann.close()
            await net.connected("bob")

    asyncio.run(scenario())


def test_the_broker_has_a_bounded_number_of_tunnels() -> None:
    async def scenario() -> None:
        async with tunnels(direct(tunnels=1)) as net:
            await net.connected("client", user="ann", password="secret")
            report = await net.client("other").connect()
            assert (report.outcome, report.code) == ("refused", 301)
            # The same user may move: that takes no further tunnel.
            await net.connected("other", user="ann", password="secret")

    asyncio.run(scenario())


def test_an_offer_that_is_not_accepted_is_taken_back() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = b'<client><address type="ipv4">192.0.2.9</address></client>'
            create = b'<tunnel action="create" type="v6udpv4">' + client + b"</tunnel>"
            with open_udp(net) as sock:
                for sequence, body in enumerate(
                    (VERSION, b"AUTHENTICATE ANONYMOUS\r\n", b"Content-length: %d\r\n%b" % (len(create), create))
                ):
                    sock.send(signalling(body, sequence))
                    await until(lambda: _readable(sock), "an answer")
                assert sum(net.broker._per_ipv4.values()) == 1
                for link in net.broker._setups:
                    link.since -= net.broker.settings.limits.setup_s
                await until(lambda: net.broker.counters["setups_expired"] == 1, "the set-up forgotten")
            assert not net.broker._per_ipv4
            assert net.broker.store._db.execute("SELECT count(*) FROM leases").fetchone() == (0,)

    asyncio.run(scenario())


def test_a_prefix_that_its_user_gave_back_is_of_no_use_to_his_old_tunnel() -> None:
    """Asking for another length frees the old prefix, whether the new offer is accepted or not."""

    async def scenario() -> None:
        async with tunnels(direct()) as net:
            ann = await net.connected("client", prefix_length=60, user="ann", password="secret")
            (old,) = net.broker.tunnels
            client = b'<client><address type="ipv4">192.0.2.9</address><router><prefix length="56"/></router></client>'
            create = b'<tunnel action="create" type="v6udpv4">' + client + b"</tunnel>"
            with open_udp(net) as sock:
                for sequence, body in enumerate(
                    (
                        VERSION,
                        b"AUTHENTICATE PLAIN\r\n",
                        b"\0ann\0secret\r\n",
                        b"Content-length: %d\r\n%b" % (len(create), create),
                    )
                ):
                    sock.send(signalling(body, sequence))
                    await until(lambda: _readable(sock), "an answer")
            assert not net.broker.tunnels
            send_raw(net["client"], outer(net, old, echo_request(str(ann.report.client_ipv6), net.ipv6("server"))))
            await until(lambda: net.broker.counters["outer_source"] == 1, "a packet of the old tunnel dropped")

    asyncio.run(scenario())


def _readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(2000))
    except BlockingIOError:
        return False


def test_version_on_a_live_mapping_takes_the_old_tunnel_down() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            client = await net.connected("client", "v6udpv4")
            (tunnel,) = net.broker.tunnels
            again = signalling(VERSION, sequence=900, timestamp=0xFFFFFF)
            send_raw(net["client"], outer(net, tunnel, again))
            await until(lambda: not net.broker.tunnels, "the old tunnel taken down")
            await client.close(delete_timeout_s=0)

    asyncio.run(scenario())


# --- TCP --------------------------------------------------------------------------------------------------------


async def connect_tcp(net: Tunnels, node: str = "other") -> socket.socket:
    sock = net[node].socket(socket.AF_INET, socket.SOCK_STREAM)
    net.sockets.append(sock)
    await asyncio.get_running_loop().sock_connect(sock, (net.ipv4("broker"), 3653))
    return sock


async def closed_by_peer(sock: socket.socket) -> None:
    """Read to the end; fails after 10 s."""
    async with asyncio.timeout(10):
        try:
            while await asyncio.get_running_loop().sock_recv(sock, 65536):
                pass
        except ConnectionResetError:
            pass


def test_many_tcp_clients_are_served_while_silent_ones_wait_for_their_end() -> None:
    async def scenario() -> None:
        many = tuple(f"client{number}" for number in range(10))
        async with tunnels(direct(("other", *many))) as net:
            silent = [await connect_tcp(net) for _ in range(20)]
            made = [net.client(name, "v6v4", "tcp") for name in many]
            reports = await asyncio.gather(*(client.connect() for client in made))
            assert [report.outcome for report in reports] == ["ready"] * 10
            for link in net.broker._tcp_links:
                link.since -= net.broker.settings.limits.setup_s
            for sock in silent:
                await closed_by_peer(sock)
                sock.close()
            assert len(net.broker.tunnels) == 10
            await until(lambda: not net.broker._tcp_links, "all connections closed")

    asyncio.run(scenario())


def test_a_client_that_sends_byte_by_byte_is_served() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            loop = asyncio.get_running_loop()
            with await connect_tcp(net) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in VERSION:
                    await loop.sock_sendall(sock, bytes((byte,)))
                    await asyncio.sleep(0)
                async with asyncio.timeout(10):
                    assert b"CAPABILITY " in await loop.sock_recv(sock, 2000)

    asyncio.run(scenario())


@pytest.mark.parametrize("flood", [VERSION * 20_000, b"x" * 300_000, b"Content-length: 9999999\r\n" + b"<" * 300_000])
def test_a_tcp_client_that_sends_without_end_is_cut_off(flood: bytes) -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            loop = asyncio.get_running_loop()
            with await connect_tcp(net) as sock:
                try:
                    async with asyncio.timeout(10):
                        await loop.sock_sendall(sock, flood)
                except OSError:
                    pass
                await closed_by_peer(sock)
            await until(lambda: not net.broker._tcp_links, "the connection forgotten")
            await net.connected("client", transport="tcp")

    asyncio.run(scenario())


def test_connections_from_one_address_are_bounded() -> None:
    async def scenario() -> None:
        async with tunnels(direct(connections_per_ipv4=3)) as net:
            held = [await connect_tcp(net) for _ in range(3)]
            with await connect_tcp(net) as extra:
                await closed_by_peer(extra)
            assert net.broker.counters["connections_refused"] == 1
            await net.connected("client", transport="tcp")
            for sock in held:
                sock.close()
            await until(lambda: not net.broker._connections, "the connections forgotten")

    asyncio.run(scenario())


def test_a_tunnel_outlives_its_tcp_connection_and_a_half_done_set_up_does_not() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            await net.connected("client", "v6v4", "tcp")
            await until(lambda: not net.broker._tcp_links, "the client's connection closed")
            assert (await net.ping("client", "server")).received == 2
            with await connect_tcp(net) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, VERSION)
                await until(lambda: len(net.broker._tcp_links) == 1, "a connection")
            await until(lambda: not net.broker._tcp_links, "the connection forgotten")
            assert len(net.broker.tunnels) == 1

    asyncio.run(scenario())


# --- redirection ------------------------------------------------------------------------------------------------


def test_a_client_follows_a_redirection_and_does_not_run_in_circles() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            here = net.ipv4("broker")

            def sends_to(*brokers: str) -> None:
                settings = net.broker.settings
                config = BrokerConfig(redirect_to=brokers)
                changed: dict[str, Any] = {name: getattr(settings, name) for name in settings.__slots__}
                net.broker.settings = type(settings)(**{**changed, "session": config})

            sends_to(here)
            report = await net.client("client").connect()
            assert (report.outcome, report.code, report.attempts) == ("refused", 1200, ())
            assert here in report.reason
            sends_to("192.0.2.250", here)
            client = net.client("client", retransmission=IMPATIENT)
            report = await client.connect()
            assert report.outcome in ("timeout", "unreachable")
            assert report.broker == "192.0.2.250:3653"
            assert [a.code for a in report.attempts] == [1200]

    asyncio.run(scenario())


def test_a_broker_of_the_wrong_address_says_which() -> None:
    async def scenario() -> None:
        async with tunnels(direct()) as net:
            plan = net.node("broker")
            wrong = type(plan)(**{**{f: getattr(plan, f) for f in plan.__slots__}, "ipv4": "192.0.2.222"})
            broker = TunnelBroker.from_options(net["other"], wrong, rng=random.Random(0))
            with pytest.raises(KernelRefused, match=r"other: open UDP 192\.0\.2\.222:3653"):
                await broker.start()
            assert_nothing_is_left(net["other"])

    asyncio.run(scenario())
