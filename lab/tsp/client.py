"""The client's side of a TSP session (RFC 5572 sections 4.3 and 4.4), without I/O.

    VERSION         ->   <-  CAPABILITY
    AUTHENTICATE    ->   <-  200, after a step (PLAIN) or two (DIGEST-MD5) more
    create          ->   <-  info: the offer
    accept          ->   <-  an empty answer (UDP), nothing (TCP)

One session is one attempt on one socket.  It ends READY, REDIRECTED or FAILED, with an event that says so; the
next attempt, at another broker or with another version, is a new session on a new socket, so that its numbers
start anew for the broker too.

A broker is believed as far as its answers make sense.  What it may not do: offer another tunnel type than was
asked for (the offer is then rejected), or leave out its proof in DIGEST-MD5.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from typing import Final

from lab.errors import LabError, LocalProtocolError, RemoteProtocolError, SetupTimeout, TunnelRefused
from lab.tsp.config import ClientConfig
from lab.tsp.events import ClientEvent, PhaseChanged, Redirected, SessionFailed, TunnelGone, TunnelReady
from lab.tsp.framing import MAX_MESSAGE, Reply, frame, parse_reply
from lab.tsp.lines import BLANKS, format_authenticate, format_version, is_capability, is_status, parse_capability
from lab.tsp.messages import Action, TunnelMessage, format_tunnel, parse_brokers, parse_tunnel
from lab.tsp.offers import create_message, read_offer
from lab.tsp.parameters import CARRIED, Counters, Mechanism, Phase, Transport, TunnelParameters, TunnelType
from lab.tsp.rudp import Outbox
from lab.tsp.sasl import DigestClient, format_plain
from lab.tsp.states import CLIENT, CLIENT_PHASE, ClientSignal, ClientState
from lab.tsp.status import REDIRECTION, Status
from lab.tsp.stream import StreamOutbox

log = logging.getLogger(__name__)

_OVER: Final = (ClientState.READY, ClientState.DELETED, ClientState.REDIRECTED, ClientState.FAILED)
_CHOICE: Final = {
    Mechanism.ANONYMOUS: ClientSignal.ANONYMOUS,
    Mechanism.PLAIN: ClientSignal.PLAIN,
    Mechanism.DIGEST_MD5: ClientSignal.DIGEST_MD5,
}


class ClientSession:
    """One attempt to get one tunnel from one broker."""

    def __init__(self, config: ClientConfig, transport: Transport, *, rng: random.Random) -> None:
        self.config = config
        self.transport = transport
        self.state = ClientState.START
        self.mechanism: Mechanism | None = None
        """The mechanism in use, once the broker's capabilities are known."""
        self.counters = Counters()
        self._rng = rng
        self._digest: DigestClient | None = None
        self._tunnel: TunnelParameters | None = None
        self._events: deque[ClientEvent] = deque()
        self._outbox: Outbox | StreamOutbox
        if transport is Transport.UDP:
            self._outbox = Outbox(config.retransmission, self.counters)
        else:
            self._outbox = StreamOutbox(config.reply_timeout_s, self.counters)
        self._on_message = {
            ClientState.WAIT_CAPABILITY: self._on_capability,
            ClientState.WAIT_GO: self._on_go,
            ClientState.WAIT_CHALLENGE: self._on_challenge,
            ClientState.WAIT_RSPAUTH: self._on_rspauth,
            ClientState.WAIT_AUTHENTICATED: self._on_authenticated,
            ClientState.WAIT_OFFER: self._on_offer,
            ClientState.WAIT_CONFIRMATION: self._on_confirmation,
            ClientState.READY: self._on_late_reply,
            ClientState.WAIT_DELETED: self._on_deleted,
        }

    @property
    def phase(self) -> Phase | None:
        """The phase under way; None before `start` and once the session is over."""
        if self.state is ClientState.START or self.state in _OVER:
            return None
        return CLIENT_PHASE[self.state]

    def start(self, now: float) -> None:
        """Begin with VERSION.  Raises `LocalProtocolError` on a second call."""
        self._go(ClientSignal.START)
        self._events.append(PhaseChanged(phase=Phase.VERSION, at=now))
        self._outbox.send(format_version(self.config.version), now)

    def receive(self, data: bytes, now: float) -> None:
        """Take one datagram (UDP) or the next bytes (TCP).  Raises nothing, whatever they are."""
        try:
            messages = self._outbox.receive(data, now)
        except RemoteProtocolError as error:
            if self.state is ClientState.READY:
                self.counters.ignored += 1
            else:
                self._fail(error)
        else:
            self._handle(messages, now)

    def eof(self, now: float) -> None:
        """The broker closed the TCP connection.  Once the tunnel is ready, that changes nothing."""
        self._handle(self._outbox.end(now), now)
        if self.state is ClientState.WAIT_DELETED:
            self._deleted()
        elif self.state not in _OVER:
            self._fail(RemoteProtocolError(f"the broker closed the connection, {self._awaited()}"))

    def to_send(self, now: float) -> list[bytes]:
        """Datagrams (UDP) or writes (TCP) that are due now."""
        return self._outbox.to_send(now)

    def timer(self) -> float | None:
        """When to call `handle_timer`, or None."""
        return self._outbox.timer()

    def handle_timer(self, now: float) -> None:
        """Resend or give up what is overdue; call it as often as you like."""
        try:
            messages = self._outbox.handle_timer(now)
        except SetupTimeout as error:
            self._fail(error)
        else:
            self._handle(messages, now)

    def next_event(self) -> ClientEvent | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def delete(self, now: float) -> None:
        """Ask the broker to take the tunnel down; `TunnelGone` follows (RFC 5572 section 4.7.1).

        Raises `LocalProtocolError` while there is no tunnel.
        """
        self._go(ClientSignal.DELETE)
        self._outbox.send(frame(format_tunnel(TunnelMessage(action=Action.DELETE))), now)

    # --- what the broker's answers turn out to be ---

    def _handle(self, messages: list[bytes], now: float) -> None:
        for body in messages:
            handler = self._on_message.get(self.state)
            if handler is None:
                self.counters.ignored += 1
                continue
            try:
                if len(body) > MAX_MESSAGE:
                    raise RemoteProtocolError(f"the broker sent a message longer than {MAX_MESSAGE} bytes")
                handler(body, now)
            except (RemoteProtocolError, TunnelRefused) as error:
                self._fail(error)

    def _on_capability(self, body: bytes, now: float) -> None:
        if not is_capability(body):
            self._not_success(parse_reply(body))
            raise RemoteProtocolError("the broker answered VERSION with a success and no capabilities")
        capability = parse_capability(body)
        log.debug("broker offers %s", capability)
        wanted = CARRIED if self.config.tunnel is TunnelType.V6ANYV4 else (self.config.tunnel,)
        if not set(wanted) & set(capability.tunnels):
            offered = " ".join(kind.value for kind in capability.tunnels) or "nothing known"
            raise TunnelRefused(Status.TUNNEL_TYPE_NOT_PROVIDED, f"it offers {offered}, not {self.config.tunnel.value}")
        for mechanism in self.config.chosen_mechanisms():
            if mechanism in capability.mechanisms:
                break
        else:
            offered = " ".join(mechanism.value for mechanism in capability.mechanisms) or "nothing known"
            raise TunnelRefused(Status.AUTHENTICATION_FAILED, f"no mechanism in common, it offers {offered}")
        self._events.append(PhaseChanged(phase=Phase.AUTH, at=now))
        self.mechanism = mechanism
        self._go(_CHOICE[mechanism])
        self._outbox.send(format_authenticate(mechanism), now)
        if mechanism is Mechanism.PLAIN and self.transport is Transport.TCP:
            self._go_ahead(now)

    def _on_go(self, body: bytes, now: float) -> None:
        if body.strip(BLANKS):
            self._not_success(parse_reply(body))
        self._go_ahead(now)

    def _go_ahead(self, now: float) -> None:
        self._go(ClientSignal.GO)
        self._outbox.send(format_plain(self.config.user or "", self.config.password or ""), now)

    def _on_challenge(self, body: bytes, now: float) -> None:
        if is_status(body):
            self._not_success(parse_reply(body))
        config = self.config
        self._digest = DigestClient(config.user or "", config.password or "", config.server_name, self._rng)
        response = self._digest.respond(body)
        self._go(ClientSignal.CHALLENGE)
        self._outbox.send(response, now)

    def _on_rspauth(self, body: bytes, now: float) -> None:
        assert self._digest is not None  # made with the response
        if is_status(body):
            self._not_success(parse_reply(body))
        rest = self._digest.verify(body)
        self._go(ClientSignal.RSPAUTH)
        if rest:
            self._on_authenticated(rest, now)
        else:
            self._outbox.poll(now)

    def _on_authenticated(self, body: bytes, now: float) -> None:
        if body.strip(BLANKS):
            self._not_success(parse_reply(body))
        self._go(ClientSignal.AUTHENTICATED)
        self._events.append(PhaseChanged(phase=Phase.CREATE, at=now))
        self._outbox.send(frame(format_tunnel(create_message(self.config))), now)

    def _on_offer(self, body: bytes, now: float) -> None:
        reply = parse_reply(body)
        self._not_success(reply)
        message = parse_tunnel(reply.content)
        try:
            tunnel = read_offer(message, self.config.tunnel, self.transport)
        except RemoteProtocolError:
            self._outbox.send_last(frame(format_tunnel(TunnelMessage(action=Action.REJECT))), now)
            raise
        self._go(ClientSignal.OFFER)
        self._tunnel = tunnel
        self._events.append(PhaseChanged(phase=Phase.ACCEPT, at=now))
        accept = frame(format_tunnel(TunnelMessage(action=Action.ACCEPT)))
        if self.transport is Transport.TCP:
            self._outbox.send_last(accept, now)
            self._confirmed(now)
        else:
            self._outbox.send(accept, now)

    def _on_confirmation(self, body: bytes, now: float) -> None:
        if body.strip(BLANKS):
            self._not_success(parse_reply(body))
        self._confirmed(now)

    def _confirmed(self, now: float) -> None:
        assert self._tunnel is not None  # read before the accept message was sent
        self._go(ClientSignal.CONFIRMED)
        self._events.append(PhaseChanged(phase=None, at=now))
        self._events.append(TunnelReady(tunnel=self._tunnel))

    def _on_late_reply(self, body: bytes, now: float) -> None:
        """Over TCP a broker that cannot bring the tunnel up says so here; all else comes too late to matter."""
        try:
            reply = parse_reply(body)
        except RemoteProtocolError:
            self.counters.ignored += 1
        else:
            self._not_success(reply)

    def _on_deleted(self, body: bytes, now: float) -> None:
        if body.strip(BLANKS):
            self._not_success(parse_reply(body))
        self._deleted()

    def _deleted(self) -> None:
        self._go(ClientSignal.DELETED)
        self._outbox.stop()
        self._events.append(TunnelGone())

    # --- ends ---

    def _not_success(self, reply: Reply) -> None:
        """Raises what a reply other than success means; a redirection ends the session here."""
        if 200 <= reply.code < 300:
            return
        brokers = parse_brokers(reply.content) if reply.code >= REDIRECTION and reply.content else ()
        if not brokers or ClientSignal.REDIRECTION not in CLIENT[self.state]:
            raise TunnelRefused(reply.code, reply.text)
        raise _SentElsewhere(brokers, reply)

    def _fail(self, error: LabError) -> None:
        if isinstance(error, _SentElsewhere):
            self._go(ClientSignal.REDIRECTION)
            self._events.append(Redirected(brokers=error.brokers, code=error.code, text=error.reason))
        elif ClientSignal.FAILURE in CLIENT[self.state]:
            phase = CLIENT_PHASE[self.state]
            self._go(ClientSignal.FAILURE)
            self._events.append(SessionFailed(error=error, phase=phase))
        self._outbox.stop()

    def _awaited(self) -> str:
        return f"waiting for {self.state.name.removeprefix('WAIT_').lower()}"

    def _go(self, signal: ClientSignal) -> None:
        after = CLIENT[self.state].get(signal)
        if after is None:
            raise LocalProtocolError(f"{signal.name} makes no sense in state {self.state.name}")
        log.debug("%s -> %s", self.state.name, after.name)
        self.state = after


class _SentElsewhere(TunnelRefused):
    """A refusal with a list of other brokers."""

    def __init__(self, brokers: tuple[str, ...], reply: Reply) -> None:
        super().__init__(reply.code, reply.text)
        self.brokers = brokers
