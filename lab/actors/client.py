"""A tunnel client (RFC 5572): sets a tunnel up, carries IPv6 through it and notices when it dies.

`connect` tries the transports asked for, then configures the device, address and default route, all or nothing: when
it does not end in a tunnel, nothing of it is left.  How it went is a `SetupReport`, also when it went badly.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Network
from typing import TYPE_CHECKING, Any, Final, Literal

from lab.actors.attempt import Attempt, RedirectedError, TcpAttempt, UdpAttempt
from lab.actors.dataplane import ClientDataPlane, open_protocol_41
from lab.actors.errorear import ErrorEar
from lab.actors.keepalive import Keepalive
from lab.actors.patience import patient_timeout_at
from lab.actors.ping import EchoSocket
from lab.actors.report import SetupReport, outcome_of
from lab.encap import IPV6_MIN_MTU, AddressSet
from lab.errors import KernelRefused, LabError, LocalProtocolError, UsageError
from lab.tsp import PORT, ClientConfig, Transport, TunnelParameters, TunnelType

if TYPE_CHECKING:
    import socket

    from lab.kernel.namespace import Namespace
    from lab.kernel.tun import PacketDevice

log = logging.getLogger(__name__)

TRANSPORTS: Final = ("udp", "tcp", "auto")
_ECHO_AFTER_S: Final = (0.0, 0.02, 0.1, 0.3, 0.7, 1.5)
"""When the first echo is sent, and sent again, after the tunnel is ready."""
_ECHO_SIZE: Final = 64
"""Bytes of an echo's IPv6 packet, as the clients in the field send it."""
_REDIRECTIONS: Final = 3


class TunnelClient:
    """One tunnel of one node."""

    def __init__(
        self,
        namespace: Namespace,
        config: ClientConfig,
        broker: tuple[str | IPv4Address, int] | str | IPv4Address,
        transport: Literal["udp", "tcp", "auto"] | Transport | str = "udp",
        *,
        device: str = "tsp0",
        mtu: int = IPV6_MIN_MTU,
        rng: random.Random,
        connect_timeout_s: float = 7.0,
        setup_timeout_s: float = 150.0,
        first_packet_timeout_s: float = 3.0,
        missed_limit: int = 3,
        default_route: bool = True,
        use_sit: bool = True,
    ) -> None:
        """`transport` "auto" is UDP, and TCP when UDP gets no answer.

        `connect_timeout_s` bounds a TCP connect, `setup_timeout_s` each attempt as a whole,
        `first_packet_timeout_s` the wait for an echo through the new tunnel (0: do not send one).
        `missed_limit` unanswered keepalives in a row mean that the tunnel is dead.  A v6v4 tunnel is the kernel's
        `sit` device where there is one and `use_sit` allows it; the kernel then counts packets, not `counters`.
        Raises UsageError.
        """
        transport = transport.value if isinstance(transport, Transport) else transport
        if transport not in TRANSPORTS:
            raise UsageError(f"there is no transport {transport!r}; choose from {', '.join(TRANSPORTS)}")
        if not IPV6_MIN_MTU <= mtu <= 65_535:
            raise UsageError(f"a tunnel MTU is {IPV6_MIN_MTU} to 65535 bytes, not {mtu}")
        address, port = broker if isinstance(broker, tuple) else (broker, PORT)
        self.namespace = namespace
        self.config = config
        self.transport = transport
        self.device = device
        self.mtu = mtu
        self.counters: Counter[str] = Counter()
        """Packets carried and dropped, by `lab.encap.Drop`."""
        self.keepalive: Keepalive | None = None
        self._server = (IPv4Address(address), port)
        self._rng = rng
        self._connect_timeout_s = connect_timeout_s
        self._setup_timeout_s = setup_timeout_s
        self._first_packet_timeout_s = first_packet_timeout_s
        self._missed_limit = missed_limit
        self._default_route = default_route
        self._use_sit = use_sit
        self._log = logging.LoggerAdapter(log, {"node": namespace.name})
        self._report: SetupReport | None = None
        self._attempt: Attempt | None = None
        self._device: PacketDevice | _SitDevice | None = None
        self._raw: socket.socket | None = None
        self._ear: ErrorEar | None = None
        self._plane: ClientDataPlane | None = None
        self._echo: EchoSocket | None = None
        self._on_echo: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    @property
    def report(self) -> SetupReport:
        """How `connect` went; LocalProtocolError before it has ended."""
        if self._report is None:
            raise LocalProtocolError("the client has not tried to connect yet")
        return self._report

    @property
    def alive(self) -> bool:
        """A tunnel is up and its keepalives are answered."""
        return self._device is not None and not self._lost.is_set()

    async def wait_lost(self) -> None:
        """Wait until the keepalive calls the tunnel dead, or its device is gone."""
        await self._lost.wait()

    # ------------------------------------------------------------------ set-up

    async def connect(self) -> SetupReport:
        """Set the tunnel up and say how that went; only faults of this machine or of the caller raise.

        With outcome "ready" packets flow, and `phases_s["first_packet"]` is the time from the end of the protocol
        to the first ICMPv6 echo reply through the tunnel: device and route included.  It is absent, and
        `carries_data` false, when none came in time.  Raises KernelRefused; nothing is left configured then.
        """
        if self._device is not None:
            raise LocalProtocolError("this client has a tunnel already; close it first")
        began = asyncio.get_running_loop().time()
        earlier: list[SetupReport] = []
        servers = [self._server]
        transport = Transport.TCP if self.transport == "tcp" else Transport.UDP
        self._lost.clear()
        while True:
            server = servers[-1]
            attempt = self._new_attempt(transport, server)
            try:
                tunnel = await attempt.run(self._setup_timeout_s)
            except RedirectedError as redirection:
                report = self._tell(attempt, server, began, redirection)
                onward = _first_new(redirection.brokers, servers)
                if onward is None or len(servers) > _REDIRECTIONS:
                    break
                servers.append(onward)
            except LabError as exc:
                report = self._tell(attempt, server, began, exc)
                if self.transport != "auto" or transport is Transport.TCP or not self._may_use_tcp(report):
                    break
                transport = Transport.TCP
            else:
                report = self._tell(attempt, server, began, tunnel)
                report = await self._bring_up(attempt, tunnel, report)
                break
            earlier.append(report)
        self._report = replace(report, attempts=tuple(earlier))
        return self._report

    def _new_attempt(self, transport: Transport, server: tuple[IPv4Address, int]) -> Attempt:
        try:
            if transport is Transport.UDP:
                return UdpAttempt(self.namespace, self.config, server, rng=self._rng)
            return TcpAttempt(
                self.namespace, self.config, server, rng=self._rng, connect_timeout_s=self._connect_timeout_s
            )
        except OSError as exc:
            raise KernelRefused(self.namespace.name, "open a socket", exc.errno or 0) from exc

    def _may_use_tcp(self, report: SetupReport) -> bool:
        """Whether "auto" goes on to TCP: nobody answered over UDP, and the tunnel does not need UDP itself."""
        return report.outcome in ("timeout", "unreachable") and self.config.tunnel is not TunnelType.V6UDPV4

    def _tell(
        self, attempt: Attempt, server: tuple[IPv4Address, int], began: float, result: TunnelParameters | LabError
    ) -> SetupReport:
        session = attempt.session
        found: dict[str, Any] = {}
        if isinstance(result, TunnelParameters):
            found = {
                "outcome": "ready",
                "type": result.type.value,
                "client_ipv6": result.client_ipv6,
                "server_ipv6": result.server_ipv6,
                "prefix": result.prefix,
                "keepalive_interval_s": result.keepalive_interval_s,
                "lifetime_min": result.lifetime_min,
            }
        elif isinstance(result, RedirectedError):
            found = {"outcome": "refused", "code": result.code, "reason": str(result)}
        else:
            found = dict(zip(("outcome", "code", "reason"), outcome_of(result), strict=True))
        return SetupReport(
            transport=attempt.transport.value,
            requested=self.config.tunnel.value,
            broker=f"{server[0]}:{server[1]}",
            mechanism=None if session.mechanism is None else session.mechanism.value,
            phases_s=dict(attempt.phases_s),
            total_s=asyncio.get_running_loop().time() - began,
            retransmissions=session.counters.retransmissions,
            round_trips=session.counters.round_trips,
            bytes_sent=session.counters.bytes_sent,
            bytes_received=session.counters.bytes_received,
            local_port=attempt.local_port,
            **found,
        )

    # ------------------------------------------------------------------ up and down

    async def _bring_up(self, attempt: Attempt, tunnel: TunnelParameters, report: SetupReport) -> SetupReport:
        """Device, address, routes, data plane, keepalive; and the first echo."""
        ready_at = asyncio.get_running_loop().time()
        errors_before = self.counters["icmp_errors"]
        self._attempt = attempt
        try:
            self._configure(attempt, tunnel)
            assert self._device is not None
            report = replace(report, device=self.device, data_plane=self._device.kind)
            took_s = await self._first_echo(ready_at)
            if took_s is not None:
                report = replace(report, phases_s={**report.phases_s, "first_packet": took_s})
            elif self._first_packet_timeout_s > 0:
                silence = f"no echo came back through the tunnel in {self._first_packet_timeout_s:g} s"
                report = replace(report, reason=silence + _told(self.counters["icmp_errors"] - errors_before))
        except BaseException as exc:
            self._tear_down()
            if isinstance(exc, OSError):
                raise KernelRefused(self.namespace.name, "bring the tunnel up", exc.errno or 0) from exc
            raise
        if isinstance(attempt, TcpAttempt):
            attempt.close()
        if tunnel.keepalive_interval_s:
            now = asyncio.get_running_loop().time()
            self.keepalive = Keepalive(tunnel.keepalive_interval_s, now, rng=self._rng, missed_limit=self._missed_limit)
            self._set_timer()
        self._log.info("tunnel %s %s on %s (%s)", report.type, report.client_ipv6, self.device, report.data_plane)
        return report

    def _configure(self, attempt: Attempt, tunnel: TunnelParameters) -> None:
        from lab.kernel import links
        from lab.kernel.tun import PacketDevice

        by_udp = tunnel.type is TunnelType.V6UDPV4
        if isinstance(attempt, UdpAttempt) and not by_udp:
            attempt.stay()
        if not by_udp:
            self._ear = ErrorEar(self.namespace, tunnel.server_ipv4, self.counters)
        self._device = self._open_sit(tunnel) if self._use_sit and not by_udp else None
        if self._device is None:
            device = self._device = PacketDevice.open(self.namespace, self.device, self.mtu)
            if by_udp:
                assert isinstance(attempt, UdpAttempt)  # the session takes no v6udpv4 offer over TCP
                outer = attempt.socket
            else:
                outer = self._raw = open_protocol_41(self.namespace)
            own = [IPv6Network(tunnel.client_ipv6)] + ([] if tunnel.prefix is None else [tunnel.prefix])
            self._plane = ClientDataPlane(
                device,
                outer,
                tunnel.server_ipv4,
                AddressSet(own),
                self.counters,
                on_device_gone=self._device_gone,
                on_other=self._late_signalling,
                on_packet=self._heard,
            )
            self._plane.start()
        links.add_address(self.namespace, self.device, f"{tunnel.client_ipv6}/128")
        if self._default_route:
            links.add_route(self.namespace, "::/0", None, self.device)
        else:
            links.add_route(self.namespace, f"{tunnel.server_ipv6}/128", None, self.device)
        self._echo = EchoSocket(
            self.namespace,
            tunnel.keepalive_address or tunnel.server_ipv6,
            self._echo_reply,
            source=tunnel.client_ipv6,
            identifier=self._rng.getrandbits(16),
        )

    def _open_sit(self, tunnel: TunnelParameters) -> _SitDevice | None:
        """The kernel's own 6in4 device, or None where the kernel has none."""
        from lab.kernel import sit

        try:
            sit.create(self.namespace, self.device, self.config.client_address, tunnel.server_ipv4, self.mtu)
        except KernelRefused as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            return None
        device = _SitDevice(self.namespace, self.device)
        if tunnel.prefix is not None:
            try:
                device.discard(tunnel.prefix)
            except BaseException:
                device.close()
                raise
        return device

    async def _first_echo(self, ready_at: float) -> float | None:
        """Seconds from `ready_at` to the first reply through the tunnel; None when none comes in time."""
        loop = asyncio.get_running_loop()
        if self._first_packet_timeout_s <= 0:
            return None
        answered: asyncio.Future[float] = loop.create_future()

        def on_echo() -> None:
            if not answered.done():
                answered.set_result(loop.time() - ready_at)

        self._on_echo = on_echo
        assert self._echo is not None
        resends = [
            loop.call_at(ready_at + after_s, self._send_echo, number)
            for number, after_s in enumerate(_ECHO_AFTER_S)
            if 0 < after_s < self._first_packet_timeout_s
        ]
        self._send_echo(0)
        try:
            async with patient_timeout_at(ready_at + self._first_packet_timeout_s):
                return await answered
        except TimeoutError:
            # Reply and end of patience are found together by a process that was kept waiting.
            return None if answered.cancelled() else answered.result()
        finally:
            self._on_echo = None
            for handle in resends:
                handle.cancel()

    def _send_echo(self, sequence: int) -> None:
        assert self._echo is not None
        try:
            self._echo.send(sequence, _ECHO_SIZE)
        except OSError as exc:  # counts as unanswered
            self._log.debug("keepalive not sent: %s", exc)

    def _echo_reply(self, sequence: int, size: int) -> None:
        if self._on_echo is not None:
            self._on_echo()
        self._heard()

    def _heard(self) -> None:
        if self.keepalive is not None:
            self.keepalive.heard()

    def _device_gone(self, error: OSError) -> None:
        self._log.warning("device %s is gone: %s", self.device, error.strerror)
        self._lost.set()

    def _late_signalling(self, datagram: bytes) -> None:
        """A repeated answer of the broker, most likely; the session knows."""
        if isinstance(self._attempt, UdpAttempt):
            self._attempt.receive_late(datagram)

    def _set_timer(self) -> None:
        if self.keepalive is None:
            return
        at = self.keepalive.timer()
        self._timer = None if at is None else asyncio.get_running_loop().call_at(at, self._keepalive_due)

    def _keepalive_due(self) -> None:
        assert self.keepalive is not None
        if self.keepalive.handle_timer(asyncio.get_running_loop().time()):
            self._send_echo(len(_ECHO_AFTER_S) + self.keepalive.sent)
        if self.keepalive.dead and not self._lost.is_set():
            self._log.warning("tunnel dead: %d keepalives unanswered", self.keepalive.missed)
            self._lost.set()
        self._set_timer()

    async def close(self, *, delete_timeout_s: float = 0.5) -> None:
        """Take the tunnel down here and, over UDP, at the broker; safe to call twice.

        The broker is asked once (RFC 5572 section 4.7.1, action delete) and given `delete_timeout_s` to answer; one
        that does not will find out by the keepalive's absence.
        """
        if isinstance(self._attempt, UdpAttempt) and self.alive and delete_timeout_s > 0:
            await self._attempt.delete(delete_timeout_s)
        device = self._device
        if device is not None and device.kind == "tun":
            self._device = None
            self._tear_down()
            await asyncio.to_thread(device.close)  # the kernel takes some 20 ms; nobody else need wait for it
        else:
            self._tear_down()

    def _tear_down(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.keepalive = None
        if self._plane is not None:
            self._plane.stop()
            self._plane = None
        for thing in (self._echo, self._attempt, self._ear, self._raw, self._device):
            if thing is not None:
                thing.close()
        self._echo = self._attempt = self._ear = self._raw = self._device = None


def _told(errors: int) -> str:
    """What the network said of a tunnel's packets, to follow the sentence that no echo came."""
    return f", but {errors} ICMP error{'s' if errors > 1 else ''} did" if errors else ""


class _SitDevice:
    """A tunnel device that the kernel fills and empties by itself."""

    kind = "sit"

    def __init__(self, namespace: Namespace, name: str) -> None:
        self._namespace = namespace
        self._name = name
        self._discarded: IPv6Network | None = None

    def discard(self, prefix: IPv6Network) -> None:
        """Let what is for an unused part of a delegated prefix not go back to the broker (RFC 7084 section 4.2)."""
        from lab.kernel import links

        try:
            links.add_unreachable(self._namespace, str(prefix))
        except KernelRefused as exc:
            if exc.errno != errno.EEXIST:  # of a client that was killed
                raise
        self._discarded = prefix

    def close(self) -> None:
        """Remove the device."""
        from lab.kernel import links, sit

        if self._namespace.fd < 0:
            return
        if self._discarded is not None:
            with suppress(KernelRefused):  # somebody has removed it already
                links.del_unreachable(self._namespace, str(self._discarded))
            self._discarded = None
        sit.delete(self._namespace, self._name)


def _first_new(brokers: tuple[str, ...], tried: list[tuple[IPv4Address, int]]) -> tuple[IPv4Address, int] | None:
    """The first of `brokers` that is an IPv4 address not tried yet; names are not looked up."""
    for broker in brokers:
        try:
            server = (IPv4Address(broker), tried[-1][1])
        except ValueError:
            continue
        if server not in tried:
            return server
    return None
