"""The state tables: closed, reachable, and every arrow of theirs walked by real messages."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

import pytest

from lab.errors import LocalProtocolError
from lab.tsp import (
    BrokerConfig,
    BrokerSession,
    BrokerState,
    ClientConfig,
    ClientSession,
    ClientState,
    Mechanism,
    Phase,
    Status,
    Transport,
    TunnelRequested,
)
from lab.tsp.framing import frame
from lab.tsp.messages import format_brokers
from lab.tsp.states import BROKER, BROKER_PHASE, CLIENT, CLIENT_PHASE, BrokerSignal, ClientSignal, drawing
from tests.pair import CLIENT as ADDRESS
from tests.pair import RawBroker, RawClient, broker_session, tunnel_for

Arrow = tuple[Enum, Enum, Enum]

VERSION = b"VERSION=2.0.0\r\n"
ANONYMOUS = b"AUTHENTICATE ANONYMOUS\r\n"
CREATE = frame(
    b'<tunnel action="create" type="v6v4"><client><address type="ipv4">192.0.2.10</address></client></tunnel>\r\n'
)
ACCEPT = frame(b'<tunnel action="accept"></tunnel>\r\n')
REJECT = frame(b'<tunnel action="reject"></tunnel>\r\n')
DELETE = frame(b'<tunnel action="delete"></tunnel>\r\n')
INFO = frame(b'<tunnel action="info"></tunnel>\r\n')
JUNK = frame(b"<junk/>")
EVERYTHING = (
    *(VERSION, ANONYMOUS, b"AUTHENTICATE PLAIN", b"AUTHENTICATE DIGEST-MD5", b"AUTHENTICATE X", CREATE, ACCEPT, REJECT),
    *(DELETE, INFO, JUNK, b"", b"\0", b"ECHO REQUEST", b"\0ann\0secret\r\n", b"dGVzdA==\r\n", b"junk", b"\xff" * 40),
)

CAPABILITY = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
OK = b"200 Success\r\n"
SENT_ELSEWHERE = b"1200 Redirection\r\n" + format_brokers(("192.0.2.1",))
OFFER = frame(
    b'200 Success\r\n<tunnel action="info" type="v6v4" lifetime="1440"><server><address type="ipv4">198.51.100.1'
    b'</address><address type="ipv6">2001:db8::1</address></server><client><address type="ipv4">192.0.2.10</address>'
    b'<address type="ipv6">2001:db8::2</address></client></tunnel>\r\n'
)


def arrows(table: Mapping[Any, Mapping[Any, Any]]) -> set[Arrow]:
    return {(state, signal, after) for state, row in table.items() for signal, after in row.items()}


@pytest.mark.parametrize("table", [CLIENT, BROKER], ids=["client", "broker"])
def test_every_state_is_reachable_and_can_end(table: Mapping[Any, Mapping[Any, Any]]) -> None:
    states: type[Enum] = type(next(iter(table)))
    assert set(table) == set(states)
    ends = {state for state, row in table.items() if not row} or {BrokerState.CLOSED}
    for state in states:
        seen = {state}
        while fresh := {after for one in seen for after in table[one].values()} - seen:
            seen |= fresh
        assert seen & ends, f"{state} never ends"
        if state is states["START"]:
            assert seen == set(states)


def test_every_signal_is_used() -> None:
    assert {signal for row in CLIENT.values() for signal in row} == set(ClientSignal)
    assert {signal for row in BROKER.values() for signal in row} == set(BrokerSignal)


def test_every_state_that_can_fail_has_a_phase() -> None:
    assert {state for state, row in CLIENT.items() if ClientSignal.FAILURE in row} <= set(CLIENT_PHASE)
    assert {state for state, row in BROKER.items() if BrokerSignal.FAILURE in row} <= set(BROKER_PHASE)


def test_every_cell_moves_the_session_as_the_table_says_or_is_refused() -> None:
    for state in ClientState:
        for signal in ClientSignal:
            session = ClientSession(ClientConfig(client_address=ADDRESS), Transport.UDP, rng=random.Random(1))
            session.state = state
            if signal in CLIENT[state]:
                session._go(signal)
                assert session.state is CLIENT[state][signal]
            else:
                with pytest.raises(LocalProtocolError):
                    session._go(signal)
                assert session.state is state
    for broker_state in BrokerState:
        for broker_signal in BrokerSignal:
            broker = broker_session()
            broker.state = broker_state
            if broker_signal in BROKER[broker_state]:
                broker._go(broker_signal)
                assert broker.state is BROKER[broker_state][broker_signal]
            else:
                with pytest.raises(LocalProtocolError):
                    broker._go(broker_signal)


def test_drawing_has_one_line_an_arrow() -> None:
    lines = drawing(BROKER).splitlines()
    assert len(lines) == len(arrows(BROKER))
    assert "OFFERED            --ACCEPT--> CONFIRMING" in lines
    assert drawing(CLIENT).count("(the end)") == 3


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> set[Arrow]:
    """The arrows that sessions take during the test."""
    taken: set[Arrow] = set()

    def record(kind: type[Any]) -> None:
        go: Callable[[Any, Any], None] = kind._go

        def wrapped(self: Any, signal: Any) -> None:
            before = self.state
            go(self, signal)
            taken.add((before, signal, self.state))

        monkeypatch.setattr(kind, "_go", wrapped)

    record(ClientSession)
    record(BrokerSession)
    return taken


def config(mechanism: Mechanism = Mechanism.ANONYMOUS) -> ClientConfig:
    return ClientConfig(client_address=ADDRESS, user="ann", password="secret", mechanisms=(mechanism,))


def client_in(state: ClientState) -> RawBroker:
    """A client brought to `state` by a broker's answers."""
    if state is ClientState.WAIT_GO:
        broker = RawBroker(config(Mechanism.PLAIN))
        broker.answer(CAPABILITY)
    elif state in (ClientState.WAIT_CHALLENGE, ClientState.WAIT_RSPAUTH):
        broker = RawBroker(config(Mechanism.DIGEST_MD5))
        broker.answer(CAPABILITY)
        if state is ClientState.WAIT_RSPAUTH:
            broker.answer(b"cmVhbG09bGFiLG5vbmNlPTEscW9wPWF1dGgsYWxnb3JpdGhtPW1kNS1zZXNzLGNoYXJzZXQ9dXRmLTg=\r\n")
    else:
        broker = RawBroker(config())
        for body in (CAPABILITY, OK, OFFER, b""):
            if broker.session.state is state:
                break
            broker.answer(body)
        if state is ClientState.WAIT_DELETED:
            broker.session.delete(broker.now)
            broker.take()
    assert broker.session.state is state
    return broker


CLIENT_WAITS = [state for state in ClientState if state.name.startswith("WAIT_")]


def test_real_answers_walk_every_arrow_of_the_client(walked: set[Arrow]) -> None:
    for state in CLIENT_WAITS:
        client_in(state).answer(b"300 no\r\n")
        if ClientSignal.REDIRECTION in CLIENT[state]:
            client_in(state).answer(SENT_ELSEWHERE)
    client_in(ClientState.WAIT_GO).answer(b"")
    client_in(ClientState.WAIT_DELETED).answer(frame(OK))
    over_tcp = RawBroker(config(), Transport.TCP)
    for body in (CAPABILITY, OK, OFFER, b"310 no\r\n"):
        over_tcp.answer(body)
    client, server = RawBroker(config(Mechanism.DIGEST_MD5)), RawClient(broker_session())
    asked = server.ask(client.requests[-1])
    while client.session.state is not ClientState.WAIT_OFFER:
        asked = server.ask(client.answer(asked[0])[0])
    assert arrows(CLIENT) - walked == set()


def broker_in(
    state: BrokerState,
    settings: BrokerConfig | None = None,
    transport: Transport = Transport.UDP,
) -> RawClient:
    """A broker's session brought to `state` by a client's messages."""
    client = RawClient(broker_session(transport, settings))
    mechanism = {
        BrokerState.WAIT_PLAIN: b"AUTHENTICATE PLAIN\r\n",
        BrokerState.WAIT_DIGEST: b"AUTHENTICATE DIGEST-MD5\r\n",
        BrokerState.WAIT_POLL: b"AUTHENTICATE DIGEST-MD5\r\n",
    }.get(state, ANONYMOUS)
    for body in (VERSION, mechanism, CREATE, None, ACCEPT, None):
        if client.session.state is state:
            return client
        if state is BrokerState.WAIT_POLL and client.session.state is BrokerState.WAIT_DIGEST:
            return digest_client(settings)
        if body is not None:
            client.ask(body)
        elif client.session.state is BrokerState.DECIDING:
            client.session.offer(tunnel_for(request_in(client), ADDRESS), client.now)
        else:
            client.session.confirm(client.now)
        client.answers()
    assert client.session.state is state
    return client


def digest_client(settings: BrokerConfig | None) -> RawClient:
    server, client = RawClient(broker_session(config=settings)), RawBroker(config(Mechanism.DIGEST_MD5))
    asked = client.requests[-1]
    while server.session.state is not BrokerState.WAIT_POLL:
        (asked,) = client.answer(server.ask(asked)[0])
    return server


def request_in(client: RawClient) -> Any:
    return [event.request for event in client.events if isinstance(event, TunnelRequested)][-1]


def test_real_requests_walk_every_arrow_of_the_broker(walked: set[Arrow]) -> None:
    for state in BrokerState:
        row = BROKER[state]
        if BrokerSignal.RESTART in row:
            broker = broker_in(state) if state is not BrokerState.CLOSED else broker_in(BrokerState.UP)
            if state is BrokerState.CLOSED:
                broker.ask(DELETE)
            broker.ask(VERSION, sequence=1000)
            assert broker.session.state is BrokerState.WAIT_AUTHENTICATE
        if BrokerSignal.CLOSE in row:
            broker = broker_in(state)
            broker.session.close(broker.now, "enough")
        if BrokerSignal.FAILURE in row:
            broker = broker_in(state)
            broker.pass_time(131.0) if state is not BrokerState.START else broker.ask(b"VERSION=9\r\n")
            assert broker.session.state is BrokerState.CLOSED
        if BrokerSignal.REFUSE in row:
            broker = broker_in(state)
            broker.session.refuse(Status.SERVER_ERROR, None, broker.now)
    for state, body in (
        *((BrokerState.WAIT_POLL, body) for body in (b"", CREATE)),
        (BrokerState.WAIT_PLAIN, b"\0ann\0secret"),
        *((BrokerState.OFFERED, body) for body in (REJECT, INFO, CREATE, DELETE)),
        *((BrokerState.UP, body) for body in (ACCEPT, INFO, CREATE, DELETE)),
    ):
        broker_in(state).ask(body)
    elsewhere = BrokerConfig(redirect_to=("192.0.2.1",))
    for phase, state, body in (
        (Phase.VERSION, BrokerState.START, VERSION),
        (Phase.AUTH, BrokerState.WAIT_AUTHENTICATE, ANONYMOUS),
        (Phase.AUTH, BrokerState.WAIT_PLAIN, b"\0ann\0secret"),
        (Phase.AUTH, BrokerState.WAIT_POLL, b""),
        (Phase.CREATE, BrokerState.WAIT_CREATE, CREATE),
    ):
        broker = broker_in(state, replace(elsewhere, redirect_phase=phase))
        broker.ask(body)
        assert broker.session.state is BrokerState.CLOSED
    assert arrows(BROKER) - walked == set()


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("state", [state for state in BrokerState if state is not BrokerState.CLOSED])
def test_no_message_in_any_state_breaks_the_broker_or_ends_a_tunnel(state: BrokerState, transport: Transport) -> None:
    if transport is Transport.TCP and state is BrokerState.WAIT_POLL:
        return  # over TCP the session passes through it without a message
    for body in EVERYTHING:
        client = broker_in(state, transport=transport)
        for _ in range(2):
            client.ask(body + b"\r\n" if transport is Transport.TCP and body[:7] != b"Content" else body)
        if state is BrokerState.UP and body not in (VERSION, CREATE, DELETE):
            assert client.session.state is BrokerState.UP


@pytest.mark.parametrize("state", [*CLIENT_WAITS, ClientState.READY])
def test_no_answer_in_any_state_breaks_the_client(state: ClientState) -> None:
    for body in (*EVERYTHING, CAPABILITY, OK, OFFER, frame(OK), SENT_ELSEWHERE, b"300 no", b"1200 no list", frame(b"")):
        broker = client_in(state)
        broker.answer(body)
        assert broker.session.state in {state, *CLIENT[state].values(), ClientState.WAIT_OFFER}
