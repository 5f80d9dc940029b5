"""The client's end of a TSP session over TCP: the same calls as `lab.tsp.rudp.Outbox`, without resending.

TCP delivers, so there is only one timer of its own: how long the broker may take over an answer.  Each item
that `to_send` gives is meant as one write.
"""

from __future__ import annotations

from lab.errors import SetupTimeout
from lab.tsp.framing import MessageStream
from lab.tsp.parameters import Counters


class StreamOutbox:
    """Sends messages on a TCP connection and cuts what comes back into answers."""

    def __init__(self, reply_timeout_s: float, counters: Counters) -> None:
        self._reply_timeout_s = reply_timeout_s
        self._counters = counters
        self._stream = MessageStream(lists_follow=True)
        self._pending: list[bytes] = []
        self._waiting_since: float | None = None
        self._stopped = False

    def send(self, body: bytes, now: float) -> None:
        """Make `body` the next message and wait for its answer."""
        self._pending.append(body)
        self._waiting_since = now

    def poll(self, now: float) -> None:
        """Wait for another answer to what was sent before."""
        self._waiting_since = now

    def send_last(self, body: bytes, now: float) -> None:
        """Send `body` and expect nothing."""
        self._pending.append(body)
        self._waiting_since = None

    def stop(self) -> None:
        """Expect nothing any more, and keep nothing of what still comes."""
        self._waiting_since = None
        self._stopped = True

    def to_send(self, now: float) -> list[bytes]:
        pieces, self._pending = self._pending, []
        self._counters.sent(pieces)
        return pieces

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """The whole messages that `data` completes.  Raises `RemoteProtocolError` when one is too long."""
        self._counters.received(data)
        if self._stopped:
            self._counters.ignored += 1
            return []
        self._stream.feed(data, now)
        return self._messages()

    def end(self, now: float) -> list[bytes]:
        """The messages that the end of the stream completes."""
        self._stream.end()
        return self._messages()

    def timer(self) -> float | None:
        """When an unfinished message or an answer is waited for no longer, or None."""
        if self._stopped:
            return None
        waiting = None if self._waiting_since is None else self._waiting_since + self._reply_timeout_s
        times = [at for at in (waiting, self._stream.timer()) if at is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> list[bytes]:
        """The messages that silence completes.  Raises `SetupTimeout` when an answer is overdue."""
        self._stream.handle_timer(now)
        messages = self._messages()
        if not messages and self._waiting_since is not None and now >= self._waiting_since + self._reply_timeout_s:
            waited = now - self._waiting_since
            self._waiting_since = None
            raise SetupTimeout(f"the broker did not answer in {waited:.1f} s", transmissions=1, waited_s=waited)
        return messages

    def _messages(self) -> list[bytes]:
        messages: list[bytes] = []
        while (message := self._stream.next()) is not None:
            messages.append(message)
            if self._waiting_since is not None:
                self._counters.round_trips += 1
            self._waiting_since = None
        return messages
