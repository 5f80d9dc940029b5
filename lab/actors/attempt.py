"""One attempt to set a tunnel up, over UDP or TCP: a `lab.tsp.ClientSession` with a clock and a socket.

An attempt ends in the tunnel's parameters or in one error: what the broker said, that it said nothing, or what the
network said.  An ICMP error ends it at once, so does a TCP reset: waiting for more would tell nothing new.  The
sockets are opened in the client's namespace; a successful UDP attempt leaves its socket open, for it is the tunnel.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, cast

from lab.actors.dataplane import LARGEST, open_udp
from lab.actors.neterrors import IP_RECVERR, explain, take_icmp_errors
from lab.actors.patience import patient_timeout_at
from lab.actors.report import Unreachable
from lab.errors import LabError, SetupTimeout
from lab.tsp import (
    ClientConfig,
    ClientSession,
    ClientState,
    Phase,
    PhaseChanged,
    Redirected,
    SessionFailed,
    Transport,
    TunnelGone,
    TunnelParameters,
    TunnelReady,
)

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

_DATAGRAMS: Final = 16


class RedirectedError(LabError):
    """The broker sends us to others (RFC 5572 section 4.7.4): `.brokers`, addresses or names, best first."""

    def __init__(self, event: Redirected) -> None:
        super().__init__(f"the broker sends us to {', '.join(event.brokers)}: {event.code} {event.text}")
        self.brokers = event.brokers
        self.code = event.code
        self.text = event.text


class Attempt:
    """One session.  `run` it once; then `session`, `phases_s` and `socket` tell and keep what came of it."""

    transport: Transport

    def __init__(
        self, namespace: Namespace, config: ClientConfig, server: tuple[IPv4Address, int], *, rng: random.Random
    ) -> None:
        self.session = ClientSession(config, self.transport, rng=rng)
        self.phases_s: dict[str, float] = {}
        self.local_port: int | None = None
        self._namespace = namespace
        self._server = (str(server[0]), server[1])
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[TunnelParameters] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._phase: tuple[Phase, float] | None = None
        self._gone = asyncio.Event()
        self._deleted = False

    async def run(self, timeout_s: float) -> TunnelParameters:
        """Set the tunnel up; what the broker offered and both ends agreed on.

        Raises TunnelRefused, SetupTimeout, RemoteProtocolError, Unreachable or RedirectedError, and closes the
        socket then.  `timeout_s` bounds the whole attempt.
        """
        began = self._loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                await self._open()
                now = self._loop.time()
                self.phases_s["connect"] = now - began
                self._drive(partial(self.session.start, now))
                return await self._done
        except TimeoutError:
            sent = self.session.counters.datagrams_sent
            self.close()
            raise SetupTimeout(
                f"no tunnel within {timeout_s:g} s", transmissions=sent, waited_s=self._loop.time() - began
            ) from None
        except BaseException:
            self.close()
            raise
        finally:
            self._set_timer(None)
            self._stop_reading()

    def _drive(self, step: Callable[[], None]) -> None:
        """Take one step of the session, then act on its events and send what it wants sent."""
        try:
            step()
        except Exception as exc:  # a fault of ours: to whoever waits, not to the event loop
            if self._done.done():
                raise
            self._done.set_exception(exc)
            return
        while (event := self.session.next_event()) is not None:
            match event:
                case PhaseChanged(phase=phase, at=at):
                    if self._phase is not None:
                        self.phases_s[self._phase[0].value] = at - self._phase[1]
                    self._phase = None if phase is None else (phase, at)
                case TunnelReady(tunnel=tunnel):
                    self._finish(tunnel)
                case SessionFailed(error=error):
                    self._finish(error)
                    self._gone.set()
                case TunnelGone():
                    self._deleted = True
                    self._gone.set()
                case Redirected():
                    self._finish(RedirectedError(event))
        try:
            self._send(self.session.to_send(self._loop.time()))
        except OSError as exc:
            self._network_said(exc)
        self._set_timer(None if self._done.done() else self.session.timer())

    def _finish(self, result: TunnelParameters | LabError) -> None:
        if self._done.done():
            return
        self._stop_reading()  # what comes now is for the tunnel
        if isinstance(result, LabError):
            self._done.set_exception(result)
        else:
            self._done.set_result(result)

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        self._drive(partial(self.session.handle_timer, self._loop.time()))

    async def _open(self) -> None:
        raise NotImplementedError

    def _send(self, pieces: list[bytes]) -> None:
        raise NotImplementedError

    def _stop_reading(self) -> None:
        """Leave what arrives from now on where it is."""

    def _network_said(self, error: OSError) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        raise NotImplementedError


class UdpAttempt(Attempt):
    """Over UDP.  After success `socket` is connected to the broker and free for v6udpv4 data."""

    transport = Transport.UDP

    def __init__(
        self, namespace: Namespace, config: ClientConfig, server: tuple[IPv4Address, int], *, rng: random.Random
    ) -> None:
        super().__init__(namespace, config, server, rng=rng)
        self.socket: socket.socket = open_udp(namespace)
        self._reading = False

    async def _open(self) -> None:
        try:
            self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            self.socket.connect(self._server)
        except OSError as exc:
            raise Unreachable(f"{self._server[0]}: {explain(exc)}") from exc
        self.local_port = self.socket.getsockname()[1]
        self._loop.add_reader(self.socket.fileno(), self._readable)
        self._reading = True

    def stay(self) -> None:
        """Keep listening on the socket of a finished attempt: its tunnel does not use it, a delete may."""
        self._loop.add_reader(self.socket.fileno(), self._readable)
        self._reading = True

    def receive_late(self, datagram: bytes) -> None:
        """Signalling that came in among the tunnel's packets."""
        self._drive(partial(self.session.receive, datagram, self._loop.time()))

    async def delete(self, timeout_s: float) -> bool:
        """Ask the broker once to take the tunnel down; True if it says that it has, within `timeout_s`."""
        if self.session.state is not ClientState.READY:
            return False
        self._drive(partial(self.session.delete, self._loop.time()))
        with suppress(TimeoutError):
            async with patient_timeout_at(self._loop.time() + timeout_s):
                await self._gone.wait()
        return self._deleted

    def _readable(self) -> None:
        for _ in range(_DATAGRAMS):
            try:
                datagram = self.socket.recv(LARGEST)
            except BlockingIOError:
                take_icmp_errors(self.socket)
                return
            except OSError as exc:
                self._network_said(exc)
                return
            self._drive(partial(self.session.receive, datagram, self._loop.time()))
            if self._done.done():
                return

    def _send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.socket.send(piece)

    def _network_said(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            return  # no room to send now: as if lost on the way
        said = take_icmp_errors(self.socket)
        if said and all(icmp.is_too_big for icmp in said):
            return
        words = str(said[0]) if said else f"{self._server[0]}: {explain(error)}"
        self._finish(Unreachable(words))

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.socket.fileno())
            # The error queue, which would keep the socket readable, goes with the option.
            self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)

    def close(self) -> None:
        self._stop_reading()
        self.socket.close()


class TcpAttempt(Attempt, asyncio.Protocol):
    """Over TCP: signalling only, so the connection may be closed once the tunnel is ready."""

    transport = Transport.TCP

    def __init__(
        self,
        namespace: Namespace,
        config: ClientConfig,
        server: tuple[IPv4Address, int],
        *,
        rng: random.Random,
        connect_timeout_s: float,
    ) -> None:
        super().__init__(namespace, config, server, rng=rng)
        self._connect_timeout_s = connect_timeout_s
        self._connection: asyncio.Transport | None = None

    async def _open(self) -> None:
        sock = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(self._connect_timeout_s):
                await self._loop.sock_connect(sock, self._server)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 0)
            self.local_port = sock.getsockname()[1]
            await self._loop.create_connection(lambda: self, sock=sock)
        except TimeoutError:
            sock.close()
            raise SetupTimeout(
                f"{self._server[0]} did not answer the TCP connection request in {self._connect_timeout_s:g} s",
                transmissions=0,
                waited_s=self._connect_timeout_s,
            ) from None
        except OSError as exc:
            said = take_icmp_errors(sock)
            sock.close()
            if isinstance(exc, ConnectionRefusedError) and not said:
                raise Unreachable(f"{self._server[0]} refused the TCP connection (reset)") from exc
            raise Unreachable(str(said[0]) if said else f"{self._server[0]}: {explain(exc)}") from exc
        except BaseException:
            sock.close()
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._done.done():
            self._drive(partial(self.session.receive, data, self._loop.time()))

    def eof_received(self) -> bool:
        if not self._done.done():
            self._drive(partial(self.session.eof, self._loop.time()))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection = None
        if isinstance(exc, OSError):
            self._network_said(exc)

    def _send(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if self._connection is not None:
                self._connection.write(piece)

    def _network_said(self, error: OSError) -> None:
        self._finish(Unreachable(f"{self._server[0]}: {explain(error)}"))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
