"""The broker's side of a TSP session (RFC 5572 sections 4.3 and 4.4), without I/O.

A session is one client: its address and port over UDP, its connection over TCP.  It checks and answers all that
needs no tunnel, and asks its driver for the rest:

    TunnelRequested    the driver calls `offer` or `refuse`
    TunnelAccepted     the driver brings the tunnel up and calls `confirm`, or `refuse`

It may take its time over that: meanwhile the session neither fails nor times out.  It can only begin again
(`SessionRestarted`, UDP); then the question is void, and answering it raises `LocalProtocolError`.

A repeated datagram gets the answer of the first one again and is not carried out again.  A repeated VERSION may
also be a client that began again on the same port, with the same numbers (RFC 5572 section 4.5.2): `Inbox` tells
by the timestamps, and an AUTHENTICATE that differs under a known number tells too.

Errors are answered in the form that clients understand: bare lines up to authentication, behind Content-length
from create on.  An error ends the session, unless the tunnel is up: then anyone could end it who can write the
client's address into a datagram.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from ipaddress import IPv4Address
from typing import Final

from lab.errors import LabError, LocalProtocolError, RemoteProtocolError, SetupTimeout, TunnelRefused
from lab.tsp.config import BrokerConfig
from lab.tsp.events import (
    Authenticated,
    BrokerEvent,
    Closed,
    SessionFailed,
    SessionRestarted,
    TunnelAccepted,
    TunnelDeleted,
    TunnelRejected,
    TunnelRequested,
)
from lab.tsp.framing import MAX_MESSAGE, MessageStream, frame, unframe
from lab.tsp.header import Header, parse_header
from lab.tsp.lines import Verb, format_capability, parse_authenticate, parse_version, verb_of, version_accepted
from lab.tsp.messages import Action, TunnelMessage, format_brokers, format_tunnel, parse_tunnel
from lab.tsp.offers import offer_message, read_request
from lab.tsp.parameters import Counters, Mechanism, Phase, Transport, TunnelParameters
from lab.tsp.rudp import Arrival, Inbox
from lab.tsp.sasl import Credentials, DigestServer, check_plain
from lab.tsp.states import BROKER, BROKER_PHASE, BrokerSignal, BrokerState
from lab.tsp.status import REDIRECTION, MessageError, Status, format_status

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 32
"""Answers kept for a TCP client that asks and does not read."""

_SUCCESS: Final = format_status(Status.SUCCESS)
_CHOICE: Final = {
    Mechanism.ANONYMOUS: BrokerSignal.ANONYMOUS,
    Mechanism.PLAIN: BrokerSignal.PLAIN,
    Mechanism.DIGEST_MD5: BrokerSignal.DIGEST_MD5,
}
_OURS: Final = (BrokerState.DECIDING, BrokerState.CONFIRMING)
"""States in which the driver, not the client, has the next word."""


class BrokerSession:
    """One client of a broker."""

    def __init__(
        self,
        config: BrokerConfig,
        transport: Transport,
        peer: IPv4Address,
        *,
        rng: random.Random,
        credentials: Credentials,
    ) -> None:
        """`peer` is the source address the broker sees; `credentials` gives MD5(user:realm:password) or None."""
        self.config = config
        self.transport = transport
        self.peer = peer
        self.state = BrokerState.START
        self.user: str | None = None
        self.mechanism: Mechanism | None = None
        self.counters = Counters()
        self._credentials = credentials
        self._rng = rng
        self._digest: DigestServer | None = None
        self._tunnel: TunnelParameters | None = None
        self._failed_in = Phase.VERSION
        self._events: deque[BrokerEvent] = deque()
        self._outgoing: deque[tuple[float, bytes]] = deque()
        self._close_reason: str | None = None
        self._forget_at: float | None = None
        self._idle_since: float | None = None  # the last message, repeats included
        self._ended = False  # the TCP peer will send nothing more
        self._inbox = Inbox(config.restart_after_s)
        self._stream = MessageStream(lists_follow=False)
        self._request: Header | None = None  # the UDP request under way

    # --- the driver's side ---

    @property
    def phase(self) -> Phase:
        """The phase under way, or the one in which the session ended."""
        return BROKER_PHASE.get(self.state, self._failed_in)

    @property
    def closed(self) -> bool:
        """True when nothing is left to do: close the connection (TCP), forget the session (UDP)."""
        return self._close_reason is None and self.state is BrokerState.CLOSED

    def receive(self, data: bytes, now: float) -> None:
        """Take one datagram (UDP) or the next bytes (TCP).  Raises nothing, whatever they are."""
        self.counters.received(data)
        if self.transport is Transport.UDP:
            self._receive_datagram(data, now)
        elif self.state is not BrokerState.CLOSED:
            self._stream.feed(data, now)
            self._read_stream(now)

    def eof(self, now: float) -> None:
        """The client closed the TCP connection.  A tunnel that is up, or about to be, is not touched by that."""
        self._stream.end()
        self._read_stream(now)
        self._ended = True
        self._after_eof(now)

    def to_send(self, now: float) -> list[bytes]:
        """Datagrams (UDP) or separate writes (TCP) that are due now."""
        due: list[bytes] = []
        while self._outgoing and self._outgoing[0][0] <= now:
            due.append(self._outgoing.popleft()[1])
        self.counters.sent(due)
        self._try_to_forget(now)
        return due

    def timer(self) -> float | None:
        """When to call `handle_timer` (and then `to_send`), or None."""
        if self.transport is Transport.TCP and self.state is BrokerState.START and self._idle_since is None:
            return 0.0  # a new connection: at once, to learn the time
        times = [self._outgoing[0][0] if self._outgoing else None, self._forget_at, self._idle_deadline()]
        if self.state is not BrokerState.CLOSED and self.state not in _OURS:
            times.append(self._stream.timer())
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what time alone makes due; call it as often as you like."""
        if self._idle_since is None and self.transport is Transport.TCP:
            self._idle_since = now
        self._stream.handle_timer(now)
        self._read_stream(now)
        deadline = self._idle_deadline()
        if deadline is not None and now >= deadline:
            waited = now - deadline + self.config.idle_timeout_s
            self._fail(SetupTimeout(f"nothing happened for {waited:.0f} s", transmissions=0, waited_s=waited), now)
        self._try_to_forget(now)

    def next_event(self) -> BrokerEvent | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def offer(self, tunnel: TunnelParameters, now: float) -> None:
        """Answer `TunnelRequested` with a tunnel.  Raises `LocalProtocolError` at any other time."""
        self._go(BrokerSignal.OFFER)
        self._tunnel = tunnel
        self._idle_since = now
        self._reply(self._offer_text(tunnel), now)
        self._read_stream(now)
        self._after_eof(now)

    def refuse(self, status: int, text: str | None, now: float, *, brokers: tuple[str, ...] = ()) -> None:
        """Answer `TunnelRequested` or `TunnelAccepted` with an error; text None: the one of the status.

        With `brokers` the client is sent there: the code grows by 1000 and the list follows.
        Raises `LocalProtocolError` when the driver is not asked.
        """
        self._failed_in = self.phase
        self._go(BrokerSignal.REFUSE)
        code = int(status)
        if brokers and code < REDIRECTION:
            code += REDIRECTION
        if text is None:
            text = Status(status).text()
        self._reply(frame(format_status(code, text) + (format_brokers(brokers) if brokers else b"")), now)
        self._shut(f"refused: {code} {text}", now)

    def confirm(self, now: float) -> None:
        """Answer the accept message: the tunnel is up.  Over TCP no client reads an answer, so none is sent.

        Raises `LocalProtocolError` unless `TunnelAccepted` was the last event.
        """
        self._go(BrokerSignal.CONFIRM)
        self._idle_since = now
        self._reply(b"", now)
        self._read_stream(now)
        self._after_eof(now)

    def close(self, now: float, reason: str) -> None:
        """End the session from the broker's side; nothing is sent, TSP has no message for it."""
        if self.state is not BrokerState.CLOSED:
            self._go(BrokerSignal.CLOSE)
            self._shut(reason, now, linger=False)
        elif self._close_reason is not None:
            self._forget_at = now
        self._try_to_forget(now)

    # --- UDP: repeats and restarts ---

    def _receive_datagram(self, datagram: bytes, now: float) -> None:
        try:
            header, body = parse_header(datagram)
        except RemoteProtocolError:
            self._ignore(now)
            return
        arrival = self._inbox.arrival(header, body, now)
        verb = verb_of(body)
        if arrival is Arrival.ANSWERED:
            self._idle_since = now
            self.counters.ignored += 1
            self.counters.retransmissions += 1
            self._queue(self._inbox.repeated(header.sequence), now)
        elif arrival is Arrival.PENDING:
            self.counters.ignored += 1  # the answer will carry this newest timestamp
        else:
            if arrival is Arrival.CHANGED and verb is Verb.AUTHENTICATE and self.state is not BrokerState.START:
                # VERSION came again before it, looked like a repeat and was answered like one.
                self._begin_again()
                self._go(BrokerSignal.VERSION)
            self._new_datagram(header, body, verb, now)

    def _new_datagram(self, header: Header, body: bytes, verb: Verb, now: float) -> None:
        if verb is Verb.VERSION:
            if self.state is not BrokerState.START:
                self._begin_again()
        elif self.state in _OURS:
            self.counters.ignored += 1  # not remembered: it will be sent again, after our answer
            return
        elif self.state is BrokerState.START and verb in (Verb.OTHER, Verb.EMPTY):
            self._ignore(now)
            return
        self._inbox.remember(header, body, now)
        self._request = header
        self._carry_out(body, verb, now)

    def _begin_again(self) -> None:
        self._go(BrokerSignal.RESTART)
        self._inbox.forget()
        self.user = self.mechanism = self._tunnel = self._digest = None
        self._forget_at = self._close_reason = None
        self._events.append(SessionRestarted())

    def _ignore(self, now: float) -> None:
        """Something that is no request.  A session that never began is over at once: it was noise."""
        self.counters.ignored += 1
        if self.state is BrokerState.START:
            self.close(now, "not a TSP session")

    # --- TCP ---

    def _read_stream(self, now: float) -> None:
        while self.state is not BrokerState.CLOSED and self.state not in _OURS:
            try:
                body = self._stream.next()
            except RemoteProtocolError as error:
                self._reject_message(error, Verb.OTHER, now)
                return
            if body is None:
                return
            self._carry_out(body, verb_of(body), now)

    def _after_eof(self, now: float) -> None:
        if not self._ended or self.state is BrokerState.CLOSED or self.state in _OURS:
            return
        if self.state is BrokerState.UP:
            self._go(BrokerSignal.CLOSE)
            self._shut("the client closed the connection", now)
        else:
            self._fail(RemoteProtocolError(f"the client closed the connection in phase {self.phase.value}"), now)

    # --- what a request turns out to be ---

    def _carry_out(self, body: bytes, verb: Verb, now: float) -> None:
        self._idle_since = now
        try:
            if len(body) > MAX_MESSAGE:
                raise MessageError(f"a message longer than {MAX_MESSAGE} bytes")
            if verb is Verb.ECHO:
                self._on_echo(now)
            elif verb is Verb.VERSION:
                self._on_version(body, now)
            elif self.state in (BrokerState.START, BrokerState.CLOSED):
                raise MessageError("no session, begin with VERSION", Status.SERVER_ERROR)
            elif verb is Verb.OTHER and self.state is BrokerState.UP:
                self.counters.ignored += 1
            elif verb is Verb.EMPTY:
                self._on_poll(now)
            elif self.state is BrokerState.WAIT_AUTHENTICATE:
                self._on_authenticate(body, now)
            elif self.state is BrokerState.WAIT_PLAIN:
                self._on_plain(body, now)
            elif self.state is BrokerState.WAIT_DIGEST:
                self._on_digest(body, now)
            else:
                self._on_command(body, now)
        except (RemoteProtocolError, TunnelRefused) as error:
            self._reject_message(error, verb, now)

    def _on_echo(self, now: float) -> None:
        self._reply(_SUCCESS, now)
        if self.state is BrokerState.START and self.transport is Transport.UDP:
            self.close(now, "an echo request")

    def _on_version(self, body: bytes, now: float) -> None:
        if self.state is not BrokerState.START:
            raise MessageError("VERSION comes first")
        if not version_accepted(parse_version(body), self.config.versions):
            if self.config.redirect_to:
                self._redirect(Status.UNSUPPORTED_VERSION, now)
                return
            raise MessageError(Status.UNSUPPORTED_VERSION.text(), Status.UNSUPPORTED_VERSION)
        if self._redirects_in(Phase.VERSION):
            self._redirect(Status.REDIRECTED, now)
            return
        self._go(BrokerSignal.VERSION)
        self._reply(format_capability(self.config.tunnel_types, self.config.mechanisms), now)

    def _on_poll(self, now: float) -> None:
        """An empty datagram asks for what is left to say: the 200 after rspauth, else nothing."""
        if self.state is BrokerState.WAIT_POLL:
            self._authenticated(now, BrokerSignal.POLL)
        else:
            self._reply(b"", now)

    def _on_authenticate(self, body: bytes, now: float) -> None:
        mechanism = parse_authenticate(body)
        if mechanism is None or mechanism not in self.config.mechanisms:
            raise MessageError("this mechanism is not offered", Status.AUTHENTICATION_FAILED)
        self.mechanism = mechanism
        if mechanism is Mechanism.ANONYMOUS:
            self._events.append(Authenticated(user=None, mechanism=mechanism))
            self._authenticated(now, BrokerSignal.ANONYMOUS)
            return
        self._go(_CHOICE[mechanism])
        if mechanism is Mechanism.PLAIN:
            self._reply(b"", now)
        else:
            self._digest = DigestServer(self.config.realm, self._rng)
            self._reply(self._digest.challenge(), now)

    def _on_plain(self, body: bytes, now: float) -> None:
        self.user = check_plain(body, self.config.realm, self._credentials)
        self._events.append(Authenticated(user=self.user, mechanism=Mechanism.PLAIN))
        self._authenticated(now, BrokerSignal.CREDENTIALS)

    def _on_digest(self, body: bytes, now: float) -> None:
        assert self._digest is not None  # made with the challenge
        self.user, rspauth = self._digest.check(body, self._credentials)
        self._go(BrokerSignal.CREDENTIALS)
        self._events.append(Authenticated(user=self.user, mechanism=Mechanism.DIGEST_MD5))
        self._reply(rspauth, now)
        if self.transport is Transport.TCP:
            # gogoc reads once: rspauth and 200 in one segment make it wait for ever.  It is known by its NULs.
            pause = self.config.digest_pause_s if self._stream.skipped_nul else 0.0
            self._authenticated(now + pause, BrokerSignal.POLL)

    def _authenticated(self, at: float, signal: BrokerSignal) -> None:
        if self._redirects_in(Phase.AUTH):
            self._redirect(Status.REDIRECTED, at)
            return
        self._go(signal)
        self._reply(_SUCCESS, at)

    def _on_command(self, body: bytes, now: float) -> None:
        message = parse_tunnel(unframe(body))
        log.debug("%s in state %s", message.action.name, self.state.name)
        if message.action is Action.CREATE:
            self._on_create(message, now)
            return
        signal = BrokerSignal.__members__.get(message.action.name)
        if signal is None or signal not in BROKER[self.state]:
            raise MessageError(f"{message.action.value} makes no sense now")
        self._failed_in = self.phase
        self._go(signal)
        if signal is BrokerSignal.ACCEPT:
            if self.state is BrokerState.UP:
                self._reply(b"", now)
            else:
                self._events.append(TunnelAccepted())
        elif signal is BrokerSignal.INFO:
            assert self._tunnel is not None  # there is one in every state that answers info
            self._reply(self._offer_text(self._tunnel), now)
        elif signal is BrokerSignal.REJECT:
            self._events.append(TunnelRejected())
            self._reply(b"", now)
            self._shut("the client rejected the offer", now)
        else:
            self._events.append(TunnelDeleted())
            self._reply(frame(_SUCCESS), now)
            self._shut("the client deleted the tunnel", now)

    def _on_create(self, message: TunnelMessage, now: float) -> None:
        if BrokerSignal.CREATE not in BROKER[self.state]:
            raise MessageError("create makes no sense now")
        if self._redirects_in(Phase.CREATE):
            self._redirect(Status.REDIRECTED, now, framed=True)
            return
        request = read_request(
            message,
            transport=self.transport,
            peer=self.peer,
            user=self.user,
            offered=self.config.tunnel_types,
        )
        if self._tunnel is not None:
            self._tunnel = None
            self._events.append(SessionRestarted())
        self._go(BrokerSignal.CREATE)
        self._events.append(TunnelRequested(request=request))

    # --- answers and ends ---

    def _redirects_in(self, phase: Phase) -> bool:
        return bool(self.config.redirect_to) and self.config.redirect_phase is phase

    def _redirect(self, status: Status, at: float, *, framed: bool = False) -> None:
        """Send the client elsewhere: bare up to authentication, there with the NUL gogoc needs, then framed."""
        code = status if status >= REDIRECTION else status + REDIRECTION
        text = format_status(code, status.text()) + format_brokers(self.config.redirect_to)
        self._failed_in = self.phase
        if framed:
            text = frame(text)
        elif self.phase is Phase.AUTH:
            text += b"\0"
        self._go(BrokerSignal.REDIRECTION)
        self._reply(text, at)
        self._shut("redirected", at, linger=self._failed_in is not Phase.VERSION)

    def _offer_text(self, tunnel: TunnelParameters) -> bytes:
        return frame(_SUCCESS + format_tunnel(offer_message(tunnel)))

    def _reply(self, body: bytes, at: float) -> None:
        self.counters.round_trips += 1
        if self.transport is Transport.UDP:
            assert self._request is not None  # every reply over UDP answers a datagram
            self._queue(self._inbox.answer(self._request.sequence, body), at)
        elif body:
            self._queue(body, at)

    def _queue(self, data: bytes, at: float) -> None:
        if len(self._outgoing) < MAX_QUEUED:
            self._outgoing.append((at, data))

    def _reject_message(self, error: LabError, verb: Verb, now: float) -> None:
        """Answer what was wrong with a message, and end the session unless its tunnel is up."""
        code, reason = int(Status.BAD_SYNTAX), str(error)
        if isinstance(error, MessageError):
            code = int(error.status)
        elif isinstance(error, TunnelRefused):
            code, reason = error.code, error.reason
        log.debug("%s: %d %s", self.peer, code, reason)
        text = format_status(code, reason[:200])
        framed = verb is Verb.COMMAND or self.phase in (Phase.CREATE, Phase.ACCEPT)
        self._reply(frame(text) if framed else text, now)
        self._fail(error, now)

    def _fail(self, error: LabError, now: float) -> None:
        if BrokerSignal.FAILURE not in BROKER[self.state]:
            return
        known = self.state is not BrokerState.START
        self._failed_in = self.phase
        self._go(BrokerSignal.FAILURE)
        self._events.append(SessionFailed(error=error, phase=self._failed_in))
        self._shut(str(error), now, linger=known)

    def _shut(self, reason: str, now: float, *, linger: bool = True) -> None:
        """The state is CLOSED; be forgotten when nothing is left to send, or to repeat (UDP)."""
        self._close_reason = reason
        self._forget_at = now + self.config.linger_s if linger and self.transport is Transport.UDP else now

    def _try_to_forget(self, now: float) -> None:
        if self._close_reason is None or self._forget_at is None or now < self._forget_at or self._outgoing:
            return
        self._events.append(Closed(reason=self._close_reason))
        self._close_reason = self._forget_at = None

    def _idle_deadline(self) -> float | None:
        if self._idle_since is None or self.state in (BrokerState.UP, BrokerState.CLOSED, *_OURS):
            return None
        return self._idle_since + self.config.idle_timeout_s

    def _go(self, signal: BrokerSignal) -> None:
        after = BROKER[self.state].get(signal)
        if after is None:
            raise LocalProtocolError(f"{signal.name} makes no sense in state {self.state.name}")
        log.debug("%s: %s -> %s", self.peer, self.state.name, after.name)
        self.state = after
