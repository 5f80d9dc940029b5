"""The client against a broker that answers as the test says."""

from __future__ import annotations

import logging
import random
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from lab.errors import LocalProtocolError, RemoteProtocolError, SetupTimeout, TunnelRefused
from lab.tsp import (
    ClientConfig,
    ClientSession,
    ClientState,
    Header,
    Mechanism,
    Phase,
    PhaseChanged,
    Redirected,
    SessionFailed,
    Transport,
    TunnelGone,
    TunnelReady,
    TunnelType,
    format_header,
)
from lab.tsp.framing import frame
from lab.tsp.messages import format_brokers
from tests.pair import CLIENT, RawBroker

CAPABILITY = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
OK = b"200 Success\r\n"
BOTH = list(Transport)


def offer(kind: str = "v6v4", **changed: str) -> bytes:
    parts = {
        "server": '<address type="ipv4">198.51.100.1</address><address type="ipv6">2001:db8:f000::1</address>',
        "client": '<address type="ipv4">192.0.2.10</address><address type="ipv6">2001:db8:f000::2</address>',
    } | changed
    inside = "".join(f"<{name}>{content}</{name}>" for name, content in parts.items())
    return f'200 Success\r\n<tunnel action="info" type="{kind}" lifetime="1440">{inside}</tunnel>\r\n'.encode()


def config(*mechanisms: Mechanism, tunnel: TunnelType = TunnelType.V6ANYV4) -> ClientConfig:
    if not mechanisms:
        return ClientConfig(client_address=CLIENT, tunnel=tunnel)
    return ClientConfig(client_address=CLIENT, tunnel=tunnel, user="ann", password="secret", mechanisms=mechanisms)


def failure(broker: RawBroker) -> SessionFailed:
    (event,) = [event for event in broker.events if isinstance(event, SessionFailed)]
    assert broker.session.state is ClientState.FAILED
    assert broker.session.phase is None
    assert broker.session.timer() is None
    return event


def tunnel(broker: RawBroker) -> TunnelReady:
    (event,) = [event for event in broker.events if isinstance(event, TunnelReady)]
    assert broker.session.state is ClientState.READY
    return event


def test_anonymous_set_up_sends_these_bytes() -> None:
    broker = RawBroker(config())
    for body in (CAPABILITY, OK, frame(offer()), b""):
        broker.answer(body)
    assert broker.requests == [
        b"VERSION=2.0.0\r\n",
        b"AUTHENTICATE ANONYMOUS\r\n",
        frame(
            b'<tunnel action="create" type="v6anyv4">\r\n <client>\r\n  <address type="ipv4">192.0.2.10</address>\r\n'
            b'  <keepalive interval="30">\r\n   <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n'
            b"</tunnel>\r\n"
        ),
        b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n',
    ]
    ready = tunnel(broker).tunnel
    assert (ready.type, ready.client_ipv4, ready.lifetime_min) == (TunnelType.V6V4, CLIENT, 1440)
    assert (ready.server_ipv6, ready.client_ipv6) == (IPv6Address("2001:db8:f000::1"), IPv6Address("2001:db8:f000::2"))
    assert (ready.prefix, ready.keepalive_interval_s, ready.keepalive_address) == (None, None, None)


def test_phases_follow_the_answers_and_carry_their_times() -> None:
    broker = RawBroker(config())
    for number, body in enumerate((CAPABILITY, OK, frame(offer()), b""), start=1):
        broker.now = float(number)
        broker.answer(body)
    assert [event for event in broker.events if isinstance(event, PhaseChanged)] == [
        PhaseChanged(phase=Phase.VERSION, at=0.0),
        PhaseChanged(phase=Phase.AUTH, at=1.0),
        PhaseChanged(phase=Phase.CREATE, at=2.0),
        PhaseChanged(phase=Phase.ACCEPT, at=3.0),
        PhaseChanged(phase=None, at=4.0),
    ]


def test_over_tcp_the_tunnel_is_ready_without_an_answer_to_accept() -> None:
    broker = RawBroker(config(), Transport.TCP)
    for body in (CAPABILITY, OK, frame(offer())):
        broker.answer(body)
    assert broker.requests[-1] == b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'
    tunnel(broker)
    broker.answer(frame(OK))  # harmless, whoever sends it
    broker.answer(b"junk\r\n")
    broker.answer(b"x" * 20_000)
    broker.session.eof(broker.now)
    tunnel(broker)


def test_over_tcp_an_error_after_accept_still_counts() -> None:
    broker = RawBroker(config(), Transport.TCP)
    for body in (CAPABILITY, OK, frame(offer()), frame(b"310 no device\r\n")):
        broker.answer(body)
    event = failure(broker)
    assert isinstance(event.error, TunnelRefused)
    assert (event.error.code, event.phase) == (310, Phase.ACCEPT)


def test_plain_over_udp_waits_for_the_empty_answer_before_the_password() -> None:
    broker = RawBroker(config(Mechanism.PLAIN))
    assert broker.answer(CAPABILITY) == [b"AUTHENTICATE PLAIN\r\n"]
    assert broker.answer(b"") == [b"\0ann\0secret\r\n"]
    assert broker.answer(OK)[0].startswith(b"Content-length: ")


def test_plain_over_tcp_waits_for_nothing_and_writes_twice() -> None:
    broker = RawBroker(config(Mechanism.PLAIN), Transport.TCP)
    assert broker.answer(CAPABILITY) == [b"AUTHENTICATE PLAIN\r\n", b"\0ann\0secret\r\n"]
    assert broker.answer(OK)[0].startswith(b"Content-length: ")


@pytest.mark.parametrize("transport", BOTH)
def test_mechanisms_are_tried_in_the_order_of_preference(transport: Transport) -> None:
    broker = RawBroker(config(Mechanism.DIGEST_MD5, Mechanism.PLAIN), transport)
    assert broker.answer(b"CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS AUTH=PLAIN\r\n")[0] == b"AUTHENTICATE PLAIN\r\n"
    default = ClientConfig(client_address=CLIENT, user="ann", password="secret")
    assert default.chosen_mechanisms() == (Mechanism.DIGEST_MD5, Mechanism.PLAIN)
    assert RawBroker(default, transport).answer(CAPABILITY) == [b"AUTHENTICATE DIGEST-MD5\r\n"]


@pytest.mark.parametrize("success", [b"", b"200", b"200 anything\n", b"OK Authentication successful\r\n", b"200 ok\0"])
def test_success_after_authentication_is_read_in_every_known_form(success: bytes) -> None:
    broker = RawBroker(config())
    broker.answer(CAPABILITY)
    broker.answer(success)
    assert broker.session.state is ClientState.WAIT_OFFER


@pytest.mark.parametrize("success", [b"", frame(OK), OK])
def test_accept_is_answered_in_every_known_form(success: bytes) -> None:
    broker = RawBroker(config())
    for body in (CAPABILITY, OK, frame(offer()), success):
        broker.answer(body)
    tunnel(broker)


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize("framed", [True, False])
def test_error_to_create_counts_with_and_without_content_length(framed: bool, transport: Transport) -> None:
    broker = RawBroker(config(), transport)
    broker.answer(CAPABILITY)
    broker.answer(OK)
    error = b"310 Failed to confirm client tunnel\r\n"
    broker.answer(frame(error) if framed else error)
    event = failure(broker)
    assert isinstance(event.error, TunnelRefused)
    assert (event.error.code, event.error.reason) == (310, "Failed to confirm client tunnel")
    assert event.phase is Phase.CREATE


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize("answers", range(3))
@pytest.mark.parametrize("framed", [True, False])
def test_redirection_is_understood_in_every_phase(answers: int, framed: bool, transport: Transport) -> None:
    broker = RawBroker(config(), transport)
    for body in (CAPABILITY, OK)[:answers]:
        broker.answer(body)
    redirection = b"1302 Unsupported client version\r\n" + format_brokers(("192.0.2.1", "b.example"))
    broker.answer(frame(redirection) if framed else redirection + b"\0")
    assert broker.events[-1] == Redirected(
        brokers=("192.0.2.1", "b.example"), code=1302, text="Unsupported client version"
    )
    assert broker.session.state is ClientState.REDIRECTED
    assert broker.session.timer() is None


def test_redirection_without_a_list_is_a_refusal() -> None:
    broker = RawBroker(config())
    broker.answer(b"1302 go away\r\n")
    event = failure(broker)
    assert isinstance(event.error, TunnelRefused)
    assert event.error.code == 1302


def test_unsupported_version_is_a_refusal() -> None:
    broker = RawBroker(config())
    broker.answer(b"302 Unsupported client version\r\n")
    event = failure(broker)
    assert isinstance(event.error, TunnelRefused)
    assert (event.error.code, event.phase) == (302, Phase.VERSION)


@pytest.mark.parametrize(
    ("wanted", "mechanisms", "line", "code"),
    [
        (TunnelType.V6UDPV4, (), b"CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS\r\n", 303),
        (TunnelType.V6V4, (), b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS\r\n", 303),
        (TunnelType.V6ANYV4, (), b"CAPABILITY TUNNEL=V4V6 AUTH=ANONYMOUS\r\n", 303),
        (TunnelType.V6V4, (), b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", 300),
        (TunnelType.V6V4, (Mechanism.DIGEST_MD5,), b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", 300),
        (TunnelType.V6V4, (), b"CAPABILITY\r\n", 303),
    ],
)
def test_nothing_is_sent_to_a_broker_that_has_not_what_is_wanted(
    wanted: TunnelType, mechanisms: tuple[Mechanism, ...], line: bytes, code: int
) -> None:
    broker = RawBroker(config(*mechanisms, tunnel=wanted))
    assert broker.answer(line) == []
    event = failure(broker)
    assert isinstance(event.error, TunnelRefused)
    assert event.error.code == code


@pytest.mark.parametrize("transport", BOTH)
def test_offer_that_was_not_asked_for_is_rejected_once(transport: Transport) -> None:
    broker = RawBroker(config(tunnel=TunnelType.V6V4), transport)
    broker.answer(CAPABILITY)
    broker.answer(OK)
    assert broker.answer(frame(offer("v6udpv4"))) == [frame(b'<tunnel action="reject"></tunnel>\r\n')]
    assert isinstance(failure(broker).error, RemoteProtocolError)


def test_v6udpv4_over_tcp_is_rejected() -> None:
    broker = RawBroker(config(), Transport.TCP)
    broker.answer(CAPABILITY)
    broker.answer(OK)
    assert broker.answer(frame(offer("v6udpv4"))) == [frame(b'<tunnel action="reject"></tunnel>\r\n')]
    assert "TCP" in str(failure(broker).error)


@pytest.mark.parametrize(
    "content",
    [
        OK,
        b"200 Success\r\n<tunnel",
        offer("v6anyv4"),
        offer("v4v6"),
        offer("teredo"),
        offer(server=""),
        offer(server='<address type="ipv4">198.51.100.1</address>'),
        offer(client='<address type="ipv6">2001:db8:f000::2</address>'),
        offer(client='<address type="ipv4">192.0.2.10</address><address type="ipv6">ff02::1</address>'),
        offer(client='<address type="ipv4">192.0.2.10</address><address type="ipv6">::1</address>'),
        b'200 Success\r\n<tunnel action="accept"/>\r\n',
        b'200 Success\r\n<!DOCTYPE tunnel><tunnel action="info"/>\r\n',
    ],
)
def test_offer_that_makes_no_sense_is_the_brokers_fault(content: bytes) -> None:
    broker = RawBroker(config())
    for body in (CAPABILITY, OK, frame(content)):
        broker.answer(body)
    event = failure(broker)
    assert isinstance(event.error, RemoteProtocolError)
    assert event.phase is Phase.CREATE


def test_offer_with_prefix_keepalive_and_white_space_is_read() -> None:
    wanted = ClientConfig(client_address=CLIENT, prefix_length=56, keepalive_interval_s=10)
    broker = RawBroker(wanted)
    broker.answer(CAPABILITY)
    (create,) = broker.answer(OK)
    assert b'<keepalive interval="10">' in create
    assert b'<prefix length="56"/>' in create
    client = (
        '<address type="ipv4"> 192.0.2.10\n</address><address type="ipv6">\n 2001:db8:f000::2 </address>'
        '<router><prefix length="56">\n2001:0db8:f100:0000:0000:0000:0000:0000 </prefix></router>'
        '<keepalive interval="40"><address type="ipv6"> 2001:db8:f000::1 </address></keepalive>'
    )
    broker.answer(frame(offer(client=client)))
    broker.answer(b"")
    ready = tunnel(broker).tunnel
    assert ready.prefix == IPv6Network("2001:db8:f100::/56")
    assert (ready.keepalive_interval_s, ready.keepalive_address) == (40, IPv6Address("2001:db8:f000::1"))


def test_keepalive_without_address_goes_to_the_brokers_end() -> None:
    broker = RawBroker(config())
    client = offer(
        client=offer().decode().partition("<client>")[2].partition("</client>")[0] + '<keepalive interval="9"/>'
    )
    for body in (CAPABILITY, OK, frame(client), b""):
        broker.answer(body)
    ready = tunnel(broker).tunnel
    assert (ready.keepalive_interval_s, ready.keepalive_address) == (9, ready.server_ipv6)


@pytest.mark.parametrize("transport", BOTH)
def test_rspauth_must_come_before_success(transport: Transport) -> None:
    broker = RawBroker(config(Mechanism.DIGEST_MD5), transport)
    broker.answer(CAPABILITY)
    broker.answer(b"cmVhbG09bGFiLG5vbmNlPTEscW9wPWF1dGgsYWxnb3JpdGhtPW1kNS1zZXNzLGNoYXJzZXQ9dXRmLTg=\r\n")
    broker.answer(OK)
    assert isinstance(failure(broker).error, RemoteProtocolError)


@pytest.mark.parametrize("answers", range(4))
def test_silence_fails_in_the_phase_it_falls_in(answers: int) -> None:
    broker = RawBroker(config())
    for body in (CAPABILITY, OK, frame(offer()))[:answers]:
        broker.answer(body)
    sent = broker.pass_time(1000.0)
    event = failure(broker)
    assert isinstance(event.error, SetupTimeout)
    assert event.error.transmissions == (8 if answers else 3)
    assert [at for at, _ in sent] == ([1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0] if answers else [1.0, 3.0])
    assert {body for _, body in sent} == {broker.requests[-1]}
    assert event.phase is list(Phase)[answers]
    assert broker.session.counters.retransmissions == len(sent)


def test_silence_over_tcp_fails_after_the_reply_timeout() -> None:
    broker = RawBroker(config(), Transport.TCP)
    broker.answer(CAPABILITY)
    assert broker.pass_time(29.9) == []
    assert broker.session.state is ClientState.WAIT_AUTHENTICATED
    broker.pass_time(0.2)
    assert isinstance(failure(broker).error, SetupTimeout)


def test_closed_connection_fails_and_says_what_was_waited_for() -> None:
    broker = RawBroker(config(), Transport.TCP)
    broker.answer(CAPABILITY)
    broker.session.eof(1.0)
    broker.take()
    assert "waiting for authenticated" in str(failure(broker).error)


def test_last_line_before_the_connection_closes_counts_without_its_end() -> None:
    broker = RawBroker(config(), Transport.TCP)
    broker.answer(b"302 Unsupported client version")
    broker.session.eof(1.0)
    broker.take()
    assert isinstance(failure(broker).error, TunnelRefused)


def test_endless_line_over_tcp_ends_the_session_not_the_memory() -> None:
    broker = RawBroker(config(), Transport.TCP)
    for _ in range(100):
        broker.answer(b"C" * 1000)
    assert isinstance(failure(broker).error, RemoteProtocolError)


def test_data_packets_and_other_peoples_numbers_change_nothing() -> None:
    broker = RawBroker(config())
    for datagram in (b"\x60" + bytes(47), b"", b"310 no header", format_header(Header(999, 0)) + b"300 forged\r\n"):
        broker.session.receive(datagram, 0.0)
    assert broker.take() == []
    assert broker.session.state is ClientState.WAIT_CAPABILITY
    assert broker.session.counters.ignored == 4


@pytest.mark.parametrize("answer", [b"", OK, frame(OK)])
def test_tunnel_can_be_deleted(answer: bytes) -> None:
    broker = RawBroker(config())
    for body in (CAPABILITY, OK, frame(offer()), b""):
        broker.answer(body)
    broker.session.delete(broker.now)
    assert broker.take() == [frame(b'<tunnel action="delete"></tunnel>\r\n')]
    broker.answer(answer)
    assert broker.events[-1] == TunnelGone()


def test_calls_out_of_turn_are_mistakes_of_ours() -> None:
    session = ClientSession(config(), Transport.UDP, rng=random.Random(1))
    assert session.timer() is None
    session.receive(format_header(Header(240, 0)) + CAPABILITY, 0.0)
    session.handle_timer(0.0)
    assert session.state is ClientState.START
    with pytest.raises(LocalProtocolError):
        session.delete(0.0)
    session.start(0.0)
    with pytest.raises(LocalProtocolError):
        session.start(0.0)


def test_password_shows_neither_in_repr_nor_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broker = RawBroker(config(Mechanism.PLAIN))
    for body in (CAPABILITY, b"", OK, frame(offer()), b""):
        broker.answer(body)
    assert "READY" in caplog.text
    assert "secret" not in caplog.text + repr(broker.session.config) + repr(broker.events) + repr(broker.session)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mechanisms": ()},
        {"mechanisms": (Mechanism.PLAIN,)},
        {"user": "ann"},
        {"prefix_length": 0},
        {"prefix_length": 129},
        {"keepalive_interval_s": 0},
        {"user": "a\0b", "password": "secret"},
        {"user": "", "password": "secret"},
        {"version": "2.0.0\r\nX"},
        {"server_name": 'a"b'},
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ClientConfig(client_address=IPv4Address("192.0.2.10"), **wrong)  # type: ignore[arg-type]
