"""The broker and the client on a real machine: what `lab broker` and `lab client` do.

Both work in the network namespace they are started in, until SIGTERM, SIGINT or SIGHUP, and then take down what they
set up.  A client that loses its tunnel sets it up again, more and more patiently.  Randomness is the system's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from lab.actors.advertise import Advertiser
from lab.actors.broker import BACKLOG, TunnelBroker
from lab.actors.client import TunnelClient
from lab.actors.report import SetupReport
from lab.actors.settings import BrokerSettings, Limits, check_device
from lab.actors.store import Store
from lab.errors import KernelRefused, LabError, MissingFeature, UsageError
from lab.kernel.namespace import raise_descriptor_limit
from lab.tsp import PORT, BrokerConfig, ClientConfig, Mechanism, TunnelType

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

log = logging.getLogger(__name__)

RETRY_S: Final = (1.0, 300.0)
"""First and longest wait before a lost tunnel is set up again; the wait doubles."""

_OWN_DESCRIPTORS: Final = 64
"""Open files of a broker besides its TCP connections, with some to spare."""

_LIFETIME_USED: Final = 0.95
"""Share of a tunnel's lifetime after which it is set up anew."""

_T = TypeVar("_T")
_FORWARDING: Final = "net/ipv6/conf/all/forwarding"
_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientWish:
    """What a person asks of `lab client`."""

    broker: str
    """Name or IPv4 address, with ":port" if it is not 3653."""
    tunnel: TunnelType = TunnelType.V6ANYV4
    transport: str = "auto"
    user: str | None = None
    password: str | None = None
    mechanism: Mechanism | None = None
    prefix_length: int | None = None
    lan: str | None = None
    """Interface to announce the delegated prefix on; asks for a /64 when no length is given."""
    device: str = "tsp0"
    mtu: int = 1280
    keepalive_interval_s: int = 30
    default_route: bool = True


def run_broker(
    *,
    pool: IPv6Network,
    address: IPv4Address | None = None,
    database: Path | None = None,
    users: Mapping[str, str] | None = None,
    anonymous: bool = True,
    realm: str = "lab",
    device: str = "tsp0",
    mtu: int = 1280,
    say: Callable[[str], None] = log.info,
) -> int:
    """Serve tunnels until a signal comes; the exit status.

    `address` is where to listen (None: the address of the default route).  `database` keeps accounts and leases
    (None: in memory).  `users` are added to it, name to password.  Raises UsageError, MissingFeature, KernelRefused.
    """
    check_device(device)
    if pool.is_multicast or pool.is_link_local or pool.is_loopback or pool.prefixlen < 8:
        raise UsageError(f"clients cannot have addresses of {pool}; give the broker a prefix that is routed to it")
    mechanisms = tuple(m for m in Mechanism if anonymous or m is not Mechanism.ANONYMOUS)
    listen = address or _address_of_the_default_route()
    descriptors = raise_descriptor_limit()
    rng = secrets.SystemRandom()
    store = Store(pool, rng=rng, path=database or ":memory:", realm=realm)
    try:
        for user, password in (users or {}).items():
            store.add_user(user, password)
        settings = BrokerSettings(
            address=listen,
            session=BrokerConfig(name=str(listen), realm=realm, mechanisms=mechanisms),
            device=device,
            mtu=mtu,
            limits=limits_for(descriptors),
        )
        if not anonymous and not store.users():
            raise UsageError("nobody could log in: add users, or allow anonymous clients")

        async def serve(namespace: Namespace, stop: asyncio.Event) -> int:
            from lab.kernel import sit

            broker = TunnelBroker(namespace, settings, store, rng=rng)
            await broker.start()
            try:
                if namespace.sysctl(_FORWARDING) == "0":
                    say(f"clients will reach this machine only; to let them further: sysctl -w {_FORWARDING}=1")
                say(f"serves {pool} on {listen} port {PORT}, UDP and TCP")
                await _unless(stop, broker.failed.wait())
            finally:
                await broker.stop()
                sit.unsilence(namespace)
            if broker.failed.is_set():
                raise LabError(f"the tunnel device {device} was removed; without it the broker cannot serve")
            say("stopped; " + ", ".join(f"{name} {count}" for name, count in sorted(broker.counters.items())))
            return 0

        return _until_signal(serve)
    finally:
        store.close()


def limits_for(descriptors: int) -> Limits:
    """A broker's limits in a process that may have so many open files.

    With every descriptor in use a listener cannot even refuse a connection: asyncio tries again, and logs each try.
    """
    usual = Limits()
    return replace(usual, connections=max(1, min(usual.connections, descriptors - BACKLOG - _OWN_DESCRIPTORS)))


def run_client(
    wish: ClientWish, *, on_report: Callable[[SetupReport], None], say: Callable[[str], None] = log.info
) -> int:
    """Set a tunnel up and hold it until a signal comes; the exit status: 1 if the first set-up failed, else 0.

    `on_report` is told how each set-up went.  Raises UsageError, MissingFeature, KernelRefused.
    """
    host, port = resolve(wish.broker)
    check_device(wish.device)
    rng = secrets.SystemRandom()
    prefix_length = 64 if wish.lan is not None and wish.prefix_length is None else wish.prefix_length

    def new_client(namespace: Namespace) -> TunnelClient:
        try:
            config = ClientConfig(
                client_address=local_address(str(host)),
                tunnel=wish.tunnel,
                user=wish.user,
                password=wish.password,
                mechanisms=None if wish.mechanism is None else (wish.mechanism,),
                server_name=wish.broker.partition(":")[0],
                prefix_length=prefix_length,
                keepalive_interval_s=wish.keepalive_interval_s,
            )
        except ValueError as exc:
            raise UsageError(str(exc)) from exc
        return TunnelClient(
            namespace,
            config,
            (host, port),
            wish.transport,
            device=wish.device,
            mtu=wish.mtu,
            rng=rng,
            default_route=wish.default_route,
        )

    async def hold(namespace: Namespace, stop: asyncio.Event) -> int:
        from lab.kernel import links

        if wish.lan is not None and not links.exists(namespace, wish.lan):
            raise UsageError(f"this machine has no interface {wish.lan!r} to announce a prefix on")
        wait_s, first = RETRY_S[0], True
        while not stop.is_set():
            try:
                client = new_client(namespace)
                report = await _unless(stop, client.connect())
                if report is None:  # told to stop meanwhile
                    break
                on_report(report)
                if report.outcome == "ready":
                    dead = await _hold_tunnel(namespace, client, wish, stop, say)
                    wait_s = RETRY_S[0]
                    if not stop.is_set():
                        why = "the tunnel is dead" if dead else "the tunnel's lifetime is nearly over"
                        say(f"{why}; setting up another")
                elif first:
                    return 1
            except LabError as exc:
                if first:
                    raise
                say(str(exc))  # no route, or no LAN, just now perhaps: what worked once may work again
            first = False
            if not stop.is_set():
                await _unless(stop, asyncio.sleep(wait_s))
                wait_s = min(2 * wait_s, RETRY_S[1])
        return 0

    return _until_signal(hold)


async def _hold_tunnel(
    namespace: Namespace, client: TunnelClient, wish: ClientWish, stop: asyncio.Event, say: Callable[[str], None]
) -> bool:
    """Keep a tunnel, and the announcement of its prefix, until it is over or `stop` is set; then take both down.

    True if it died, False if it was ended in good time before the broker would (RFC 5572 section 4.7.1, lifetime).
    """
    advertiser = None
    prefix = client.report.prefix
    try:
        with _forwarding(namespace, wish.lan is not None):
            if wish.lan is not None and prefix is not None:
                advertiser = Advertiser(namespace, wish.lan, prefix, mtu=wish.mtu, rng=secrets.SystemRandom())
                await advertiser.start()
                say(f"announces {advertiser.prefix} on {wish.lan}")
            return (
                await _unless(stop, lost_within(client, _LIFETIME_USED * 60 * (client.report.lifetime_min or 0)))
                or False
            )
    finally:
        if advertiser is not None:
            await advertiser.stop()
        await client.close()


async def lost_within(client: TunnelClient, seconds: float) -> bool:
    """Wait until the tunnel is dead (True) or `seconds` are over (False; 0: they never are)."""
    try:
        async with asyncio.timeout(seconds or None):
            await client.wait_lost()
    except TimeoutError:
        return False
    return True


@contextmanager
def _forwarding(namespace: Namespace, wanted: bool) -> Iterator[None]:
    """IPv6 forwarding is on inside the block when it is wanted, and as it was afterwards."""
    before = namespace.sysctl(_FORWARDING)
    if wanted:
        namespace.sysctl(_FORWARDING, "1")
    try:
        yield
    finally:
        if wanted:
            namespace.sysctl(_FORWARDING, before)


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, _T]) -> _T | None:
    """What `work` gives, or None if `stop` was set first; `work` has been cancelled and has cleaned up then."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    return None if task.cancelled() else task.result()


def _until_signal(work: Callable[[Namespace, asyncio.Event], Coroutine[None, None, int]]) -> int:
    """Run `work` in this process's namespace; SIGTERM and SIGINT set its event."""
    from lab.kernel.namespace import Namespace

    async def main() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _STOP:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, stop.set)
        with Namespace.current(socket.gethostname()) as namespace:
            return await work(namespace, stop)

    try:
        return asyncio.run(main())
    except KernelRefused as exc:
        if exc.errno in (errno.EPERM, errno.EACCES):
            raise MissingFeature(
                f"the privilege to {exc.action}", instead="run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
            ) from exc
        if exc.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"cannot {exc.action}: this machine does not have that address") from exc
        if exc.errno == errno.EADDRINUSE:
            raise UsageError(f"cannot {exc.action}: another program listens there") from exc
        if exc.errno in (errno.EEXIST, errno.EBUSY):
            raise UsageError(f"cannot {exc.action}: there is one already, of another broker or client?") from exc
        raise


def resolve(broker: str) -> tuple[IPv4Address, int]:
    """The IPv4 address and port that "name", "name:port" or "address:port" means; raises UsageError."""
    host, _, digits = broker.partition(":")
    if digits and not (digits.isdecimal() and 0 < int(digits) < 65_536):
        raise UsageError(f"{broker!r}: {digits!r} is no port; give the broker as NAME or NAME:PORT")
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as exc:  # the latter for what cannot be a name
        raise UsageError(
            f"{host!r} has no IPv4 address: {getattr(exc, 'strerror', None) or 'not a host name'}"
        ) from exc
    return IPv4Address(found[0][4][0]), int(digits or PORT)


def _address_of_the_default_route() -> IPv4Address:
    try:
        return local_address("192.0.2.1")
    except UsageError as exc:
        raise UsageError("this machine has no default IPv4 route; say where to listen with --address") from exc


def local_address(towards: str) -> IPv4Address:
    """This machine's address on the way to an IPv4 address; nothing is sent.  Raises UsageError without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((towards, PORT))
        except OSError as exc:
            raise UsageError(f"this machine has no IPv4 route to {towards}: {exc.strerror}") from exc
        return IPv4Address(sock.getsockname()[0])
