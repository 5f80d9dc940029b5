"""A tunnel broker and server (RFC 5572): TSP over UDP and TCP, prefixes from a pool, one device for all tunnels.

`lab.tsp.BrokerSession` speaks the protocol; this module gives it a clock and sockets, answers its requests from a
`Store` and brings tunnels up and down.  A tunnel is up before the client is told that its acceptance was heard.
Nothing a stranger sends can stop the broker or make it hold more than `Limits` allows.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import sqlite3
from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any, Final

from lab.actors.dataplane import BrokerDataPlane, OuterAddress, Tunnel, open_protocol_41, open_udp
from lab.actors.links import Link, TcpLink, UdpLink
from lab.actors.ratelimit import RateLimiter
from lab.actors.settings import KEEPALIVE_S, SHORTEST_PREFIX, BrokerSettings, settings_from_options
from lab.actors.store import Lease, Store
from lab.encap import AddressSet, Drop
from lab.errors import KernelRefused, TunnelRefused
from lab.tsp import (
    HEADER_LENGTH,
    Authenticated,
    BrokerEvent,
    BrokerSession,
    Closed,
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
    classify,
)

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace
    from lab.kernel.tun import PacketDevice
    from lab.topology.plan import NodePlan

log = logging.getLogger(__name__)

BACKLOG: Final = 128
"""Connections that wait to be taken; so many are taken at once before the first too many is closed."""
_HOUSEKEEPING_S: Final = 1.0
"""How late something may be ended."""
_OPENINGS: Final = (b"VERSION", b"ECHO REQUEST")


class TunnelBroker:
    """One broker in one namespace."""

    def __init__(
        self,
        namespace: Namespace,
        settings: BrokerSettings,
        store: Store,
        *,
        rng: random.Random,
        owns_store: bool = False,
    ) -> None:
        """`rng` makes nonces: `secrets.SystemRandom()` on a real machine.  With `owns_store`, `stop` closes `store`."""
        self.namespace = namespace
        self.settings = settings
        self.store = store
        self.counters: Counter[str] = Counter()
        """Packets carried and dropped (by `lab.encap.Drop`), set-ups and what was refused, since the start."""
        self._rng = rng
        self._owns_store = owns_store
        self._log = logging.LoggerAdapter(log, {"node": namespace.name})
        self._links: dict[OuterAddress, UdpLink] = {}
        self._setups: dict[UdpLink, None] = {}  # UDP links without a tunnel, oldest first
        self._connections: Counter[str] = Counter()
        self._tcp_links: set[TcpLink] = set()
        self._up: dict[Tunnel, Link] = {}
        self._by_user: dict[str, Tunnel] = {}
        self._per_ipv4: Counter[str] = Counter()  # tunnels and offers
        limits = settings.limits
        self._limiter = RateLimiter(limits.datagrams_per_s, limits.burst)
        self.failed = asyncio.Event()
        """Set when it can carry nothing any more, since its device is gone; it is then to be stopped."""
        self._device: PacketDevice | None = None
        self._udp: socket.socket | None = None
        self._raw: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._plane: BrokerDataPlane | None = None
        self._housekeeper: asyncio.TimerHandle | None = None

    @classmethod
    def from_options(cls, namespace: Namespace, plan: NodePlan, *, rng: random.Random) -> TunnelBroker:
        """The broker that a topology describes; its accounts and leases live in memory.  Raises UsageError."""
        options = plan.options
        assert plan.ipv4 is not None
        settings = settings_from_options(plan.name, IPv4Address(plan.ipv4), options)
        store = Store(
            IPv6Network(options["pool"]),
            rng=rng,
            realm=settings.session.realm,
            shortest_prefix=options.get("shortest_prefix", SHORTEST_PREFIX),
        )
        for user, password in options.get("users", {}).items():
            store.add_user(user, password)
        return cls(namespace, settings, store, rng=rng, owns_store=True)

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Open the device and the sockets and begin to serve.  Raises KernelRefused; nothing is left open then."""
        from lab.kernel import links, sit
        from lab.kernel.tun import PacketDevice

        where = (str(self.settings.address), self.settings.port)
        action = f"make device {self.settings.device}"
        try:
            self._device = PacketDevice.open(self.namespace, self.settings.device, self.settings.mtu)
            links.add_address(self.namespace, self.settings.device, f"{self.store.server_address}/128")
            links.add_route(self.namespace, str(self.store.pool), None, self.settings.device)
            action = f"open UDP {where[0]}:{where[1]}"
            self._udp = open_udp(self.namespace)
            self._udp.bind(where)
            action = "open a raw socket for protocol 41"
            self._raw = open_protocol_41(self.namespace)
            self._raw.bind((where[0], 0))
            sit.silence(self.namespace)
            action = f"listen on TCP {where[0]}:{where[1]}"
            listener = self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(where)
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: TcpLink(self), sock=listener, backlog=BACKLOG
                )
            except BaseException:
                listener.close()
                raise
        except OSError as exc:
            await self.stop()
            raise KernelRefused(self.namespace.name, action, exc.errno or 0) from exc
        except BaseException:
            await self.stop()
            raise
        self._plane = BrokerDataPlane(
            self._device, self._udp, self._raw, self.counters, self._datagram, self._device_gone
        )
        self._plane.start()
        self._keep_house()
        self._log.info("serves %s on %s port %d (%s)", self.store.pool, *where, self._device.kind)

    async def stop(self) -> None:
        """Take down all tunnels, close everything, remove the device; safe to call twice."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            self._housekeeper = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in [*self._links.values(), *self._tcp_links]:
            link.close()
            self.forget(link)
        for tunnel in list(self._up):
            self._take_down(tunnel, "the broker stops")
        if self._plane is not None:
            self._plane.stop()
            self._plane = None
        for thing in (self._udp, self._raw, self._device):
            if thing is not None:
                thing.close()
        self._udp = self._raw = self._device = None
        if self._owns_store:
            self.store.close()

    def _device_gone(self, error: OSError) -> None:
        self._log.error("device %s is gone: %s", self.settings.device, error.strerror)
        self.failed.set()

    # ------------------------------------------------------------------ what others ask of it

    @property
    def tunnels(self) -> tuple[Tunnel, ...]:
        """All tunnels that are up, oldest first."""
        return tuple(self._up)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases of all tunnels that are up, oldest first."""
        return tuple(tunnel.lease for tunnel in self._up)

    def peer_of(self, address: IPv6Address) -> IPv4Address | None:
        """The IPv4 address behind which the client that holds `address` is seen; None when nobody holds it."""
        tunnel = None if self._plane is None else self._plane.lookup(address)
        return None if tunnel is None else IPv4Address(tunnel.outer[0])

    # ------------------------------------------------------------------ signalling in

    def _datagram(self, datagram: bytes, source: OuterAddress, now: float) -> None:
        """A datagram that is no IPv6 packet.  Whatever it holds, the broker goes on."""
        if len(datagram) < HEADER_LENGTH or classify(datagram) != "signalling":
            self.counters[Drop.UNKNOWN_MARKER] += 1
            return
        if not self._limiter.allow(source[0], now):
            self.counters["rate_limited"] += 1
            return
        self._plan_housekeeping(now)
        link = self._links.get(source)
        opening = datagram[HEADER_LENGTH:].lstrip(b" \t\r\n\0")[:16].upper().startswith(_OPENINGS)
        if link is None or (link.session.closed and opening):
            if not opening:  # the rest of a session that is gone, or junk: no state for it, and no answer
                self.counters["no_session"] += 1
                return
            link = self._new_udp_link(source, link)
        self.drive(link, partial(link.session.receive, datagram, now), now)

    def _new_udp_link(self, source: OuterAddress, old: UdpLink | None) -> UdpLink:
        """A link for a new set-up.  A client that begins again on its old port loses its tunnel (RFC 5572 4.5.2)."""
        if old is not None:
            if old.tunnel is not None:
                self._take_down(old.tunnel, "the client began again")
            self.forget(old)
        while len(self._setups) >= self.settings.limits.setups:
            self.forget(next(iter(self._setups)))
            self.counters["setups_pushed_out"] += 1
        assert self._udp is not None
        link = UdpLink(self, self._new_session(Transport.UDP, source[0]), source, self._udp)
        self._links[source] = link
        self._setups[link] = None
        return link

    def admit(self, link: TcpLink, source: OuterAddress, now: float) -> BrokerSession | None:
        """A session for a new TCP connection, or None when it is one too many."""
        limits = self.settings.limits
        if not self._limiter.allow(source[0], now):
            self.counters["rate_limited"] += 1
            return None
        self._plan_housekeeping(now)
        if len(self._tcp_links) >= limits.connections or self._connections[source[0]] >= limits.connections_per_ipv4:
            self.counters["connections_refused"] += 1
            return None
        self._tcp_links.add(link)
        self._connections[source[0]] += 1
        return self._new_session(Transport.TCP, source[0])

    def _new_session(self, transport: Transport, source: str) -> BrokerSession:
        self.counters["sessions"] += 1
        return BrokerSession(
            self.settings.session,
            transport,
            IPv4Address(source),
            rng=self._rng,
            credentials=self.store.credentials,
        )

    def drive(self, link: Link, step: Callable[[], None], now: float) -> None:
        """Take one `step` of a session (an input, a timer), act on its events and send what it wants sent."""
        session = link.session
        try:
            step()
            while (event := session.next_event()) is not None:
                self._act(link, event, now)
            link.send(session.to_send(now))
        except Exception:  # noqa: BLE001 - a fault of ours must cost one client its session, not everyone the broker
            self.counters["internal_errors"] += 1
            self._log.exception("session of %s failed", link.source[0])
            if link.tunnel is not None:
                self._take_down(link.tunnel, "its session failed")
            link.close()
            self.forget(link)
            return
        link.set_timer(None if session.closed else session.timer())

    # ------------------------------------------------------------------ events

    def _act(self, link: Link, event: BrokerEvent, now: float) -> None:
        match event:
            case Authenticated(user=user, mechanism=mechanism):
                self._log.debug("%s is %s by %s", link.source[0], user or "anonymous", mechanism.value)
            case TunnelRequested(request=request):
                self._answer(link, request, now)
            case TunnelAccepted():
                self._bring_up(link, now)
                link.session.confirm(now)
            case TunnelRejected():
                self._withdraw(link)
            case TunnelDeleted() | SessionRestarted():
                self._withdraw(link)
                if link.tunnel is not None:
                    self._take_down(link.tunnel, "the client asked for it", by_client=True)
            case SessionFailed(error=error):
                self.counters["sessions_failed"] += 1
                self._log.info("%s: %s", link.source[0], error)
                self._withdraw(link)
            case Closed():
                link.close()
                if link.tunnel is None:
                    self.forget(link)

    def _answer(self, link: Link, request: TunnelRequest, now: float) -> None:
        """Offer a tunnel, or say why there is none."""
        self._withdraw(link)
        try:
            self._check_limits(link, request)
            length = request.prefix_length or (64 if request.router else None)
            lease = self.store.lease(request.user, length)
        except TunnelRefused as refusal:
            self.counters["refused"] += 1
            self._log.info("%s refused: %d %s", link.source[0], refusal.code, refusal.reason)
            link.session.refuse(refusal.code, refusal.reason, now)
            return
        except sqlite3.Error as exc:
            self.counters["refused"] += 1
            self._log.error("the database failed: %s", exc)
            link.session.refuse(Status.SERVER_ERROR, None, now)
            return
        self._end_holders_of_another_prefix(lease, now)
        link.lease = lease
        link.offer = self._parameters(link, request, lease)
        self._per_ipv4[link.source[0]] += 1
        link.session.offer(link.offer, now)

    def _end_holders_of_another_prefix(self, lease: Lease, now: float) -> None:
        """A user who asks for another prefix has given the old one back, and the next client may get it.

        So his tunnel that uses it ends now, and so do set-ups in which it was offered to him.
        """
        if lease.user is None or lease.routed is None:
            return
        kept = (None, lease.routed)
        old = self._by_user.get(lease.user)
        if old is not None and old.lease.routed not in kept:
            self._take_down(old, f"{lease.user} asked for another prefix")
        for other in [*self._setups, *self._tcp_links]:
            if other.lease is not None and other.lease.user == lease.user and other.lease.routed not in kept:
                other.session.close(now, "its user asked for another prefix")
                other.close()
                self.forget(other)

    def _check_limits(self, link: Link, request: TunnelRequest) -> None:
        limits = self.settings.limits
        same_user = None if request.user is None else self._by_user.get(request.user)
        replaced = {tunnel for tunnel in (link.tunnel, same_user) if tunnel is not None}
        if len(self._up) - len(replaced) >= limits.tunnels:
            raise TunnelRefused(Status.NO_MORE_TUNNELS, f"all {limits.tunnels} tunnels are in use")
        from_here = sum(tunnel.outer[0] == link.source[0] for tunnel in replaced)
        if self._per_ipv4[link.source[0]] - from_here >= limits.tunnels_per_ipv4:
            raise TunnelRefused(
                Status.IPV4_ALREADY_USED, f"{link.source[0]} has {limits.tunnels_per_ipv4} tunnels, which is the limit"
            )

    def _parameters(self, link: Link, request: TunnelRequest, lease: Lease) -> TunnelParameters:
        interval = request.keepalive_interval_s
        return TunnelParameters(
            type=request.type,
            lifetime_min=self.settings.lifetime_min,
            client_ipv4=IPv4Address(link.source[0]),
            client_ipv6=lease.address,
            server_ipv4=self.settings.address,
            server_ipv6=self.store.server_address,
            prefix=lease.routed,
            keepalive_interval_s=None if interval is None else min(max(interval, KEEPALIVE_S[0]), KEEPALIVE_S[1]),
            keepalive_address=self.store.server_address,
        )

    def _bring_up(self, link: Link, now: float) -> None:
        """Install the tunnel that was offered, in place of an older one of the same user or link."""
        offer, lease = link.offer, link.lease
        assert self._plane is not None
        assert offer is not None
        assert lease is not None
        link.offer = link.lease = None
        old = self._by_user.get(lease.user) if lease.user is not None else None
        if link.tunnel is not None:
            self._take_down(link.tunnel, "the client set up another", by_client=True)
        if old is not None and old in self._up:
            self._take_down(old, f"{lease.user} set up another")
        outer = link.source if offer.type is TunnelType.V6UDPV4 else (link.source[0], 0)
        interval = offer.keepalive_interval_s
        tunnel = Tunnel(
            lease=lease,
            outer=outer,
            allowed=AddressSet(lease.networks),
            last_heard=now,
            expires_at=now + 60 * offer.lifetime_min,
            idle_s=None if interval is None else interval * self.settings.limits.idle_intervals,
        )
        self._plane.insert(tunnel)
        self._up[tunnel] = link
        if lease.user is not None:
            self._by_user[lease.user] = tunnel
        link.tunnel = tunnel
        if isinstance(link, UdpLink):
            self._setups.pop(link, None)
        self.counters["tunnels_up"] += 1
        self._log.info(
            "%s for %s at %s: %s", offer.type.value, lease.user or "anonymous", link.source[0], lease.address
        )

    def _take_down(self, tunnel: Tunnel, why: str, *, by_client: bool = False) -> None:
        """Remove a tunnel and free what it held.

        Its session ends too, unless the client (`by_client`) goes on with it: to begin again, or for an answer.
        """
        link = self._up.pop(tunnel)
        assert self._plane is not None
        self._plane.remove(tunnel)
        user = tunnel.lease.user
        if user is not None and self._by_user.get(user) is tunnel:
            del self._by_user[user]
        self._release(tunnel.outer[0], tunnel.lease)
        link.tunnel = None
        self.counters["tunnels_down"] += 1
        self._log.info("tunnel %s down: %s", tunnel.lease.address, why)
        now = asyncio.get_running_loop().time()
        if not by_client:
            link.session.close(now, why)
            link.close()
        if link.session.closed:
            self.forget(link)
        elif isinstance(link, UdpLink):
            self._setups[link] = None
            link.since = now

    def _withdraw(self, link: Link) -> None:
        """Take back an offer that was not accepted."""
        if link.lease is not None:
            self._release(link.source[0], link.lease)
            link.offer = link.lease = None

    def _release(self, ipv4: str, lease: Lease) -> None:
        self._per_ipv4[ipv4] -= 1
        if self._per_ipv4[ipv4] <= 0:
            del self._per_ipv4[ipv4]
        try:
            self.store.release(lease)
        except sqlite3.Error as exc:
            self._log.error("the database failed: %s", exc)

    def forget(self, link: Link) -> None:
        """Drop a link and its offer; its tunnel, if it has one, stays."""
        link.set_timer(None)
        self._withdraw(link)
        if isinstance(link, UdpLink):
            self._setups.pop(link, None)
            if self._links.get(link.source) is link:
                del self._links[link.source]
        elif isinstance(link, TcpLink) and link in self._tcp_links:
            self._tcp_links.discard(link)
            self._connections[link.source[0]] -= 1
            if not self._connections[link.source[0]]:
                del self._connections[link.source[0]]

    # ------------------------------------------------------------------ time passing

    def _keep_house(self) -> None:
        """End what is too slow, too quiet or too old."""
        self._housekeeper = None
        now = asyncio.get_running_loop().time()
        limits = self.settings.limits
        self._limiter.sweep(now)
        for tunnel in list(self._up):
            if tunnel.idle_s is not None and now - tunnel.last_heard > tunnel.idle_s:
                self.counters["tunnels_idle"] += 1
                self._take_down(tunnel, f"silent for {now - tunnel.last_heard:.0f} s")
            elif now >= tunnel.expires_at:
                self.counters["tunnels_expired"] += 1
                self._take_down(tunnel, "its lifetime is over")
        for link in [link for link in self._setups if now - link.since > limits.setup_s]:
            self.counters["setups_expired"] += 1
            self.forget(link)
        for tcp in list(self._tcp_links):
            patience_s = limits.setup_s if tcp.tunnel is None else limits.connection_linger_s
            if now - tcp.since > patience_s:
                self.counters["setups_expired"] += tcp.tunnel is None
                tcp.abort()
        self._plan_housekeeping(now)

    def _plan_housekeeping(self, now: float) -> None:
        """Have the house kept in a second while there are set-ups, else when a tunnel may have to end, else not.

        Called again for every new set-up.  A broker whose tunnels are up costs no processor time while they are silent.
        """
        if self._setups or self._tcp_links or len(self._limiter):
            at = now + _HOUSEKEEPING_S
        elif self._up:
            ends = (min(t.expires_at, t.last_heard + (t.idle_s or math.inf)) for t in self._up)
            at = max(min(ends), now) + _HOUSEKEEPING_S
        else:
            return
        if self._housekeeper is not None:
            if self._housekeeper.when() <= at:
                return
            self._housekeeper.cancel()
        self._housekeeper = asyncio.get_running_loop().call_at(at, self._keep_house)


def describe(tunnel: Tunnel) -> dict[str, Any]:
    """A tunnel as plain values, for a status line or JSON."""
    return {
        "user": tunnel.lease.user,
        "client_ipv6": str(tunnel.lease.address),
        "prefix": None if tunnel.lease.routed is None else str(tunnel.lease.routed),
        "outer": tunnel.outer[0],
        "port": tunnel.outer[1] or None,
        "packets_in": tunnel.packets_in,
        "packets_out": tunnel.packets_out,
    }
