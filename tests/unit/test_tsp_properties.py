"""Whatever bytes arrive, parsers raise one documented error and sessions raise nothing."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import RemoteProtocolError
from lab.tsp import (
    BrokerState,
    ClientConfig,
    ClientSession,
    ClientState,
    Header,
    Mechanism,
    Transport,
    TunnelAccepted,
    TunnelRequested,
    classify,
    digest_ha1,
    format_header,
    parse_header,
)
from lab.tsp.framing import MAX_MESSAGE, MessageStream, frame, parse_reply, unframe
from lab.tsp.lines import parse_authenticate, parse_capability, parse_version, tidy
from lab.tsp.messages import (
    Action,
    Endpoint,
    Keepalive,
    Router,
    TunnelMessage,
    format_brokers,
    format_tunnel,
    parse_brokers,
    parse_tunnel,
)
from lab.tsp.sasl import DigestClient, DigestServer, decode_line, parse_directives, parse_plain
from lab.tsp.status import parse_status
from tests.pair import CLIENT, broker_session, credentials, tunnel_for

WORDS = [
    *(b"VERSION=2.0.0", b"CAPABILITY ", b"TUNNEL=V6V4 ", b"AUTH=PLAIN ", b"AUTHENTICATE ", b"ANONYMOUS", b"DIGEST-MD5"),
    *(b"Content-length: ", b"35", b"200 Success", b"300", b"1302 ", b"OK", b"\r\n", b"\0", b"\b", b" ", b"\r", b"\n"),
    *(b"<tunnel", b' action="create"', b' action="info"', b' type="v6v4"', b">", b"/>", b"</tunnel>", b"<client>"),
    *(b"</client>", b'<address type="ipv4">192.0.2.1</address>', b'<address type="ipv6">::1</address>', b"<router>"),
    *(b'<prefix length="64"/>', b"<!DOCTYPE x>", b"<?xml version='1.0' encoding='utf-7'?>", b"&amp;", b"&#0;", b"\xff"),
    *(
        b"ECHO REQUEST",
        b"\0ann\0secret",
        b"dGVzdA==",
        b"cnNwYXV0aD0=",
        b'realm="lab",',
        b"nonce=1,",
        b"\xf0\x00\x00\xf0",
    ),
    *(frame(b'<tunnel action="accept"></tunnel>\r\n'), frame(b'<tunnel action="delete"></tunnel>\r\n')),
]
noise = st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join))


def digest_response(body: bytes) -> object:
    server = DigestServer("lab", random.Random(1))
    return server.check(body, credentials)


def digest_verify(body: bytes) -> object:
    client = DigestClient("ann", "secret", "broker", random.Random(1))
    client.respond(DigestServer("lab", random.Random(1)).challenge())
    return client.verify(body)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "header": parse_header,
    "version": parse_version,
    "capability": parse_capability,
    "authenticate": parse_authenticate,
    "status": lambda body: parse_status(tidy(body)),
    "frame": unframe,
    "reply": parse_reply,
    "tunnel": parse_tunnel,
    "brokers": parse_brokers,
    "plain": parse_plain,
    "base64": decode_line,
    "directives": lambda body: parse_directives(body.decode("latin-1")),
    "challenge": DigestClient("ann", "secret", "broker", random.Random(1)).respond,
    "response": digest_response,
    "rspauth": digest_verify,
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40)
@given(body=noise)
def test_parsers_raise_nothing_but_the_peers_error(name: str, body: bytes) -> None:
    with suppress(RemoteProtocolError):
        PARSERS[name](body)


@given(text=st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_sasl_text_of_any_kind_raises_nothing_but_the_peers_error(text: bytes) -> None:
    for parser in (digest_response, digest_verify, PARSERS["challenge"]):
        with suppress(RemoteProtocolError):
            parser(base64.b64encode(b'realm="lab",nonce=1,qop=auth,algorithm=md5-sess,' + text))


@given(datagram=st.binary(min_size=8, max_size=64))
def test_header_is_written_back_as_it_was_read(datagram: bytes) -> None:
    if classify(datagram) == "signalling":
        header, body = parse_header(datagram)
        assert format_header(header) + body == datagram


@given(sequence=st.integers(0, 2**28 - 1), timestamp=st.integers(0, 2**32 - 1), body=st.binary(max_size=20))
def test_header_survives_the_wire(sequence: int, timestamp: int, body: bytes) -> None:
    assert parse_header(format_header(Header(sequence, timestamp)) + body) == (Header(sequence, timestamp), body)


ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)
names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, categories=["L", "N", "P", "S"]), min_size=1)
prefixes = st.builds(lambda address, length: IPv6Network((address, length), strict=False), ipv6, st.integers(1, 128))
routers = st.one_of(
    st.builds(lambda length: Router(prefix_length=length), st.integers(1, 128)),
    st.builds(
        lambda prefix, servers: Router(prefix_length=prefix.prefixlen, prefix=prefix, dns_servers=tuple(servers)),
        prefixes,
        st.lists(names, max_size=3),
    ),
)
endpoints = st.builds(
    Endpoint,
    ipv4=st.none() | ipv4,
    ipv6=st.none() | ipv6,
    router=st.none() | routers,
    keepalive=st.none()
    | st.builds(Keepalive, interval_s=st.none() | st.integers(0, 10**9 - 1), address=st.none() | ipv6),
)
messages = st.builds(
    TunnelMessage,
    action=st.sampled_from(Action),
    type=st.none() | st.sampled_from(["v6v4", "v6udpv4", "v6anyv4", "v4v6", "other"]),
    lifetime_min=st.none() | st.integers(0, 10**9 - 1),
    proxy=st.booleans(),
    client=st.none() | endpoints,
    server=st.none() | endpoints,
)


@settings(max_examples=60)
@given(message=messages)
def test_message_survives_the_wire(message: TunnelMessage) -> None:
    text = format_tunnel(message)
    assert parse_tunnel(unframe(frame(text))) == message


@given(brokers=st.lists(names, unique=True, max_size=10))
def test_broker_list_survives_the_wire(brokers: list[str]) -> None:
    assert parse_brokers(format_brokers(tuple(brokers))) == tuple(brokers)


@given(pieces=st.lists(noise, max_size=6), lists_follow=st.booleans())
def test_stream_cuts_what_it_is_fed_and_nothing_else(pieces: list[bytes], lists_follow: bool) -> None:
    stream = MessageStream(lists_follow=lists_follow)
    out = b""
    for piece in [*pieces, None]:
        if piece is None:
            stream.end()
        else:
            stream.feed(piece, 0.0)
        while (message := stream.next()) is not None:
            assert message
            out += message
    blanks = b" \t\r\n\0\b"
    assert out.translate(None, blanks) == b"".join(pieces).translate(None, blanks)


users = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(user=users, password=users, seed=st.integers(0, 1000))
def test_digest_passes_for_the_right_password_and_no_other(user: str, password: str, seed: int) -> None:
    rng = random.Random(seed)
    known = {user: digest_ha1(user, "lab", password)}
    server, client = DigestServer("lab", rng), DigestClient(user, password, "broker", rng)
    found, rspauth = server.check(client.respond(server.challenge()), known.get)
    assert found == user
    assert client.verify(rspauth) == b""
    server, client = DigestServer("lab", rng), DigestClient(user, password + "x", "broker", rng)
    with pytest.raises(RemoteProtocolError):
        server.check(client.respond(server.challenge()), known.get)


def data(transport: Transport, number: int, body: bytes) -> bytes:
    return body if transport is Transport.TCP else format_header(Header(240 + number, number)) + body


@settings(max_examples=60)
@given(
    bodies=st.lists(noise, max_size=10),
    raw=st.booleans(),
    transport=st.sampled_from(Transport),
    start=st.integers(0, 4),
)
def test_broker_survives_any_client(bodies: list[bytes], raw: bool, transport: Transport, start: int) -> None:
    polite = [
        b"VERSION=2.0.0\r\n",
        b"AUTHENTICATE ANONYMOUS\r\n",
        frame(
            b'<tunnel action="create" type="v6v4"><client><address type="ipv4">192.0.2.10</address></client></tunnel>'
        ),
        frame(b'<tunnel action="accept"></tunnel>'),
    ]
    session = broker_session(transport)
    sent = received = 0
    for number, body in enumerate(polite[:start] + bodies):
        piece = body if raw and number >= start else data(transport, number, body)
        received += len(piece)
        session.receive(piece, float(number))
        while (event := session.next_event()) is not None:
            if isinstance(event, TunnelRequested) and session.state is BrokerState.DECIDING:
                session.offer(tunnel_for(event.request, CLIENT), float(number))
            elif isinstance(event, TunnelAccepted) and session.state is BrokerState.CONFIRMING:
                session.confirm(float(number))
        for out in session.to_send(float(number)):
            sent += len(out)
        session.handle_timer(float(number))
    session.eof(100.0)
    session.handle_timer(1000.0)
    session.to_send(1000.0)
    assert session.counters.bytes_received == received
    assert session.counters.bytes_sent >= sent


@settings(max_examples=60)
@given(
    bodies=st.lists(noise, max_size=10),
    raw=st.booleans(),
    transport=st.sampled_from(Transport),
    mechanism=st.sampled_from(Mechanism),
)
def test_client_survives_any_broker(bodies: list[bytes], raw: bool, transport: Transport, mechanism: Mechanism) -> None:
    config = ClientConfig(client_address=CLIENT, user="ann", password="secret", mechanisms=(mechanism,))
    session = ClientSession(config, transport, rng=random.Random(1))
    session.start(0.0)
    header = b""
    for number, body in enumerate([b"CAPABILITY TUNNEL=V6V4 AUTH=" + mechanism.value.encode() + b"\r\n", *bodies]):
        for out in session.to_send(float(number)):
            header = out[:8]
        session.receive(body if transport is Transport.TCP or (raw and number) else header + body, float(number))
        session.handle_timer(float(number) + 0.5)
    session.eof(100.0)
    for _ in range(20):
        session.to_send(1000.0)
        session.handle_timer(10_000.0)
    assert (
        session.state in (ClientState.FAILED, ClientState.READY, ClientState.REDIRECTED) or transport is Transport.UDP
    )


@pytest.mark.parametrize("size", [MAX_MESSAGE - 1, MAX_MESSAGE, 65_000])
@pytest.mark.parametrize("filler", [b"<a>", b"<!--", b" ", b"\0", b"&amp;", b"9"])
def test_oversized_messages_are_answered_with_an_error_at_most(size: int, filler: bytes) -> None:
    session = broker_session()
    body = frame(b'<tunnel action="create">' + filler * (size // len(filler)))
    for number, request in enumerate((b"VERSION=2.0.0\r\n", b"AUTHENTICATE ANONYMOUS\r\n", body)):
        session.receive(data(Transport.UDP, number, request), 0.0)
    assert session.state is BrokerState.CLOSED
    assert sum(len(out) for out in session.to_send(0.0)) < 1000
