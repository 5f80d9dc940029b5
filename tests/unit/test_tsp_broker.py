"""The broker against a client that sends what the test says, gogoc's bytes among others."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

import pytest

from lab.errors import LocalProtocolError, RemoteProtocolError, SetupTimeout, TunnelRefused
from lab.tsp import (
    Authenticated,
    BrokerConfig,
    BrokerSession,
    BrokerState,
    Closed,
    Header,
    Mechanism,
    Phase,
    SessionFailed,
    SessionRestarted,
    Status,
    Transport,
    TunnelAccepted,
    TunnelDeleted,
    TunnelParameters,
    TunnelRejected,
    TunnelRequest,
    TunnelRequested,
    TunnelType,
    decide_tunnel_type,
    format_header,
)
from lab.tsp.broker import MAX_QUEUED
from lab.tsp.framing import frame, parse_reply
from lab.tsp.messages import format_brokers, parse_tunnel
from lab.tsp.sasl import DigestClient
from tests.pair import CLIENT, PRIVATE, SERVER, RawClient, broker_session, tunnel_for

VERSION = b"VERSION=2.0.2\r\n"
ANONYMOUS = b"AUTHENTICATE ANONYMOUS\r\n\0"
CAPABILITY = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
OK = b"200 Success\r\n"
ACCEPT = frame(b'<tunnel action="accept"></tunnel>\r\n')
BOTH = list(Transport)

E = TypeVar("E")


def create(kind: str = "v6anyv4", address: str = str(CLIENT), *, proxy: str = "no", inside: str = "") -> bytes:
    return frame(
        f'<tunnel action="create" type="{kind}" proxy="{proxy}">\r\n <client>\r\n  <address type="ipv4">{address}'
        f'</address>\r\n  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n'
        f"{inside} </client>\r\n</tunnel>\r\n".encode()
    )


def command(action: str) -> bytes:
    return frame(f'<tunnel action="{action}"></tunnel>\r\n'.encode())


def only(client: RawClient, kind: type[E]) -> E:
    (event,) = [event for event in client.events if isinstance(event, kind)]
    return event


def begun(transport: Transport = Transport.UDP, config: BrokerConfig | None = None) -> RawClient:
    """A client that has sent VERSION."""
    client = RawClient(broker_session(transport, config))
    client.ask(VERSION)
    return client


def asked(transport: Transport = Transport.UDP, body: bytes | None = None) -> RawClient:
    """An anonymous client that has sent its create message."""
    client = begun(transport)
    client.ask(ANONYMOUS)
    client.ask(body or create())
    return client


def offered(transport: Transport = Transport.UDP) -> RawClient:
    client = asked(transport)
    request = only(client, TunnelRequested).request
    client.session.offer(tunnel_for(request, CLIENT), client.now)
    client.answers()
    return client


def up(transport: Transport = Transport.UDP) -> RawClient:
    client = offered(transport)
    client.ask(ACCEPT)
    client.session.confirm(client.now)
    client.answers()
    assert client.session.state is BrokerState.UP
    return client


# --- version, capability, authentication ---


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize(
    "version", [b"VERSION=2.0.0\r\n", b"VERSION=2.0.1\r\n\0", b"version=2.0.2\n", b"VERSION=2.0\r\n"]
)
def test_version_two_is_answered_with_the_capabilities(version: bytes, transport: Transport) -> None:
    assert RawClient(broker_session(transport)).ask(version) == [CAPABILITY]


@pytest.mark.parametrize("transport", BOTH)
def test_other_versions_are_answered_302_and_the_session_is_over(transport: Transport) -> None:
    client = RawClient(broker_session(transport))
    assert client.ask(b"VERSION=1.0.1\r\n") == [b"302 Unsupported client version\r\n"]
    assert only(client, SessionFailed).phase is Phase.VERSION
    assert client.session.closed
    assert isinstance(client.events[-1], Closed)


@pytest.mark.parametrize("transport", BOTH)
def test_anonymous_is_answered_200(transport: Transport) -> None:
    client = begun(transport)
    assert client.ask(ANONYMOUS) == [OK]
    assert only(client, Authenticated) == Authenticated(user=None, mechanism=Mechanism.ANONYMOUS)


def test_plain_over_udp_is_answered_by_an_empty_datagram_then_200() -> None:
    client = begun()
    assert client.ask(b"AUTHENTICATE PLAIN\r\n\0") == [b""]
    assert client.ask(b"\0ann\0secret\r\n") == [OK]
    assert only(client, Authenticated) == Authenticated(user="ann", mechanism=Mechanism.PLAIN)
    assert client.session.user == "ann"


def test_plain_over_tcp_is_answered_by_nothing_then_200() -> None:
    client = begun(Transport.TCP)
    assert client.ask(b"AUTHENTICATE PLAIN\r\n\0") == []
    assert client.ask(b"\0ann\0secret\r\n") == [OK]
    assert client.session.user == "ann"


def test_plain_over_tcp_in_one_segment_is_read_alike() -> None:
    client = RawClient(broker_session(Transport.TCP))
    assert client.ask(VERSION + b"AUTHENTICATE PLAIN\r\n\0\0ann\0secret\r\n") == [CAPABILITY, OK]
    assert client.session.user == "ann"


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize(
    "bodies",
    [
        (b"AUTHENTICATE PLAIN\r\n", b"\0ann\0wrong\r\n"),
        (b"AUTHENTICATE PLAIN\r\n", b"\0bob\0secret\r\n"),
        (b"AUTHENTICATE DIGEST-MD5\r\n", b"dGVzdA==\r\n"),
        (b"AUTHENTICATE DIGEST-MD5\r\n", b"\xff\xff\r\n"),
        (b"AUTHENTICATE PASSDSS-3DES-1\r\n",),
    ],
)
def test_wrong_credentials_are_answered_300_as_a_bare_line(bodies: tuple[bytes, ...], transport: Transport) -> None:
    client = begun(transport)
    answers: list[bytes] = []
    for body in bodies:
        answers = client.ask(body)
    assert answers[0].startswith(b"300 ")
    assert answers[0].endswith(b"\r\n")
    assert only(client, SessionFailed).phase is Phase.AUTH
    assert client.session.user is None
    assert client.session.state is BrokerState.CLOSED


def test_mechanism_that_is_not_offered_is_refused() -> None:
    client = begun(config=BrokerConfig(mechanisms=(Mechanism.DIGEST_MD5,)))
    assert client.ask(ANONYMOUS)[0].startswith(b"300 ")


def digest(client: RawClient, *, nul: bytes = b"") -> list[bytes]:
    """Carry DIGEST-MD5 as far as the response; gives the answer to it."""
    (challenge,) = client.ask(b"AUTHENTICATE DIGEST-MD5\r\n" + nul)
    return client.ask(DigestClient("ann", "secret", "198.51.100.1", random.Random(1)).respond(challenge))


def test_digest_over_udp_gives_rspauth_and_200_to_the_poll() -> None:
    client = begun()
    (rspauth,) = digest(client)
    assert rspauth.endswith(b"==\r\n")
    assert client.ask(b"") == [OK]
    assert client.ask(b"") == [b""]
    assert client.session.user == "ann"


def test_digest_over_udp_needs_no_poll_before_create() -> None:
    client = begun()
    digest(client)
    assert client.ask(create()) == []
    assert only(client, TunnelRequested).request.user == "ann"


def test_digest_over_tcp_gives_rspauth_and_200_as_two_writes() -> None:
    client = begun(Transport.TCP)
    rspauth, success = digest(client)
    assert rspauth.endswith(b"==\r\n")
    assert success == OK


def test_digest_over_tcp_pauses_for_gogoc_which_reads_only_once() -> None:
    client = begun(Transport.TCP)
    (rspauth,) = digest(client, nul=b"\0")
    assert rspauth.endswith(b"==\r\n")
    assert client.session.timer() == client.now + 0.3
    assert client.pass_time(0.29) == []
    assert client.pass_time(0.02) == [OK]


def test_digest_response_recorded_from_another_session_is_worthless() -> None:
    first, second = (
        begun(),
        RawClient(
            BrokerSession(BrokerConfig(), Transport.UDP, CLIENT, rng=random.Random(8), credentials=lambda _: bytes(16))
        ),
    )
    second.ask(VERSION)
    (challenge,) = first.ask(b"AUTHENTICATE DIGEST-MD5\r\n")
    recorded = DigestClient("ann", "secret", "broker", random.Random(1)).respond(challenge)
    second.ask(b"AUTHENTICATE DIGEST-MD5\r\n")
    assert second.ask(recorded)[0].startswith(b"300 ")


# --- create, offer, accept ---


@pytest.mark.parametrize("transport", BOTH)
def test_create_is_handed_to_the_driver(transport: Transport) -> None:
    client = asked(transport, create("v6v4", str(PRIVATE), inside='<router><prefix length="56"/></router>'))
    assert only(client, TunnelRequested).request == TunnelRequest(
        type=TunnelType.V6V4,
        requested=TunnelType.V6V4,
        client_address=PRIVATE,
        behind_nat=True,
        router=True,
        prefix_length=56,
        keepalive_interval_s=30,
        user=None,
    )


def test_offer_is_framed_and_has_both_addresses_of_both_ends() -> None:
    client = asked()
    request = only(client, TunnelRequested).request
    client.session.offer(replace(tunnel_for(request, CLIENT), keepalive_interval_s=20), client.now)
    (answer,) = client.answers()
    assert answer.startswith(b"Content-length: ")
    assert b"\r\n200 Success\r\n<tunnel action=" in answer
    message = parse_tunnel(parse_reply(answer).content)
    assert message.type == "v6v4"
    assert message.server is not None
    assert (message.server.ipv4, message.server.ipv6) == (SERVER, IPv6Address("2001:db8:f000::1"))
    assert message.client is not None
    assert message.client.ipv4 == CLIENT
    assert message.client.keepalive is not None
    assert message.client.keepalive.address == IPv6Address("2001:db8:f000::1")


@pytest.mark.parametrize(("transport", "answers"), [(Transport.UDP, [b""]), (Transport.TCP, [])])
def test_accept_is_answered_when_the_tunnel_is_up(transport: Transport, answers: list[bytes]) -> None:
    client = offered(transport)
    assert client.ask(ACCEPT) == []
    only(client, TunnelAccepted)
    client.session.confirm(client.now)
    assert client.answers() == answers
    assert client.session.state is BrokerState.UP
    assert client.session.timer() is None


@pytest.mark.parametrize("transport", BOTH)
def test_refusal_of_the_driver_is_framed(transport: Transport) -> None:
    client = asked(transport)
    client.session.refuse(Status.NO_MORE_TUNNELS, None, client.now)
    assert client.answers() == [frame(b"301 No more tunnels available\r\n")]
    assert client.session.state is BrokerState.CLOSED


@pytest.mark.parametrize("transport", BOTH)
def test_driver_can_refuse_after_accept_when_the_tunnel_cannot_be_made(transport: Transport) -> None:
    client = offered(transport)
    client.ask(ACCEPT)
    client.session.refuse(310, "no device", client.now)
    assert client.answers() == [frame(b"310 no device\r\n")]


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (create("v4v6"), 303),
        (create("teredo"), 303),
        (create(proxy="yes"), 303),
        (create(address="10.0.0.300"), 501),
        (create(address=""), 501),
        (frame(b'<tunnel action="create" type="v6v4"><client/></tunnel>'), 501),
        (frame(b'<tunnel action="create" type="v6v4"/>'), 501),
        (create(inside='<address type="ipv6">x</address>'), 502),
        (create(inside='<router><prefix length="200"/></router>'), 507),
        (frame(b"<tunnel"), 500),
        (frame(b'<!DOCTYPE t><tunnel action="create"/>'), 500),
        (command("accept"), 500),
        (command("info"), 500),
        (command("delete"), 500),
        (command("list"), 500),
        (b"Content-length: 12\r\n" + create()[21:], 500),
        (b"Content-length: x\r\n\r\n", 500),
    ],
)
def test_bad_create_is_answered_with_its_code_behind_content_length(
    body: bytes, code: int, transport: Transport
) -> None:
    client = begun(transport)
    client.ask(ANONYMOUS)
    (answer,) = client.ask(body)
    assert answer.startswith(b"Content-length: ")
    assert parse_reply(answer).code == code
    assert client.session.state is BrokerState.CLOSED
    error = only(client, SessionFailed)
    assert error.phase is Phase.CREATE
    assert isinstance(error.error, RemoteProtocolError | TunnelRefused)


@pytest.mark.parametrize("transport", BOTH)
def test_error_after_authentication_is_framed_and_before_it_is_not(transport: Transport) -> None:
    client = begun(transport)
    client.ask(ANONYMOUS)
    (answer,) = client.ask(create("teredo"))
    assert answer.startswith(b"Content-length: ")
    assert parse_reply(answer).code == 303
    assert begun(transport).ask(b"AUTHENTICATE X\r\n")[0].startswith(b"300 ")


@pytest.mark.parametrize(
    ("requested", "transport", "nat", "decided"),
    [
        (TunnelType.V6ANYV4, Transport.UDP, False, TunnelType.V6V4),
        (TunnelType.V6ANYV4, Transport.UDP, True, TunnelType.V6UDPV4),
        (TunnelType.V6ANYV4, Transport.TCP, False, TunnelType.V6V4),
        (TunnelType.V6ANYV4, Transport.TCP, True, "ask over UDP"),
        (TunnelType.V6V4, Transport.UDP, False, TunnelType.V6V4),
        (TunnelType.V6V4, Transport.UDP, True, TunnelType.V6V4),
        (TunnelType.V6V4, Transport.TCP, True, TunnelType.V6V4),
        (TunnelType.V6UDPV4, Transport.UDP, False, TunnelType.V6UDPV4),
        (TunnelType.V6UDPV4, Transport.UDP, True, TunnelType.V6UDPV4),
        (TunnelType.V6UDPV4, Transport.TCP, False, "ask over UDP"),
        (TunnelType.V4V6, Transport.UDP, False, "not provided"),
        (TunnelType.V4V6, Transport.TCP, False, "not provided"),
    ],
)
def test_tunnel_type_is_decided_by_comparing_addresses(
    requested: TunnelType, transport: Transport, nat: bool, decided: TunnelType | str
) -> None:
    inner = PRIVATE if nat else CLIENT
    if isinstance(decided, TunnelType):
        assert decide_tunnel_type(requested, transport, CLIENT, inner) is decided
    else:
        with pytest.raises(TunnelRefused, match=decided) as caught:
            decide_tunnel_type(requested, transport, CLIENT, inner)
        assert caught.value.code == 303


def test_tunnel_type_is_one_the_broker_has() -> None:
    only_udp, only_v6v4 = (TunnelType.V6UDPV4,), (TunnelType.V6V4,)
    anyv4 = TunnelType.V6ANYV4
    assert decide_tunnel_type(anyv4, Transport.UDP, CLIENT, CLIENT, offered=only_udp) is TunnelType.V6UDPV4
    for kind, inner, has in ((anyv4, PRIVATE, only_v6v4), (TunnelType.V6V4, CLIENT, only_udp)):
        with pytest.raises(TunnelRefused):
            decide_tunnel_type(kind, Transport.UDP, CLIENT, inner, offered=has)


@pytest.mark.parametrize("transport", BOTH)
def test_rejected_offer_ends_the_session(transport: Transport) -> None:
    client = offered(transport)
    client.ask(command("reject"))
    only(client, TunnelRejected)
    assert client.session.state is BrokerState.CLOSED


@pytest.mark.parametrize("transport", BOTH)
def test_deleted_tunnel_is_answered_200(transport: Transport) -> None:
    client = up(transport)
    assert client.ask(command("delete")) == [frame(OK)]
    only(client, TunnelDeleted)


@pytest.mark.parametrize("transport", BOTH)
def test_info_repeats_the_offer(transport: Transport) -> None:
    client = up(transport)
    (answer,) = client.ask(command("info"))
    assert parse_tunnel(parse_reply(answer).content).type == "v6v4"


@pytest.mark.parametrize("transport", BOTH)
def test_second_create_takes_the_old_tunnel_down_first(transport: Transport) -> None:
    client = up(transport)
    client.events.clear()
    client.ask(create())
    assert [type(event) for event in client.events] == [SessionRestarted, TunnelRequested]


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize(
    "body", [b"junk\r\n", b"AUTHENTICATE ANONYMOUS\r\n", frame(b"<tunnel"), create("teredo"), b"\0"]
)
def test_nonsense_does_not_end_a_tunnel_that_is_up(body: bytes, transport: Transport) -> None:
    client = up(transport)
    client.ask(body)
    assert client.session.state is BrokerState.UP
    assert not [event for event in client.events if isinstance(event, SessionFailed | Closed | SessionRestarted)]


# --- UDP: repeats and restarts ---


def test_repeated_request_is_answered_again_and_carried_out_once() -> None:
    client = begun()
    assert client.ask(VERSION, sequence=240, timestamp=1) == [CAPABILITY]
    client.ask(ANONYMOUS, sequence=241)
    client.ask(create(), sequence=242)
    assert client.ask(create(), sequence=242, timestamp=5) == []  # not decided yet
    client.session.offer(tunnel_for(only(client, TunnelRequested).request, CLIENT), client.now)
    (offer,) = client.session.to_send(client.now)
    assert offer[:8] == format_header(Header(242, 5))
    assert client.ask(create(), sequence=242, timestamp=9) == [offer[8:]]
    client.ask(ACCEPT, sequence=243)
    client.session.confirm(client.now)
    client.answers()
    assert client.ask(ACCEPT, sequence=243) == [b""]
    assert client.ask(create(), sequence=242, timestamp=9) == [offer[8:]]
    only(client, TunnelRequested)
    only(client, TunnelAccepted)
    assert client.session.counters.retransmissions == 4


def test_failure_is_told_again_to_whom_it_was_lost() -> None:
    client = begun()
    client.ask(b"AUTHENTICATE PLAIN\r\n")
    (first,) = client.ask(b"\0ann\0wrong\r\n", sequence=242)
    assert client.ask(b"\0ann\0wrong\r\n", sequence=242) == [first]
    assert not client.session.closed
    client.pass_time(36.0)
    assert client.session.closed
    assert only(client, Closed).reason == "unknown user or wrong password"


@pytest.mark.parametrize("sequence", [0, 1, 240, 0x0FFFFFFF])
def test_client_may_count_from_anywhere(sequence: int) -> None:
    client = RawClient(broker_session(), first_sequence=sequence)
    assert client.ask(VERSION) == [CAPABILITY]
    assert client.ask(ANONYMOUS, sequence=(sequence + 1) & 0x0FFFFFFF) == [OK]


def test_little_endian_client_gets_its_own_header_back() -> None:
    session = broker_session()
    session.receive(bytes.fromhex("000000f0 00000007") + VERSION, 0.0)
    assert session.to_send(0.0) == [bytes.fromhex("000000f0 00000007") + CAPABILITY]


def test_old_copy_of_version_does_not_disturb_a_session_under_way() -> None:
    client = RawClient(broker_session())
    client.ask(VERSION, sequence=240, timestamp=0)
    client.now = 1.0
    client.ask(ANONYMOUS, sequence=241, timestamp=1500)
    # Sent again at 1.0 because the answer was late, and overtaken by what followed that answer.
    assert client.ask(VERSION, sequence=240, timestamp=1000) == [CAPABILITY]
    assert client.session.state is BrokerState.WAIT_CREATE
    assert not [event for event in client.events if isinstance(event, SessionRestarted)]


@pytest.mark.parametrize("mechanism", [b"AUTHENTICATE ANONYMOUS\r\n", b"AUTHENTICATE DIGEST-MD5\r\n"])
def test_version_sent_after_the_tunnel_was_up_begins_again(mechanism: bytes) -> None:
    client = up()
    client.now = 5.0
    assert client.ask(VERSION, sequence=240, timestamp=5000) == [CAPABILITY]
    only(client, SessionRestarted)
    assert client.session.state is BrokerState.WAIT_AUTHENTICATE
    assert client.session.user is None
    assert client.ask(mechanism, sequence=241, timestamp=5001) != []


def test_version_with_another_number_begins_again_at_once() -> None:
    client = up()
    assert client.ask(VERSION, sequence=0, timestamp=0) == [CAPABILITY]
    only(client, SessionRestarted)


def test_version_of_a_new_clock_begins_again_after_a_while() -> None:
    client = up()
    client.now = 20.0
    assert client.ask(VERSION, sequence=240, timestamp=0) == [CAPABILITY]
    only(client, SessionRestarted)


def test_other_authentication_under_a_known_number_begins_again() -> None:
    client = up()
    assert client.ask(VERSION, sequence=240, timestamp=0) == [CAPABILITY]  # taken for a repeat: same number, old clock
    assert client.session.state is BrokerState.UP
    assert client.ask(b"AUTHENTICATE PLAIN\r\n", sequence=241, timestamp=1) == [b""]
    only(client, SessionRestarted)
    assert client.ask(b"\0ann\0secret\r\n", sequence=242, timestamp=2) == [OK]
    assert client.session.user == "ann"


def test_request_while_the_driver_decides_waits_for_its_turn() -> None:
    client = asked()
    assert client.ask(ACCEPT, sequence=243) == []
    client.session.offer(tunnel_for(only(client, TunnelRequested).request, CLIENT), client.now)
    assert len(client.answers()) == 1
    assert client.ask(ACCEPT, sequence=243) == []
    only(client, TunnelAccepted)


def test_echo_request_of_gogoc_is_answered_200_and_leaves_no_session() -> None:
    client = RawClient(broker_session())
    assert client.ask(b"ECHO REQUEST") == [OK]
    assert client.session.closed
    over_tcp = RawClient(broker_session(Transport.TCP))
    assert over_tcp.ask(b"ECHO REQUEST\r\n") == [OK]
    client = begun()
    assert client.ask(b"ECHO REQUEST") == [OK]
    assert client.session.state is BrokerState.WAIT_AUTHENTICATE


@pytest.mark.parametrize(
    "datagram", [b"", b"x", b"\x60" + bytes(39), bytes(8), b"\xf0" + bytes(7), b"\xff" * 30, b"VERSION=2.0.0"]
)
def test_noise_is_not_answered_and_leaves_no_session(datagram: bytes) -> None:
    session = broker_session()
    session.receive(datagram, 0.0)
    assert session.to_send(0.0) == []
    assert session.closed


@pytest.mark.parametrize("body", [ANONYMOUS, create(), ACCEPT])
def test_client_of_a_forgotten_session_is_told_so(body: bytes) -> None:
    client = RawClient(broker_session())
    (answer,) = client.ask(body)
    assert parse_reply(answer).code == 310
    assert answer.startswith(b"Content-length: ") is body.startswith(b"Content-length: ")
    assert client.session.closed


# --- redirection ---


ELSEWHERE = ("192.0.2.1", "2001:db8::1", "b.example")


@pytest.mark.parametrize("transport", BOTH)
def test_redirection_is_bare_before_create_and_framed_in_it(transport: Transport) -> None:
    text = b"1200 Redirection\r\n" + format_brokers(ELSEWHERE)
    settings = BrokerConfig(redirect_to=ELSEWHERE)
    client = RawClient(broker_session(transport, settings))
    assert client.ask(VERSION) == [text]
    client = begun(transport, replace(settings, redirect_phase=Phase.AUTH))
    assert client.ask(ANONYMOUS) == [text + b"\0"]  # gogoc does not clear its buffer
    client = begun(transport, replace(settings, redirect_phase=Phase.CREATE))
    client.ask(ANONYMOUS)
    assert client.ask(create()) == [frame(text)]
    assert client.session.state is BrokerState.CLOSED


def test_unsupported_version_is_redirected_with_1302() -> None:
    client = RawClient(broker_session(config=BrokerConfig(redirect_to=ELSEWHERE, redirect_phase=Phase.CREATE)))
    assert client.ask(b"VERSION=1.0\r\n") == [b"1302 Unsupported client version\r\n" + format_brokers(ELSEWHERE)]


def test_driver_can_redirect_one_request() -> None:
    client = asked()
    client.session.refuse(Status.SERVER_BUSY, None, client.now, brokers=ELSEWHERE)
    assert client.answers() == [frame(b"1530 Server too busy, try again later\r\n" + format_brokers(ELSEWHERE))]


# --- time, ends, limits ---


@pytest.mark.parametrize("transport", BOTH)
@pytest.mark.parametrize("make", [begun, offered])
def test_set_up_that_stands_still_is_given_up(make: Callable[[Transport], RawClient], transport: Transport) -> None:
    client = make(transport)
    client.pass_time(129.9)
    assert client.session.state is not BrokerState.CLOSED
    client.pass_time(0.2)
    assert isinstance(only(client, SessionFailed).error, SetupTimeout)
    client.pass_time(36.0)
    assert client.session.closed


def test_client_that_keeps_asking_the_same_is_still_there() -> None:
    client = begun()
    for _ in range(5):
        client.pass_time(100.0)
        assert client.ask(VERSION, sequence=240, timestamp=0) == [CAPABILITY]
    assert client.session.state is BrokerState.WAIT_AUTHENTICATE


def test_connection_that_says_nothing_is_given_up() -> None:
    client = RawClient(broker_session(Transport.TCP))
    assert client.session.timer() == 0.0
    client.pass_time(129.0)
    for _ in range(3):
        client.ask(b"V")  # a byte now and then is no message
    client.pass_time(2.0)
    assert client.session.closed


def test_tunnel_that_is_up_has_no_timer() -> None:
    client = up()
    client.pass_time(1e6)
    assert client.session.state is BrokerState.UP


def test_closed_connection_leaves_a_tunnel_that_is_up_alone() -> None:
    client = up(Transport.TCP)
    client.session.eof(client.now)
    client.answers()
    assert client.session.closed
    assert isinstance(client.events[-1], Closed)
    assert not [event for event in client.events if isinstance(event, SessionFailed | TunnelDeleted)]


def test_connection_closed_right_after_accept_still_gives_a_tunnel() -> None:
    client = offered(Transport.TCP)
    client.ask(ACCEPT)
    client.session.eof(client.now)
    client.answers()
    assert not client.session.closed
    client.session.confirm(client.now)
    client.answers()
    assert client.session.closed
    assert not [event for event in client.events if isinstance(event, SessionFailed)]


@pytest.mark.parametrize("transport", BOTH)
def test_driver_may_take_any_time_to_decide(transport: Transport) -> None:
    client = asked(transport)
    client.pass_time(1000.0)
    client.session.offer(tunnel(), client.now)
    assert len(client.answers()) == 1
    client.pass_time(129.0)
    client.ask(ACCEPT)
    client.pass_time(1000.0)
    client.session.confirm(client.now)
    assert client.session.state is BrokerState.UP


def test_connection_closed_while_the_driver_decides_fails_when_it_has_decided() -> None:
    client = asked(Transport.TCP)
    client.ask(b"x" * 100_000)
    client.session.eof(client.now)
    client.answers()
    assert not [event for event in client.events if isinstance(event, SessionFailed)]
    client.session.offer(tunnel(), client.now)
    client.answers()
    only(client, SessionFailed)
    assert client.session.closed


@pytest.mark.parametrize("make", [begun, offered])
def test_connection_closed_during_set_up_fails_it(make: Callable[[Transport], RawClient]) -> None:
    client = make(Transport.TCP)
    client.session.eof(client.now)
    client.answers()
    assert isinstance(only(client, SessionFailed).error, RemoteProtocolError)
    assert client.session.closed


def test_closing_from_the_brokers_side_sends_nothing() -> None:
    client = up()
    client.session.close(client.now, "lifetime over")
    assert client.answers() == []
    assert only(client, Closed).reason == "lifetime over"
    assert client.session.closed


def test_driver_that_answers_what_nobody_asked_is_told() -> None:
    client = begun()
    calls: tuple[Callable[[], None], ...] = (
        lambda: client.session.confirm(0.0),
        lambda: client.session.refuse(310, None, 0.0),
        lambda: client.session.offer(tunnel(), 0.0),
    )
    for call in calls:
        with pytest.raises(LocalProtocolError):
            call()
    assert client.session.state is BrokerState.WAIT_AUTHENTICATE


def tunnel() -> TunnelParameters:
    address = IPv6Address("2001:db8::1")
    return TunnelParameters(
        type=TunnelType.V6V4,
        client_ipv4=CLIENT,
        client_ipv6=address,
        server_ipv4=SERVER,
        server_ipv6=address,
    )


def test_a_tunnel_is_never_v6anyv4() -> None:
    with pytest.raises(ValueError):
        replace(tunnel(), type=TunnelType.V6ANYV4)


def test_endless_line_over_tcp_ends_the_session_not_the_memory() -> None:
    client = begun(Transport.TCP)
    for _ in range(100):
        client.ask(b"A" * 1000)
    assert client.session.closed


def test_client_that_asks_and_never_reads_has_a_bounded_queue() -> None:
    client = up(Transport.TCP)
    for _ in range(10 * MAX_QUEUED):
        client.session.receive(b"ECHO REQUEST\r\n", client.now)
    assert len(client.session.to_send(client.now)) == MAX_QUEUED


def test_flood_of_new_numbers_is_remembered_only_in_part() -> None:
    client = up()
    for sequence in range(1000, 3000):
        client.ask(command("info"), sequence=sequence)
    assert len(client.session._inbox._requests) <= 16


def test_secrets_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = begun()
    client.ask(b"AUTHENTICATE PLAIN\r\n")
    client.ask(b"\0ann\0secret\r\n")
    client = begun()
    client.ask(b"AUTHENTICATE PLAIN\r\n")
    client.ask(b"\0ann\0secret2\r\n")
    assert "WAIT_CREATE" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"tunnel_types": ()},
        {"tunnel_types": (TunnelType.V6ANYV4,)},
        {"mechanisms": ()},
        {"realm": 'a"b'},
        {"redirect_phase": Phase.ACCEPT},
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        BrokerConfig(**wrong)  # type: ignore[arg-type]


def test_peer_is_the_address_the_broker_was_given() -> None:
    assert broker_session(peer=IPv4Address("203.0.113.9")).peer == IPv4Address("203.0.113.9")
