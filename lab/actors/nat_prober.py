"""Find out what a NAT does, by sending through it: the tests of RFC 5780 sections 4.3 to 4.6, from both sides.

The observers are in our own hands, so nothing has to be asked of a server.  That a packet did not arrive is never
concluded from time passed: behind it goes a marker that must arrive by the same way, twice, and what has not come by
then was dropped.

Timeouts are found by letting mappings grow old side by side and looking at which still let a packet in.  That takes
twice the timeout or more, which virtual time makes free.  In real time this process may be kept waiting anywhere: how
old a mapping was is known from the clock before and after each packet, and what came too late to tell is done again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from lab.actors.nat_twin import INSIDE, OUTSIDE, Twin, twin
from lab.errors import LabError, NatMismatch
from lab.kernel.build import build
from lab.kernel.namespace import Namespace
from lab.rules.nat_found import Classification, differences
from lab.topology.plan import Plan

log = logging.getLogger(__name__)

Endpoint = tuple[str, int]

_AGAIN_S: Final = 0.05
"""A packet that must arrive is sent again after this time: a NAT may drop one whose port turned out to be taken."""
_PATIENCE_S: Final = 5.0
_TRIES: Final = 3
"""So often a packet is sent at least, however late it has become meanwhile."""
_ATTEMPTS: Final = 3
"""A busy machine disturbs a probe; a NAT that is wrong is wrong every time."""

_PORTS: Final = (3653, 3654)
"""Of the observers."""
_FIRST_PORT: Final = 50001
"""Of the inside hosts; each probe takes the next."""
_SAMPLES: Final = 4
_CHANGES: Final = 16
"""Mappings whose ports are compared."""
_ENOUGH: Final = 14
"""So many agree in parity by chance in one of 16384 cases; all that were looked at do in one of 65536."""
_BLOCK_AT_MOST: Final = 16384
"""So many random ports lie within so small a range by chance in one of a million cases."""
_STREAM_AFTER_S: Final = 2.1
"""Connection tracking uses the stream timeout when packets go both ways for longer than 2 s."""
_TICK_S: Final = 0.05
"""How near to a timeout it is tested on both sides."""
_AT_ONCE: Final = 8
_LONG: Final = 8
_ROUNDS: Final = 20
"""So often it is tried to measure in time; three will do on a machine that is not busy."""


async def classify_nats(plan: Plan, *, timers: bool = False) -> list[dict[str, Any]]:
    """What every NAT of a plan was asked to be and was found to be: `node`, `preset`, `asked`, `found`, `seconds`.

    Timeouts are measured with `timers` only: each takes a multiple of its length.  NatMismatch for the first NAT
    that is not what was asked for.
    """
    rows = []
    for nat in plan.nodes:
        if nat.kind != "nat":
            continue
        began = time.monotonic()
        double = twin(plan, nat.name)
        if double is None:
            log.warning("%s has no inside host and is not classified", nat.name)
            continue
        found, wrong = Classification(), dict[str, tuple[Any, Any]]()
        for attempt in range(_ATTEMPTS):
            found = await classify(double, timers=timers)
            wrong = differences(double.asked, found)
            if not wrong:
                break
            log.info("%s: attempt %d found %s", nat.name, attempt + 1, wrong)
        seconds = time.monotonic() - began
        rows.append(
            {
                "node": nat.name,
                "preset": nat.options["preset"],
                "asked": double.asked.to_json(),
                "found": found.to_json(),
                "wrong": sorted(wrong),
                "seconds": seconds,
            }
        )
        log.info("%s: %s, %s in %.0f ms", nat.name, found.mapping, found.filtering, seconds * 1000)
    return rows


def refuse_mismatch(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise NatMismatch for the first row of `classify_nats` in which found is not what was asked."""
    for row in rows:
        if row["wrong"]:
            wrong = {name: (row["asked"][name], row["found"][name]) for name in row["wrong"]}
            raise NatMismatch(str(row["node"]), wrong)


async def classify(double: Twin, *, timers: bool = False) -> Classification:
    """Build the twin and classify it.  LabError when packets that must arrive do not."""
    timeouts_s = (double.behaviour.udp_timeout_s, double.behaviour.udp_stream_timeout_s)
    with (
        build(double.plan) as fabric,
        Probes(
            fabric[INSIDE],
            fabric[OUTSIDE],
            hosts=double.hosts,
            observers=double.observers,
            pool=double.pool,
            blocks=double.blocks,
        ) as probes,
    ):
        for attempt in range(1, _ATTEMPTS + 1):
            began = time.monotonic()
            found = await probes.classify()
            if time.monotonic() - began < min(timeouts_s) / 2:
                break  # no mapping of it can have ended on the way
            log.info("attempt %d to classify took longer than mappings last", attempt)
        return await probes.with_timers(found, *timeouts_s) if timers else found


class Probes:
    """Sockets on both sides of a NAT, or of several in a row; a context manager that closes them.

    `hosts` are one or two addresses in the namespace `inside`, `observers` two in `outside`; `pool` are the outside
    addresses that hosts share.  `blocks` has the ports of hosts that are to have a block of them: a few ports alone
    cannot tell a block from chance.
    """

    def __init__(
        self,
        inside: Namespace,
        outside: Namespace,
        *,
        hosts: Sequence[str],
        observers: tuple[str, str],
        pool: Sequence[str],
        blocks: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._inside = inside
        self._outside = outside
        self._hosts = hosts
        self._observers = observers
        self._pool = pool
        self._blocks = blocks or {}
        self._open = ExitStack()
        self._ports = itertools.count(_FIRST_PORT)
        self._tokens = itertools.count(1)
        self._ears = {
            (address, port): self._udp(outside, address, port) for address in self._observers for port in _PORTS
        }
        one, two = self._observers
        self.here: Endpoint = (one, _PORTS[0])
        self.other_port: Endpoint = (one, _PORTS[1])
        self.other_host: Endpoint = (two, _PORTS[0])
        self._marker = self._host(self._hosts[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _udp(self, ns: Namespace, address: str, port: int) -> _Udp:
        return self._open.enter_context(_Udp(ns, address, port))

    def _host(self, host: str, port: int | None = None) -> _Udp:
        """A new socket of an inside host."""
        return self._udp(self._inside, host, port or next(self._ports))

    # --- packets

    async def _out(self, source: _Udp, to: Endpoint) -> Endpoint:
        """Send to an observer; whom it sees."""
        return await self._deliver(source, to, self._ears[to])

    async def _deliver(self, source: _Udp, to: Endpoint, ear: _Udp, patience_s: float = _PATIENCE_S) -> Endpoint:
        """Send until it arrives; the source that the receiver sees."""
        token = self._token()
        deadline = time.monotonic() + patience_s
        for sent in itertools.count():
            if sent >= _TRIES and time.monotonic() >= deadline:
                break
            source.send(token, to)
            seen = await ear.heard(token, _AGAIN_S)
            if seen is not None:
                return seen
        raise LabError(f"a packet from {source.address} to {to[0]} does not arrive, in {patience_s:g} s of trying")

    async def _use(self, sock: _Udp) -> _Use:
        """Send to the first observer; the mapping, and when that was."""
        earliest = time.monotonic()
        mapped = await self._out(sock, self.here)
        return _Use(mapped, earliest, time.monotonic())

    async def _use_both_ways(self, sock: _Udp) -> _Use:
        """Send to the first observer, and an answer back; both again should the mapping have ended in between."""
        for _ in range(_TRIES - 1):
            use = await self._use(sock)
            try:
                await self._deliver(self._ears[self.here], use.mapped, sock, _PATIENCE_S / _TRIES)
            except LabError:
                continue
            return use
        use = await self._use(sock)
        await self._deliver(self._ears[self.here], use.mapped, sock)
        return use

    def _token(self) -> bytes:
        return b"lab probe %d" % next(self._tokens)

    async def _settle(self) -> None:
        """Return when all that was sent before has arrived or was dropped."""
        for _ in range(2):
            await self._use_both_ways(self._marker)

    async def _arrives(self, source: _Udp, to: Endpoint, ear: _Udp) -> Endpoint | None:
        """Send once; the source that `ear` sees, None when it does not arrive."""
        token = self._token()
        source.send(token, to)
        await self._settle()
        return ear.take(token)

    # --- what RFC 4787 distinguishes

    async def classify(self) -> Classification:
        """Everything but the timers."""
        mapping = await self._mapping()
        ports, seen = await self._choice_of_ports()
        changed = await self._changed_ports(ports)
        enough = len(changed) >= _ENOUGH
        if ports == "random" and enough and not self._blocks and _width(changed) < _BLOCK_AT_MOST:
            ports = "block"
        pooling = "paired" if all(len(addresses) == 1 for addresses in seen.values()) else "arbitrary"
        return Classification(
            mapping=mapping,
            filtering=await self._filtering(),
            hairpinning=await self._hairpinning(),
            ports=ports,
            parity=all((mine - theirs) % 2 == 0 for mine, theirs in changed) if enough else None,
            overloading=await self._overloading(),
            pooling=pooling if len(self._pool) > 1 else None,
            outside=seen,
            early_probe=await self._early_probe() if (mapping, ports) == ("EIM", "preserve") else None,
            proto41_host=await self._proto41_in(),
            other_protocols=await self._proto41_out(),
        )

    async def _mapping(self) -> str:
        sock = self._host(self._hosts[0])
        one, other_port, other_host = [
            await self._out(sock, to) for to in (self.here, self.other_port, self.other_host)
        ]
        if one != other_port:
            return "APDM"
        return "EIM" if one == other_host else "ADM"

    async def _filtering(self) -> str:
        sock = self._host(self._hosts[0])
        mapped = (await self._use_both_ways(sock)).mapped
        from_other_host = await self._arrives(self._ears[self.other_host], mapped, sock)
        from_other_port = await self._arrives(self._ears[self.other_port], mapped, sock)
        if from_other_host is not None:
            return "EIF"
        return "ADF" if from_other_port is not None else "APDF"

    async def _hairpinning(self) -> str:
        caller, called = self._host(self._hosts[0]), self._host(self._hosts[-1])
        known = await self._out(caller, self.here)
        mapped = await self._out(called, self.here)
        source = await self._arrives(caller, mapped, called)
        if source is None:
            return "none"
        if source == caller.endpoint:
            return "internal"
        # A mapping that depends on the peer has another port for this one.
        return "external" if source[0] in (known[0], *self._pool) else f"from {source[0]}"

    async def _choice_of_ports(self) -> tuple[str, dict[str, tuple[str, ...]]]:
        """How the ports of new mappings follow each other, and the outside addresses of each host."""
        outside: dict[str, list[str]] = {}
        runs = []
        for host in self._hosts:
            sockets = [self._host(host) for _ in range(_SAMPLES)]
            seen = [await self._out(sock, self.here) for sock in sockets]
            outside[host] = [address for address, _ in seen]
            runs.append((host, [sock.endpoint[1] for sock in sockets], [port for _, port in seen]))
        addresses = {host: tuple(sorted(set(found))) for host, found in outside.items()}
        if all(mine == theirs for _, mine, theirs in runs):
            return "preserve", addresses
        if all(b - a == 1 for _, _, ports in runs for a, b in itertools.pairwise(ports)):
            return "sequential", addresses
        within = [
            host in self._blocks and all(self._blocks[host][0] <= port <= self._blocks[host][1] for port in ports)
            for host, _, ports in runs
        ]
        return "block" if all(within) else "random", addresses

    async def _changed_ports(self, ports: str) -> list[tuple[int, int]]:
        """Ports inside and outside, of mappings whose port is another one outside; none where this NAT has few such."""
        if ports not in ("random", "preserve") or (ports == "preserve" and len(self._hosts) < 2):
            return []
        seen = []
        for _ in range(_CHANGES):
            port = next(self._ports)
            if ports == "preserve":  # the other host takes it first
                await self._out(self._host(self._hosts[1], port), self.here)
            _, outside = await self._out(self._host(self._hosts[0], port), self.here)
            seen.append((port, outside))
        return [(mine, theirs) for mine, theirs in seen if mine != theirs]

    async def _overloading(self) -> bool | None:
        """Whether hosts with the same source port and different peers are one to the outside."""
        if len(self._hosts) < 2:
            return None
        port = next(self._ports)
        ann, bob = (self._host(host, port) for host in self._hosts)
        first = await self._out(ann, self.here)
        second = await self._out(bob, self.other_host)
        return first == second

    async def _early_probe(self) -> str:
        """What becomes of a mapping when a packet of a peer comes before the host spoke to that peer."""
        host = self._hosts[0]
        sock = self._host(host)
        address, _ = await self._out(self._host(host), self.other_host)
        self._ears[self.here].send(self._token(), (address, sock.endpoint[1]))
        await self._settle()
        unspoiled = await self._out(sock, self.other_host)
        seen = await self._arrives(sock, self.here, self._ears[self.here])
        return "blocked" if seen is None else "kept" if seen == unspoiled else "moved"

    # --- protocol 41

    async def _proto41_in(self) -> str:
        with _Raw(self._outside, self._observers[0]) as sender, _Raw(self._inside, "0.0.0.0") as ear:
            token = self._token()
            sender.send(token, self._pool[0])
            await self._settle()
            return ear.destination_of(token) or "none"

    async def _proto41_out(self) -> bool:
        with _Raw(self._inside, self._hosts[0]) as sender, _Raw(self._outside, "0.0.0.0") as ear:
            token = self._token()
            sender.send(token, self._observers[1])
            await self._settle()
            return ear.destination_of(token) is not None

    # --- timers

    async def with_timers(
        self, found: Classification, udp_timeout_s: float = 30, udp_stream_timeout_s: float = 120
    ) -> Classification:
        """`found` with both timeouts and the direction that refreshes, which takes some multiples of the timeouts.

        It begins looking around the timeouts given: nearer is quicker.
        """
        fresh = await self._lifetime(udp_timeout_s)
        stream = await self._lifetime(udp_stream_timeout_s, fresh)
        is_refreshed = await self._refreshed_from_outside(fresh)
        refresh = None if is_refreshed is None else "both" if is_refreshed else "outbound"
        return replace(found, udp_timeout_s=fresh, udp_stream_timeout_s=stream, refresh=refresh)

    async def _lifetime(self, guess: float, fresh_s: float | None = None) -> float:
        """How long a mapping lets packets in after the last one from inside; begins looking around `guess`.

        With `fresh_s`, the lifetime of a new mapping: that of one in use, by packets both ways.  Of a mapping that
        lives for more than eight times the guess, and perhaps for ever, that much is told.
        """
        ages = [guess / 2, guess - _TICK_S, guess + _TICK_S]
        low, high = 0.0, float("inf")
        for _ in range(_ROUNDS):
            results = await asyncio.gather(*(self._alive_at(age, fresh_s) for age in ages))
            low = max([low, *(least for least, _, alive in results if alive)])
            high = min([high, *(most for _, most, alive in results if not alive and most > low)])
            if low >= _LONG * guess:
                return round(low, 1)
            if high - low <= 2.5 * _TICK_S:
                break
            if high == float("inf"):
                ages = [guess * factor for factor in (2, 4, _LONG)]
            else:
                ages = [low + (high - low) * step / (_AT_ONCE + 1) for step in range(1, _AT_ONCE + 1)]
        return round((low + high) / 2, 1) if high < float("inf") else round(low, 1)

    async def _alive_at(self, age_s: float, fresh_s: float | None) -> tuple[float, float, bool]:
        """(age at least, age at most, whether a packet came in) of a new mapping left alone for about `age_s`."""
        with _Udp(self._inside, self._hosts[0], next(self._ports)) as sock:
            use = await self._use(sock) if fresh_s is None else await self._make_stream(sock, fresh_s)
            # The kernel lets long waits be a thousandth late.
            await asyncio.sleep(max(0.0, age_s - 1))
            await asyncio.sleep(use.latest + age_s - time.monotonic())
            return await self._lets_in(use, sock)

    async def _lets_in(self, use: _Use, sock: _Udp) -> tuple[float, float, bool]:
        """(seconds at least, seconds at most, whether it came in) of a packet sent from outside after `use`."""
        token = self._token()
        least = time.monotonic() - use.latest
        self._ears[self.here].send(token, use.mapped)
        most = time.monotonic() - use.earliest
        await self._settle()
        return least, most, sock.take(token) is not None

    async def _make_stream(self, sock: _Udp, fresh_s: float) -> _Use:
        """Keep packets going both ways until the stream timeout holds; the last one, which is from inside."""
        # The mapping must live until the stream timeout holds.
        pause_s = min(_STREAM_AFTER_S / 2, 0.7 * fresh_s)
        late = 0
        use = await self._use(sock)
        began = use.latest
        while time.monotonic() - began < _STREAM_AFTER_S:
            with suppress(LabError):  # of a mapping that has ended
                await self._deliver(self._ears[self.here], use.mapped, sock, _PATIENCE_S / _TRIES)
            await asyncio.sleep(pause_s)
            before, use = use, await self._use(sock)
            if use.latest - before.earliest > fresh_s - _TICK_S and late < _ROUNDS:
                began, late = use.latest, late + 1  # this may be a new mapping
        return use

    async def _refreshed_from_outside(self, timeout_s: float) -> bool | None:
        """Whether a packet from outside in the mapping's life lets another in after what would have been its end.

        None when this machine is too busy to do anything at its time.
        """
        for _ in range(_ROUNDS):
            with _Udp(self._inside, self._hosts[0], next(self._ports)) as sock:
                use = await self._use(sock)
                await asyncio.sleep(timeout_s * 0.6)
                earliest = time.monotonic()
                try:
                    await self._deliver(self._ears[self.here], use.mapped, sock)
                except LabError:
                    if earliest - use.earliest < timeout_s - _TICK_S:
                        raise
                    continue  # too late: the mapping had ended
                latest = time.monotonic()
                await asyncio.sleep(timeout_s * 0.6)
                _, most, arrived = await self._lets_in(replace(use, earliest=earliest, latest=latest), sock)
                if arrived or most < timeout_s - _TICK_S:
                    return arrived
        return None


@dataclass(frozen=True, slots=True)
class _Use:
    """A packet through a mapping, and between which times it was."""

    mapped: Endpoint
    earliest: float
    latest: float


def _width(ports: Sequence[tuple[int, int]]) -> int:
    """Of ports inside and outside, how far those outside are apart."""
    outside = [theirs for _, theirs in ports]
    return max(outside) - min(outside)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Udp:
    """A UDP socket in a namespace that remembers what arrived."""

    def __init__(self, ns: Namespace, address: str, port: int) -> None:
        self._socket = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._heard: dict[bytes, Endpoint] = {}
        self.endpoint: Endpoint = (address, port)
        try:
            self._socket.bind(self.endpoint)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def address(self) -> str:
        return self.endpoint[0]

    def send(self, data: bytes, to: Endpoint) -> None:
        self._socket.sendto(data, to)

    def take(self, token: bytes) -> Endpoint | None:
        """Where `token` came from, if it has arrived."""
        while True:
            try:
                data, source = self._socket.recvfrom(2048)
            except BlockingIOError:
                return self._heard.pop(token, None)
            self._heard[data] = (source[0], source[1])

    async def heard(self, token: bytes, patience_s: float) -> Endpoint | None:
        """Where `token` came from; None when it has not arrived after `patience_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while (source := self.take(token)) is None:
            readable = loop.create_future()
            loop.add_reader(self._socket, _wake, readable)
            try:
                async with asyncio.timeout_at(deadline):
                    await readable
            except TimeoutError:
                return self.take(token)
            finally:
                loop.remove_reader(self._socket)
        return source


class _Raw:
    """A raw socket of protocol 41 in a namespace."""

    def __init__(self, ns: Namespace, address: str) -> None:
        self._socket = ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPV6)
        self._socket.bind((address, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes, to: str) -> None:
        self._socket.sendto(data, (to, 0))

    def destination_of(self, token: bytes) -> str | None:
        """The destination address of the packet that carries `token`; None when there is none."""
        while True:
            try:
                packet = self._socket.recv(2048)
            except BlockingIOError:
                return None
            if packet.endswith(token):
                return socket.inet_ntoa(packet[16:20])
