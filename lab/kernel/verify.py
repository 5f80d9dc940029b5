"""Measure what impaired links really do, before anything is measured through them.

Probe frames of an experimental EtherType go out of one end of a link, through its queueing disciplines, and are read
with the kernel's time stamps at the other end, before any bridge, route or rule there.  One process holds both ends,
so a one-way delay is the difference of two readings of one clock.

Found by: delay, the median; jitter, from the standard deviation of a uniform distribution; loss, by count; rate, from
the arrival times of a packet train behind its initial burst; MTU, by a frame that fits and one that does not.

A sample tells a share to some standard deviations only, so a right link is measured wrong now and then: with a
probability below 1 % for all its parameters together.  Three measurements in a row have to be wrong, so that a right
link is refused once in a million links at most; and their medians, which are what is told then.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import socket
import statistics
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from lab.errors import ImpairmentError
from lab.kernel.buffers import enlarge
from lab.kernel.namespace import Namespace
from lab.kernel.shaping import ETHERNET_BYTES, QUEUE_S, burst_bytes
from lab.topology.plan import AddLink, Plan, Shape

_ETH_P_ALL: Final = 3
_ETH_P_EXPERIMENTAL: Final = 0x88B5
_PACKET_OUTGOING: Final = 4
_SO_TIMESTAMPNS: Final = 35
_BUFFER: Final = 32 << 20

_probe: Final = struct.Struct("!4sIq")
_MAGIC: Final = b"lab\0"
_timespec: Final = struct.Struct("=qq")
_SMALL: Final = 64

_SHARES: Final = ("loss_pct", "duplicate_pct", "reorder_pct")
_BY_SAMPLE: Final = ("delay_ms", "jitter_ms", *_SHARES)
_DELAY_PROBES: Final = 40
_SHARE_PROBES: Final = 1000
_ENOUGH_PCT: Final = 90.0
"""With more than this share of 1,000 lost, too few are left to tell anything else by."""
_APART_MS: Final = 2.0
"""A packet that skips a delay is told from others when their delay is at least this."""
_TRAIN_AT_MOST: Final = 2000
_LONGEST_TRAIN: Final = 10_000
"""Frames.  Where jitter or loss ask for more the rate is not measured."""
RATE_MEASURED_UP_TO_MBIT: Final = 2000.0
"""Above, this process cannot fill the link, and the rate is not measured."""

_ATTEMPTS: Final = 3
"""A busy machine disturbs a measurement; a link that is wrong is wrong every time."""
_PAUSE_S: Final = 0.3
"""Before the second attempt; longer before the third."""
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class _Direction:
    """One way along a link: from an interface to the one at the other end."""

    node: str
    iface: str
    mac: str
    peer: str
    peer_iface: str
    peer_mac: str
    mtu: int
    shape: Shape

    @property
    def link(self) -> str:
        return f"{self.node}:{self.iface} - {self.peer}:{self.peer_iface}"

    @property
    def requested(self) -> dict[str, float]:
        return requested_of(self.shape, self.mtu)

    @property
    def measured(self) -> dict[str, float]:
        """What of the request is measured."""
        found = measurable(self.requested)
        rate_mbit = found.get("rate_mbit", 0.0)
        if rate_mbit > RATE_MEASURED_UP_TO_MBIT or (rate_mbit and train(self.shape, self.mtu)[0] > _LONGEST_TRAIN):
            del found["rate_mbit"]
        return found


def requested_of(shape: Shape | None, mtu: int) -> dict[str, float]:
    """All that was asked of one way along a link, by parameter name."""
    asked = {name: float(getattr(shape, name, 0.0)) for name in (*_BY_SAMPLE, "rate_mbit")}
    found = {name: value for name, value in asked.items() if value}
    return found if mtu == 1500 else {**found, "mtu": float(mtu)}


async def verify(fabric: Mapping[str, Namespace], plan: Plan) -> list[dict[str, Any]]:
    """What each impaired way of each link was asked for and does.

    One object each: `link` ("a:eth0 - b:eth0"), `direction` ("a -> b"), `requested` and `achieved`, by parameter
    name (delay_ms, jitter_ms, loss_pct, duplicate_pct, reorder_pct, rate_mbit, mtu), all but the last measured to
    the accuracy of a sample.  What no sample can tell (see `measurable`) has been requested and has not been achieved.
    Raises ImpairmentError for the first that is too far from what was asked.  Takes about the delay plus 0.3 s.
    """
    turn = asyncio.Semaphore(_AT_ONCE)

    async def first_attempt(direction: _Direction) -> dict[str, float]:
        async with turn:
            return await _measure(fabric, direction)

    directions = [direction for direction in _directions(plan) if direction.requested]
    rows = []
    for direction, first in zip(directions, await asyncio.gather(*map(first_attempt, directions)), strict=True):
        wanted, found = direction.measured, [first]
        while not acceptable(wanted, found[-1]) and len(found) < _ATTEMPTS:
            await asyncio.sleep(len(found) * _PAUSE_S)
            found.append(await _measure(fabric, direction))
        achieved = found[-1]
        if not acceptable(wanted, achieved):
            # Nor was any before: on a busy machine each may be wrong for a reason of its own.
            achieved = {name: statistics.median(each[name] for each in found) for name in achieved}
        if not acceptable(wanted, achieved):
            raise ImpairmentError(
                f"{direction.link} ({direction.node} to {direction.peer})", direction.requested, achieved
            )
        rows.append(
            {
                "link": direction.link,
                "direction": f"{direction.node} -> {direction.peer}",
                "requested": direction.requested,
                "achieved": achieved,
            }
        )
    return rows


def acceptable(requested: Mapping[str, float], achieved: Mapping[str, float]) -> bool:
    """Whether a measurement agrees with the request, given what its sample can tell.

    Delay within 1 ms or 5 %; jitter within 1 ms or 25 %; loss, doubles and reordering within four standard
    deviations of a binomial count (one false alarm in 16,000, or in 1,000 where few are expected) and one more; rate
    within 10 %; MTU exactly.
    """
    jitter = requested.get("jitter_ms", 0.0)
    sampled = _Expected.of(requested)
    for name, wanted in requested.items():
        if name in _SHARES:
            share, of = sampled.shares[name]
            wanted = 100 * share
            room = 100 * (4 * math.sqrt(share * (1 - share) / of) + 1 / of)
        else:
            room = {
                "delay_ms": max(1.0, 0.05 * wanted) + 3 * jitter / math.sqrt(min(_DELAY_PROBES, sampled.delayed)),
                "jitter_ms": max(1.0, 0.25 * wanted),
                "rate_mbit": 0.10 * wanted,
                "mtu": 0.0,
            }[name]
        if not abs(achieved.get(name, math.inf) - wanted) <= room:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a sample of `_SHARE_PROBES` frames shows of a link that does what was asked, as netem does it.

    Each frame is doubled or not, and lost or not: of a doubled one, a loss takes one copy, and the copy that goes in
    again may be lost too.
    """

    shares: Mapping[str, tuple[float, float]]
    """Of what is measured, by name: the share, and of how many."""
    delayed: float
    """Arrivals that have the link's delay."""

    @classmethod
    def of(cls, requested: Mapping[str, float]) -> _Expected:
        loss, double, hurry = (requested.get(name, 0.0) / 100 for name in _SHARES)
        lost = loss * (1 - double)
        different = _SHARE_PROBES * (1 - lost)
        twice = double * (1 - loss) ** 2 / (1 - lost) if lost < 1 else 0.0
        arrivals = different * (1 + twice)
        shares = {
            "loss_pct": (lost, _SHARE_PROBES),
            "duplicate_pct": (twice, max(different, 1.0)),
            "reorder_pct": (hurry, max(arrivals, 1.0)),
        }
        return cls(shares, max(arrivals * (1 - hurry), 1.0))


def measurable(requested: Mapping[str, float]) -> dict[str, float]:
    """What of a request a sample can tell: of a link that loses nearly all, the loss; of one on which nearly all
    packets skip the delay, or the least delay is none, not the delay.
    """
    found = dict(requested)
    if found.get("loss_pct", 0.0) > _ENOUGH_PCT:
        return {"loss_pct": found["loss_pct"]}
    least_ms = found.get("delay_ms", 0.0) - found.get("jitter_ms", 0.0)
    if "reorder_pct" in found and (found["reorder_pct"] > _ENOUGH_PCT or least_ms < _APART_MS):
        for name in ("delay_ms", "jitter_ms", "reorder_pct"):
            found.pop(name, None)
    return found


def _directions(plan: Plan) -> list[_Direction]:
    shapes = {(step.node, step.iface): step for step in plan.steps if isinstance(step, Shape)}
    found = []
    for step in plan.steps:
        if isinstance(step, AddLink):
            a, b = (step.a, step.a_iface, step.a_mac), (step.b, step.b_iface, step.b_mac)
            for near, far in ((a, b), (b, a)):
                shape = shapes.get(near[:2], Shape(near[0], near[1], 0))
                found.append(_Direction(*near, *far, step.mtu, shape))
    return found


async def _measure(fabric: Mapping[str, Namespace], way: _Direction) -> dict[str, float]:
    wanted = way.measured
    achieved: dict[str, float] = {}
    if not wanted:
        return achieved
    with ExitStack() as stack:
        probe = stack.enter_context(_Probe(fabric[way.node], fabric[way.peer], way))
        if wanted.keys() & set(_BY_SAMPLE):
            found = await _sample(probe, way.shape)
            achieved = {name: found[name] for name in wanted.keys() & found.keys()}
        if "rate_mbit" in wanted:
            achieved["rate_mbit"] = await _train(probe, way)
        if "mtu" in wanted:
            achieved["mtu"] = await _largest(probe, way)
    return achieved


async def _sample(probe: _Probe, shape: Shape) -> dict[str, float]:
    """Every parameter of `_BY_SAMPLE`, measured; delay and jitter infinite when nothing arrived."""
    shares = any(getattr(shape, name) for name in _SHARES)
    count = _SHARE_PROBES if shares else _DELAY_PROBES
    spacing_s = 0.0002 if shares else 0.002
    if shape.rate_mbit:  # use a quarter of the rate at most: a queue would look like delay
        spacing_s = max(spacing_s, 4 * _SMALL * 8 / (shape.rate_mbit * 1e6))
    began = time.monotonic()
    for number in range(count):
        ahead = began + number * spacing_s - time.monotonic()
        if ahead > 0.001:
            await asyncio.sleep(ahead)
        probe.send(number, _SMALL)
    # With doubles under way, as many as were sent may be here before the last.
    await probe.arrived(2 * count if shape.duplicate_pct else count, (shape.delay_ms + shape.jitter_ms) / 1000 + 0.25)
    return summarise(shape, [(each.number, (each.at_ns - each.sent_ns) / 1e6) for each in probe.take()], count)


def summarise(shape: Shape, arrivals: list[tuple[int, float]], sent: int) -> dict[str, float]:
    """What (number, delay in ms) of the frames that arrived say about a link that was asked for `shape`.

    A frame that skipped the delay, and so overtook others, is known by less than half of the least delay.
    """
    hurried = [ms for _, ms in arrivals if shape.reorder_pct and ms < (shape.delay_ms - shape.jitter_ms) / 2]
    delayed = [ms for _, ms in arrivals if not shape.reorder_pct or ms >= (shape.delay_ms - shape.jitter_ms) / 2]
    different = len({number for number, _ in arrivals})
    return {
        "delay_ms": statistics.median(delayed) if delayed else math.inf,
        "jitter_ms": statistics.pstdev(delayed) * math.sqrt(3) if delayed else math.inf,
        "loss_pct": 100 * (1 - different / sent),
        "duplicate_pct": 100 * (len(arrivals) - different) / max(different, 1),
        "reorder_pct": 100 * len(hurried) / max(len(arrivals), 1),
    }


async def _train(probe: _Probe, way: _Direction) -> float:
    """Rate in Mbit/s, from frames that had to wait: those behind the burst an idle link lets through."""
    size = _train_size(way.mtu)
    shape = way.shape
    count, unpaced = train(shape, way.mtu)
    for number in range(count):
        probe.send(number, size)
    held_s = max(2 * QUEUE_S, 8 * size * 8 / (shape.rate_mbit * 1e6))  # by the link's queue, at most
    patience_s = (shape.delay_ms + 2 * shape.jitter_ms) / 1000 + 2 * held_s + 0.5
    await probe.arrived(2 * count if shape.duplicate_pct else count, patience_s)
    arrivals = probe.take()
    # What skips the delay does not wait together with the others, but before them.
    since_ns = min((each.sent_ns for each in arrivals), default=0) + (shape.delay_ms - shape.jitter_ms) * 1e6
    ordered = sorted((each.at_ns, each.sent_ns) for each in arrivals if not shape.reorder_pct or each.at_ns >= since_ns)
    # The link's own pace is seen between a frame and one that was waiting behind it: this process may have paused.
    longest_ns = (shape.delay_ms + shape.jitter_ms) * 1e6
    gaps_ns = [b - a for (a, _), (b, sent) in itertools.pairwise(ordered[unpaced:]) if sent + longest_ns <= a]
    if not sum(gaps_ns):
        return math.inf
    return len(gaps_ns) * size * 8 / (sum(gaps_ns) / 1e9) / 1e6


def train(shape: Shape, mtu: int) -> tuple[int, int]:
    """How many frames keep a link of limited rate busy, and how many of the first to arrive did not have to wait.

    Losses take some of them, with luck more than usual, and what skips the delay skips the limit too.  Jitter comes
    before the limit and spreads what was sent together over twice its length, so there must be more than the link can
    carry in that time: three times as many.
    """
    size = _train_size(mtu)
    frames_s = shape.rate_mbit * 1e6 / 8 / size
    unpaced = burst_bytes(shape.rate_mbit, mtu) // size + 1
    needed = unpaced + max(4, round(frames_s * QUEUE_S * 0.8))
    needed = min(needed, max(_TRAIN_AT_MOST, unpaced + 4))
    if shape.jitter_ms:
        unpaced *= 2  # the burst is used up while more comes
        needed = max(unpaced + needed, round(3 * frames_s * 2 * shape.jitter_ms / 1000))
    share = (1 - shape.loss_pct / 100) * (1 - shape.reorder_pct / 100)
    return math.ceil((needed + 4 * math.sqrt(needed * (1 - share))) / max(share, 0.01)), unpaced


def _train_size(mtu: int) -> int:
    return min(mtu, 1500) + ETHERNET_BYTES


async def _largest(probe: _Probe, way: _Direction) -> float:
    """The link's MTU if a packet of that size arrives and one byte more is refused, else 0."""
    loss = way.shape.loss_pct / 100
    tries = max(5, math.ceil(math.log(1e-4) / math.log(loss))) if loss else 5  # all lost: once in 10,000 at most
    for number in range(tries):
        probe.send(number, way.mtu + ETHERNET_BYTES)
    await probe.arrived(1, way.shape.delay_ms / 1000 + 0.5)
    fits = any(arrival.size == way.mtu + ETHERNET_BYTES for arrival in probe.take())
    try:
        probe.send(tries, way.mtu + ETHERNET_BYTES + 1)
    except OSError as exc:
        return float(way.mtu) if fits and exc.errno == errno.EMSGSIZE else 0.0
    return 0.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    number: int
    sent_ns: int
    at_ns: int
    size: int


class _Probe:
    """Sends frames at one end of a link and gathers them at the other."""

    def __init__(self, near: Namespace, far: Namespace, way: _Direction) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals: list[_Arrival] = []
        self._changed = asyncio.Event()
        self._sender = near.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._receiver = far.socket(socket.AF_PACKET, socket.SOCK_RAW)
        try:
            enlarge(self._sender, "send", _BUFFER)
            enlarge(self._receiver, "receive", _BUFFER)
            self._receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._sender.bind((way.iface, 0))
            # All protocols: the tap for one protocol comes after a bridge has taken the frame away.
            self._receiver.bind((way.peer_iface, _ETH_P_ALL))
        except BaseException:
            self._close()
            raise
        macs = bytes.fromhex((way.peer_mac + way.mac).replace(":", ""))
        self._header = macs + _ETH_P_EXPERIMENTAL.to_bytes(2, "big")
        self._loop.add_reader(self._receiver, self._read)

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._receiver)
        self._close()

    def _close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def send(self, number: int, size: int) -> None:
        """One frame of `size` bytes; dropped by us too when the queue is full, as by a full link."""
        frame = self._header + _probe.pack(_MAGIC, number, time.time_ns())
        try:
            self._sender.send(frame.ljust(size, b"\0"))
        except BlockingIOError:
            pass
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise

    def _read(self) -> None:
        while True:
            try:
                frame, control, _, address = self._receiver.recvmsg(65535, 64)
            except OSError:
                return
            if frame[12:14] != self._header[12:14] or address[2] == _PACKET_OUTGOING or len(frame) < 30:
                continue
            magic, number, sent_ns = _probe.unpack_from(frame, 14)
            if magic == _MAGIC:
                seconds, nanoseconds = _timespec.unpack(control[0][2])
                self._arrivals.append(_Arrival(number, sent_ns, seconds * 10**9 + nanoseconds, len(frame)))
                self._changed.set()

    async def arrived(self, count: int, patience_s: float) -> None:
        """Wait until `count` frames have arrived, or `patience_s` is over."""
        try:
            async with asyncio.timeout(patience_s):
                while len(self._arrivals) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    def take(self) -> list[_Arrival]:
        """The frames that have arrived since the last call."""
        taken, self._arrivals = self._arrivals, []
        return taken
