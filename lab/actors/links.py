"""What ties one broker session to a client: an address and port over UDP, a connection over TCP.

A link owns its session's timer and knows how to send; it decides nothing.  `TunnelBroker` drives the session.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from lab.actors.broker import TunnelBroker
    from lab.actors.dataplane import OuterAddress, Tunnel
    from lab.actors.store import Lease
    from lab.tsp import BrokerSession, TunnelParameters

log = logging.getLogger(__name__)


class Link:
    """One session and what hangs on it."""

    session: BrokerSession
    source: OuterAddress
    """Where the client's packets come from."""

    def __init__(self, broker: TunnelBroker) -> None:
        self.broker = broker
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()
        """When its set-up began, in the event loop's seconds."""
        self.offer: TunnelParameters | None = None
        self.lease: Lease | None = None
        """What `offer` would use; both None unless an offer waits for the client's answer."""
        self.tunnel: Tunnel | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, pieces: list[bytes]) -> None:
        """Send each piece on its own."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection, where there is one."""

    def set_timer(self, at: float | None) -> None:
        """Have the session's timer handled at `at`; None: never.

        A timer that is due earlier is left to fire and to find out: most deadlines only ever move away.
        """
        if at is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None or self._timer.when() > at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self.loop.time()
        self.broker.drive(self, partial(self.session.handle_timer, now), now)


class UdpLink(Link):
    """A client's address and port on the broker's UDP socket."""

    def __init__(self, broker: TunnelBroker, session: BrokerSession, source: OuterAddress, udp: socket.socket) -> None:
        super().__init__(broker)
        self.session = session
        self.source = source
        self._udp = udp

    def send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            try:
                self._udp.sendto(piece, self.source)
            except OSError as exc:  # the client asks again
                self.broker.counters["replies_lost"] += 1
                log.debug("to %s: %s", self.source[0], exc)


class TcpLink(Link, asyncio.Protocol):
    """A client's connection.  One that sends too much, or takes in too little, is cut off."""

    def __init__(self, broker: TunnelBroker) -> None:
        super().__init__(broker)
        self.source = ("", 0)
        self.transport: asyncio.Transport | None = None
        self._received = 0
        self._allowance = broker.settings.limits.connection_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.source = transport.get_extra_info("peername")[:2]
        session = self.broker.admit(self, self.source, self.loop.time())
        if session is None:
            self.transport.abort()
        else:
            self.session = session

    def data_received(self, data: bytes) -> None:
        if not hasattr(self, "session"):
            return
        self._received += len(data)
        if self._received > self._allowance:
            self._cut_off("sends too much")
            return
        now = self.loop.time()
        self.broker.drive(self, partial(self.session.receive, data, now), now)

    def eof_received(self) -> bool:
        if hasattr(self, "session"):
            now = self.loop.time()
            self.broker.drive(self, partial(self.session.eof, now), now)
        return False  # close our half too

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.broker.forget(self)

    def send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if self.transport is None or self.transport.is_closing():
                return
            self.transport.write(piece)
            if self.transport.get_write_buffer_size() > self._allowance:
                self._cut_off("takes nothing in")

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """End the connection at once, whatever still waits to be sent."""
        if self.transport is not None:
            self.transport.abort()

    def _cut_off(self, why: str) -> None:
        self.broker.counters["connections_cut_off"] += 1
        log.info("TCP client %s %s: cut off", self.source[0], why)
        self.abort()
