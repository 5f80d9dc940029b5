"""Exchanges with the clients and brokers that exist, byte for byte where their bytes are known.

gogoc 1.2 and gw6c 6.0 (clients), the Java client of MSPSim, tsps and ddtb (brokers).  Each test plays the
other side as it was observed to behave.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from lab.tsp import (
    BrokerConfig,
    BrokerState,
    ClientConfig,
    ClientState,
    Mechanism,
    Redirected,
    Transport,
    TunnelReady,
    TunnelRequested,
    TunnelType,
    format_header,
    parse_header,
)
from lab.tsp.framing import frame
from lab.tsp.messages import format_brokers
from lab.tsp.sasl import DigestClient, DigestServer
from tests.pair import CLIENT, RawBroker, RawClient, broker_session, credentials, tunnel_for

GOGOC = IPv4Address("10.77.0.2")
GOGOC_REQUESTS = (
    b"VERSION=2.0.2\r\n",
    b"AUTHENTICATE ANONYMOUS\r\n\0",
    b'Content-length: 214\r\n<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n'
    b'  <address type="ipv4">10.77.0.2</address>\r\n  <keepalive interval="30">\r\n'
    b'    <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n</tunnel>\r\n',
    b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n',
)


def run_gogoc(client: RawClient, requests: tuple[bytes, ...]) -> list[bytes]:
    """Send `requests` in turn, with a broker that grants what is asked; gives the answers."""
    answers: list[bytes] = []
    for body in requests:
        answers += client.ask(body)
        session = client.session
        if session.state is BrokerState.DECIDING:
            request = [event.request for event in client.events if isinstance(event, TunnelRequested)][-1]
            session.offer(replace(tunnel_for(request, session.peer), keepalive_interval_s=30), client.now)
        elif session.state is BrokerState.CONFIRMING:
            session.confirm(client.now)
        answers += client.answers()
    return answers


def check_as_gogoc_reads(reply: bytes) -> None:
    """What the hand-written readers of gogoc need in a framed reply, or they crash, abort or reconnect for ever."""
    header, _, content = reply.partition(b"\r\n")
    assert header[:15] == b"Content-length:"
    assert int(header[15:]) == len(content)
    assert len(reply) <= 4096
    assert re.match(rb"\d+ ", content)
    assert b"<?xml" not in content
    assert b"'" not in content
    for address in re.findall(rb"<address[^>]*>([^<]*)</address>", content):
        assert re.fullmatch(rb"[0-9a-f.:]+", address)
    for prefix in re.findall(rb"<prefix[^>]*>([^<]*)</prefix>", content):
        assert re.fullmatch(rb"(?:[0-9a-f]{4}:){7}[0-9a-f]{4}", prefix)
    for keepalive in re.findall(rb"<keepalive.*?</keepalive>", content, re.DOTALL):
        assert b'<address type="ipv6">' in keepalive
    for end in (rb"<server>(.*?)</server>", rb"<client>(.*?)</client>"):
        found = re.search(end, content, re.DOTALL)
        assert found is not None
        assert b'<address type="ipv4">' in found[1]
        assert b'<address type="ipv6">' in found[1]
    assert content == content.replace(b"\n", b"\r\n").replace(b"\r\r", b"\r")


def test_recorded_datagrams_of_gogoc_set_a_tunnel_up() -> None:
    assert [8 + len(body) for body in GOGOC_REQUESTS] == [23, 33, 243, 63]
    client = RawClient(broker_session(peer=GOGOC))
    answers = run_gogoc(client, GOGOC_REQUESTS)
    assert answers[:2] == [
        b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n",
        b"200 Success\r\n",
    ]
    check_as_gogoc_reads(answers[2])
    assert b'type="v6udpv4"' in answers[2]
    assert answers[3:] == [b""]
    assert client.session.state is BrokerState.UP


def test_first_bytes_of_gogoc_are_echoed_untouched() -> None:
    session = broker_session(peer=GOGOC)
    session.receive(bytes.fromhex("f0 00 00 f0 00 00 00 42 56 45 52 53 49 4f 4e 3d") + b"2.0.2\r\n", 0.0)
    (answer,) = session.to_send(0.0)
    assert answer[:8] == bytes.fromhex("f0 00 00 f0 00 00 00 42")


def test_gogoc_in_router_mode_gets_its_prefix_in_full_form() -> None:
    create = (
        GOGOC_REQUESTS[2]
        .partition(b"\r\n")[2]
        .replace(b" </client>", b' <router>\r\n  <prefix length="56"/>\r\n </router>\r\n </client>')
    )
    client = RawClient(broker_session(peer=GOGOC))
    answers = run_gogoc(client, (*GOGOC_REQUESTS[:2], frame(create)))
    check_as_gogoc_reads(answers[2])
    assert b'<prefix length="56">2001:0db8:f100:0000:0000:0000:0000:0000</prefix>' in answers[2]


def test_gw6c_differs_in_its_version_only() -> None:
    client = RawClient(broker_session(peer=GOGOC))
    run_gogoc(client, (b"VERSION=2.0.1\r\n", *GOGOC_REQUESTS[1:]))
    assert client.session.state is BrokerState.UP


def test_gogoc_over_tcp_is_served_and_reads_no_more_than_it_must() -> None:
    create = GOGOC_REQUESTS[2].replace(b"v6udpv4", b"v6v4").replace(b"214", b"211")
    client = RawClient(broker_session(Transport.TCP, peer=GOGOC))
    answers = run_gogoc(client, (*GOGOC_REQUESTS[:2], create, GOGOC_REQUESTS[3]))
    assert len(answers) == 3
    check_as_gogoc_reads(answers[2])
    assert client.session.state is BrokerState.UP


def test_gogoc_plain_over_tcp_has_its_nuls_in_the_stream() -> None:
    client = RawClient(broker_session(Transport.TCP, peer=GOGOC))
    run_gogoc(client, (b"VERSION=2.0.2\r\n", b"AUTHENTICATE PLAIN\r\n\0", b"\0ann\0secret\r\n"))
    assert client.session.user == "ann"


def test_every_error_in_the_create_phase_is_framed_or_gogoc_storms() -> None:
    for body in (b"<tunnel", GOGOC_REQUESTS[2].replace(b"v6udpv4", b"v4v6"), b"Content-length: 3\r\n<tunnel/>", b"x"):
        client = RawClient(broker_session(peer=GOGOC))
        (answer,) = run_gogoc(client, (*GOGOC_REQUESTS[:2], body))[2:]
        header, _, content = answer.partition(b"\r\n")
        assert int(header.removeprefix(b"Content-length: ")) == len(content)
        assert content[:3].isdigit()


def test_version_steps_of_gogoc_come_from_new_ports_and_start_at_240_again() -> None:
    settings = BrokerConfig(versions=("2.0.1",))
    for version, answer in ((b"2.0.2", b"302 "), (b"2.0.1", b"CAPABILITY ")):
        client = RawClient(broker_session(config=settings, peer=GOGOC))
        assert client.ask(b"VERSION=" + version + b"\r\n")[0].startswith(answer)


def test_java_client_is_served_as_it_counts_from_zero_and_ends_lines_with_bs() -> None:
    client = RawClient(broker_session(peer=GOGOC), first_sequence=0)
    answers = run_gogoc(client, (b"VERSION=2.0.0\r\n", b"AUTHENTICATE ANONYMOUS\r\b", *GOGOC_REQUESTS[2:]))
    assert answers[1] == b"200 Success\r\n"
    assert client.session.state is BrokerState.UP


# --- brokers that our client may meet ---

TSPS_OFFER = frame(
    b'200 Success\r\n<tunnel action="info" type="v6udpv4" lifetime="604800">\r\n\t<server>\r\n'
    b'\t\t<address type="ipv4">10.77.0.1</address>\r\n\t\t<address type="ipv6">2001:db8:77:1::1</address>\r\n'
    b'\t</server>\r\n\t<client>\r\n\t\t<address type="ipv4">10.77.0.2</address>\r\n'
    b'\t\t<address type="ipv6">2001:db8:77:1:ffff:a4d:2:c29e</address>\r\n\t\t<keepalive interval="30">\r\n'
    b'\t\t\t<address type="ipv6">2001:db8:77:1::1</address>\r\n\t\t</keepalive>\r\n\t</client>\r\n</tunnel>\r\n'
)


def anonymous(tunnel: TunnelType = TunnelType.V6ANYV4) -> ClientConfig:
    return ClientConfig(client_address=GOGOC, tunnel=tunnel)


def with_password(mechanism: Mechanism) -> ClientConfig:
    return ClientConfig(client_address=CLIENT, user="ann", password="secret", mechanisms=(mechanism,))


def test_tsps_gives_our_client_a_tunnel() -> None:
    broker = RawBroker(anonymous())
    for body in (b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS\r\n", b"200 Success\r\n", TSPS_OFFER, b""):
        broker.answer(body)
    (ready,) = [event for event in broker.events if isinstance(event, TunnelReady)]
    assert ready.tunnel.type is TunnelType.V6UDPV4
    assert str(ready.tunnel.client_ipv6) == "2001:db8:77:1:ffff:a4d:2:c29e"
    assert ready.tunnel.keepalive_interval_s == 30


def test_tsps_recognises_every_datagram_of_our_client() -> None:
    """Its marker test looks at the last byte of the sequence, and N must be the rest of the datagram exactly."""
    broker = RawBroker(with_password(Mechanism.DIGEST_MD5))
    server = DigestServer("lab", random.Random(1))
    datagrams: list[bytes] = []
    answers = [b"CAPABILITY TUNNEL=V6UDPV4 AUTH=DIGEST-MD5\r\n", server.challenge()]
    for _ in range(6):
        datagrams.append(format_header(broker.header) + broker.requests[-1])
        if len(datagrams) == 3:
            answers += [server.check(broker.requests[-1], credentials)[1], b"200 Success\r\n", TSPS_OFFER, b""]
        broker.answer(answers[len(datagrams) - 1])
    assert broker.session.state is ClientState.READY
    for datagram in datagrams:
        assert datagram[0] >> 4 == datagram[3] >> 4 == 0xF
        body = parse_header(datagram)[1]
        if body.startswith(b"Content-length: "):
            header, _, content = body.partition(b"\r\n")
            assert int(header[16:]) == len(content)
            assert b"proxy" not in content


def test_ddtb_glues_its_status_to_rspauth_and_answers_the_next_poll_too() -> None:
    for transport in Transport:
        broker = RawBroker(with_password(Mechanism.DIGEST_MD5), transport)
        server = DigestServer("lab", random.Random(1))
        broker.answer(b"CAPABILITY TUNNEL=V6V4 AUTH=DIGEST-MD5\r\n")
        (response,) = broker.answer(server.challenge())
        rspauth = server.check(response, credentials)[1].strip()
        assert broker.answer(rspauth + b"200 Success\r\n")[0].startswith(b"Content-length: ")


def test_rspauth_and_status_are_read_separate_and_joined() -> None:
    for transport in Transport:
        for together in (True, False):
            broker = RawBroker(with_password(Mechanism.DIGEST_MD5), transport)
            server = DigestServer("lab", random.Random(1))
            broker.answer(b"CAPABILITY TUNNEL=V6V4 AUTH=DIGEST-MD5\r\n")
            (response,) = broker.answer(server.challenge())
            rspauth = server.check(response, credentials)[1]
            if together:
                broker.answer(rspauth + b"200 Success\r\n")
            else:
                assert broker.answer(rspauth) == ([b""] if transport is Transport.UDP else [])
                broker.answer(b"200 Success\r\n")
            assert broker.session.state is ClientState.WAIT_OFFER


def test_digest_uri_of_gogoc_may_be_an_address_with_a_port() -> None:
    client = RawClient(broker_session())
    client.ask(b"VERSION=2.0.2\r\n")
    (challenge,) = client.ask(b"AUTHENTICATE DIGEST-MD5\r\n\0")
    response = DigestClient("ann", "secret", "198.51.100.1:3653", random.Random(3)).respond(challenge)
    (rspauth,) = client.ask(response.strip() + b"\n")
    assert rspauth.endswith(b"==\r\n")
    assert client.ask(b"") == [b"200 Success\r\n"]


@pytest.mark.parametrize("end", [b"", b"\0", b"\r\n"])
def test_list_of_rfc_figure_9_is_followed(end: bytes) -> None:
    broker = RawBroker(anonymous())
    broker.answer(
        b'1302 Unsupported client version\r\n<tunnel action="list" type="broker">\r\n <broker>\r\n'
        b'  <address type="ipv4">1.2.3.4</address>\r\n </broker>\r\n <broker>\r\n'
        b'  <address type="dn">ts1.isp1.com</address>\r\n </broker>\r\n</tunnel>' + end
    )
    assert broker.events[-1] == Redirected(
        brokers=("1.2.3.4", "ts1.isp1.com"), code=1302, text="Unsupported client version"
    )


def test_list_that_would_fill_a_datagram_stays_readable() -> None:
    brokers = tuple(f"192.0.2.{number}" for number in range(50))
    settings = BrokerConfig(redirect_to=brokers)
    client = RawClient(broker_session(config=settings))
    (answer,) = client.ask(b"VERSION=2.0.0\r\n")
    assert answer == b"1200 Redirection\r\n" + format_brokers(brokers)
    broker = RawBroker(anonymous())
    broker.answer(answer)
    (event,) = [event for event in broker.events if isinstance(event, Redirected)]
    assert event.brokers == brokers
