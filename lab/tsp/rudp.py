"""Reliable delivery of TSP messages over UDP (RFC 5572 section 4.4.1.2).

The client drives: one message at a time is outstanding, sent again until the answer with its sequence number
comes.  `Outbox` is that half.  A message sent again keeps its number and gets a new timestamp; the timeout is
that of RFC 6298, with Karn's rule: an answer to a message that was sent twice measures nothing, and the
doubled timeout stays until one that was sent once is answered.

The broker only answers.  `Inbox` is its half: it remembers the answer to each of the last numbers, so that a
repeated request is answered again and not carried out again.

Neither reads a clock: callers pass `now` in seconds, from any start.  Neither fragments.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from lab.errors import LocalProtocolError, RemoteProtocolError, SetupTimeout
from lab.tsp.header import FIRST_SEQUENCE, Header, format_header, parse_header
from lab.tsp.parameters import Counters, Retransmission

MAX_REMEMBERED: Final = 16
"""Requests an `Inbox` remembers: a whole set-up is 4 to 7."""
_GRANULARITY_S: Final = 0.001  # G of RFC 6298: the unit of our timestamps


class RoundTrip:
    """The retransmission timeout from measured round trips (RFC 6298 section 2)."""

    def __init__(self, config: Retransmission) -> None:
        self._config = config
        self.srtt_s: float | None = None
        self.rttvar_s = 0.0
        self.rto_s = config.initial_rto_s

    def measured(self, sample_s: float) -> None:
        """Take one round trip of a message that was sent once."""
        if self.srtt_s is None:
            self.srtt_s = sample_s
            self.rttvar_s = sample_s / 2
        else:
            self.rttvar_s += (abs(self.srtt_s - sample_s) - self.rttvar_s) / 4
            self.srtt_s += (sample_s - self.srtt_s) / 8
        rto = self.srtt_s + max(_GRANULARITY_S, 4 * self.rttvar_s)
        self.rto_s = min(max(rto, self._config.min_rto_s), self._config.max_rto_s)

    def back_off(self) -> None:
        """Double the timeout after it expired (RFC 6298 section 5.5)."""
        self.rto_s = min(self.rto_s * 2, self._config.max_rto_s)


class Outbox:
    """The client's half: numbers messages, resends the unanswered one, recognises its answer."""

    def __init__(self, config: Retransmission, counters: Counters) -> None:
        self.round_trip = RoundTrip(config)
        self.peer_answered = False
        self._config = config
        self._counters = counters
        self._next_sequence = FIRST_SEQUENCE
        self._outstanding: bytes | None = None
        self._parting: list[bytes] = []
        self._sequence = 0
        self._due = False
        self._transmissions = 0
        self._first_sent_at = 0.0
        self._sent_at = 0.0

    def send(self, body: bytes, now: float) -> None:
        """Make `body` the next message.  The one before it must have been answered."""
        if self._outstanding is not None:
            raise LocalProtocolError("one message at a time: the last one has no answer yet")
        self._outstanding = body
        self._sequence = self._take_sequence()
        self._transmissions = 0
        self._due = True

    def poll(self, now: float) -> None:
        """Ask for another answer to what was sent before, with an empty message."""
        self.send(b"", now)

    def send_last(self, body: bytes, now: float) -> None:
        """Send `body` once and expect nothing: a farewell."""
        self._outstanding = None
        self._parting.append(format_header(Header(self._take_sequence(), _timestamp(now))) + body)

    def stop(self) -> None:
        """Expect nothing any more."""
        self._outstanding = None

    def to_send(self, now: float) -> list[bytes]:
        """The datagrams due now; starts the clock of the outstanding one."""
        datagrams, self._parting = self._parting, []
        if self._outstanding is not None and self._due:
            self._due = False
            self._transmissions += 1
            self._sent_at = now
            if self._transmissions == 1:
                self._first_sent_at = now
            else:
                self._counters.retransmissions += 1
            datagrams.append(format_header(Header(self._sequence, _timestamp(now))) + self._outstanding)
        self._counters.sent(datagrams)
        return datagrams

    def receive(self, datagram: bytes, now: float) -> list[bytes]:
        """The answer in a datagram, or nothing: what is late, repeated or not signalling is counted and dropped.

        Only the sequence number must fit; some brokers put their own clock into the timestamp.
        """
        self._counters.received(datagram)
        try:
            header, body = parse_header(datagram)
        except RemoteProtocolError:
            self._counters.ignored += 1
            return []
        if self._outstanding is None or self._transmissions == 0 or header.sequence != self._sequence:
            self._counters.ignored += 1
            return []
        if self._transmissions == 1:
            self.round_trip.measured(max(0.0, now - self._sent_at))
        self.peer_answered = True
        self._outstanding = None
        self._counters.round_trips += 1
        return [body]

    def end(self, now: float) -> list[bytes]:
        """UDP has no end of stream."""
        return []

    def timer(self) -> float | None:
        """When the outstanding message is to be sent again or given up, or None."""
        if self._outstanding is None or self._due:
            return None
        return self._sent_at + self.round_trip.rto_s

    def handle_timer(self, now: float) -> list[bytes]:
        """Make the outstanding message due again.  Raises `SetupTimeout` after the last try; gives no messages."""
        due_at = self.timer()
        if due_at is None or now < due_at:
            return []
        allowed = self._config.transmissions if self.peer_answered else self._config.first_transmissions
        if self._transmissions >= allowed:
            sent, waited = self._transmissions, now - self._first_sent_at
            self._outstanding = None
            who = "the broker stopped answering" if self.peer_answered else "no answer from the broker"
            raise SetupTimeout(f"{who}: {sent} datagrams in {waited:.1f} s", transmissions=sent, waited_s=waited)
        self.round_trip.back_off()
        self._due = True
        return []

    def _take_sequence(self) -> int:
        sequence = self._next_sequence
        self._next_sequence = (sequence + 1) & 0x0FFFFFFF
        return sequence


class Arrival(Enum):
    """How a request stands to those before it."""

    NEW = auto()
    ANSWERED = auto()
    """Seen before; its answer is remembered."""
    PENDING = auto()
    """Seen before; the answer is not there yet."""
    BEGAN_AGAIN = auto()
    """The first message of a session again, and not as a late copy: a client that starts anew."""
    CHANGED = auto()
    """A known number on another message: a client that counts from the start again."""


@dataclass(slots=True)
class _Request:
    header: Header
    digest: bytes
    answer: bytes | None = None


class Inbox:
    """The broker's half: knows the last requests of one client and what they were answered.

    A client that starts anew from the same port may count from the same number.  Its first message then looks
    like a copy of the old first one.  Clocks tell them apart: a copy was sent before anything that followed it,
    so a later timestamp is no copy; nor is one that comes when nothing new came for `restart_after_s`.
    """

    def __init__(self, restart_after_s: float = 10.0) -> None:
        self._restart_after_s = restart_after_s
        self._requests: OrderedDict[int, _Request] = OrderedDict()
        self._first: int | None = None
        self._newest_timestamp: int | None = None  # of what followed the first
        self._new_since = 0.0

    def arrival(self, header: Header, body: bytes, now: float) -> Arrival:
        """How this request stands to those remembered.  A repeated one is answered with its own, newer header."""
        request = self._requests.get(header.sequence)
        if request is None:
            return Arrival.NEW
        if request.digest != _digest(body):
            return Arrival.CHANGED
        if header.sequence == self._first and self._newest_timestamp is not None:
            quiet = now - self._new_since >= self._restart_after_s
            if quiet or later(header.timestamp, self._newest_timestamp):
                return Arrival.BEGAN_AGAIN
        request.header = header
        return Arrival.PENDING if request.answer is None else Arrival.ANSWERED

    def remember(self, header: Header, body: bytes, now: float) -> None:
        """A request is going to be carried out."""
        if self._first is None:
            self._first = header.sequence
        else:
            self._newest_timestamp = header.timestamp
        self._new_since = now
        self._requests.pop(header.sequence, None)
        self._requests[header.sequence] = _Request(header, _digest(body))
        while len(self._requests) > MAX_REMEMBERED:
            self._requests.popitem(last=False)

    def answer(self, sequence: int, body: bytes) -> bytes:
        """The datagram that answers a remembered request, from now on also to its repeats."""
        request = self._requests[sequence]
        request.answer = body
        return format_header(request.header) + body

    def repeated(self, sequence: int) -> bytes:
        """The datagram that answers a repeated request: the same message, the newest timestamp."""
        request = self._requests[sequence]
        return format_header(request.header) + (request.answer or b"")

    def forget(self) -> None:
        """Be as new: the next request is the first of a session."""
        self._requests.clear()
        self._first = self._newest_timestamp = None


def later(timestamp: int, than: int) -> bool:
    """True when one 32-bit timestamp comes after another, across the wrap (as sequence numbers of RFC 1982)."""
    return 0 < (timestamp - than) & 0xFFFFFFFF < 0x80000000


def _timestamp(now: float) -> int:
    return int(now * 1000) & 0xFFFFFFFF


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
