"""Resending on the client, remembering on the broker (RFC 5572 section 4.4.1.2, RFC 6298)."""

from __future__ import annotations

import pytest

from lab.errors import LocalProtocolError, SetupTimeout
from lab.tsp import Counters, Header, Retransmission, format_header, parse_header
from lab.tsp.rudp import MAX_REMEMBERED, Arrival, Inbox, Outbox, RoundTrip, later


def sendings(outbox: Outbox, *, start: float = 0.0) -> tuple[list[float], SetupTimeout]:
    """When the outstanding message is sent if nobody answers, and how that ends."""
    times: list[float] = []
    now = start
    while True:
        times += [now] * len(outbox.to_send(now))
        at = outbox.timer()
        assert at is not None
        now = at
        try:
            outbox.handle_timer(now)
        except SetupTimeout as error:
            return times, error


def answered(outbox: Outbox, now: float) -> None:
    """Send what is due and answer it at once."""
    (datagram,) = outbox.to_send(now)
    outbox.receive(datagram[:8], now)


def test_first_number_is_240_and_each_new_message_counts_on() -> None:
    outbox = Outbox(Retransmission(), Counters())
    starts: list[bytes] = []
    for now in range(3):
        outbox.send(b"", float(now))
        (datagram,) = outbox.to_send(float(now))
        starts.append(datagram[:4])
        outbox.receive(datagram, float(now))
    assert [start.hex(" ") for start in starts] == ["f0 00 00 f0", "f0 00 00 f1", "f0 00 00 f2"]


def test_silent_broker_is_given_up_after_three_sendings() -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 0.0)
    times, error = sendings(outbox)
    assert times == [0.0, 1.0, 3.0]
    assert (error.transmissions, error.waited_s) == (3, 7.0)


def test_broker_that_answered_before_is_given_up_after_eight_sendings() -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 0.0)
    answered(outbox, 0.0)
    outbox.send(b"y", 0.0)
    times, error = sendings(outbox)
    assert times == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0]
    assert (error.transmissions, error.waited_s) == (8, 121.0)


def test_schedule_is_configurable() -> None:
    config = Retransmission(initial_rto_s=2.0, min_rto_s=2.0, max_rto_s=5.0, first_transmissions=4)
    outbox = Outbox(config, Counters())
    outbox.send(b"x", 0.0)
    assert sendings(outbox)[0] == [0.0, 2.0, 6.0, 11.0]


def test_resent_message_keeps_its_number_and_has_a_new_timestamp() -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 5.0)
    (first,) = outbox.to_send(5.0)
    outbox.handle_timer(6.0)
    (second,) = outbox.to_send(6.0)
    assert parse_header(first) == (Header(240, 5000), b"x")
    assert parse_header(second) == (Header(240, 6000), b"x")


def test_timeout_follows_rfc_6298() -> None:
    round_trip = RoundTrip(Retransmission(min_rto_s=0.001))
    round_trip.measured(0.4)
    assert (round_trip.srtt_s, round_trip.rttvar_s) == (0.4, 0.2)
    assert round_trip.rto_s == pytest.approx(0.4 + 4 * 0.2)
    round_trip.measured(0.8)
    assert round_trip.rttvar_s == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)
    assert round_trip.srtt_s == pytest.approx(0.875 * 0.4 + 0.125 * 0.8)
    assert round_trip.rto_s == pytest.approx(0.45 + 4 * 0.25)


def test_timeout_stays_between_its_bounds() -> None:
    round_trip = RoundTrip(Retransmission())
    round_trip.measured(0.001)
    assert round_trip.rto_s == 1.0
    for _ in range(10):
        round_trip.back_off()
    assert round_trip.rto_s == 30.0
    round_trip.measured(1000.0)
    assert round_trip.rto_s == 30.0


def test_answer_to_a_message_sent_twice_measures_nothing_and_keeps_the_doubled_timeout() -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 0.0)
    outbox.to_send(0.0)
    outbox.handle_timer(1.0)
    (second,) = outbox.to_send(1.0)
    assert outbox.receive(second, 1.1) == [b"x"]
    assert outbox.round_trip.srtt_s is None
    outbox.send(b"y", 1.1)
    outbox.to_send(1.1)
    assert outbox.timer() == 1.1 + 2.0


@pytest.mark.parametrize("timestamp", [0, 1, 0xFFFFFFFF])
def test_answer_is_known_by_its_number_whatever_its_timestamp(timestamp: int) -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 1.0)
    outbox.to_send(1.0)
    assert outbox.receive(format_header(Header(240, timestamp)) + b"yes", 1.5) == [b"yes"]
    assert outbox.round_trip.srtt_s == 0.5


def test_late_repeated_and_foreign_datagrams_are_ignored_and_counted() -> None:
    counters = Counters()
    outbox = Outbox(Retransmission(), counters)
    outbox.send(b"x", 0.0)
    assert outbox.receive(format_header(Header(240, 0)) + b"too soon", 0.0) == []
    outbox.to_send(0.0)
    for datagram in (
        format_header(Header(239, 0)) + b"late",
        bytes.fromhex("ffffffff 00000000") + b"310 TSP status error\r\n",  # tsps, when it knows no session
        b"\x60" + bytes(39),
        b"",
        b"310",
    ):
        assert outbox.receive(datagram, 0.1) == []
    assert outbox.receive(format_header(Header(240, 0)), 0.2) == [b""]
    assert outbox.receive(format_header(Header(240, 0)), 0.2) == []
    assert (counters.ignored, counters.round_trips, counters.datagrams_received) == (7, 1, 8)


def test_two_messages_at_a_time_are_a_mistake_of_ours() -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 0.0)
    with pytest.raises(LocalProtocolError):
        outbox.send(b"y", 0.0)


def test_timer_called_early_or_twice_sends_nothing() -> None:
    outbox = Outbox(Retransmission(), Counters())
    outbox.send(b"x", 0.0)
    outbox.to_send(0.0)
    outbox.handle_timer(0.999)
    assert outbox.to_send(0.999) == []
    outbox.handle_timer(1.0)
    outbox.handle_timer(1.0)
    assert len(outbox.to_send(1.0)) == 1
    assert outbox.timer() == 3.0


def test_repeated_request_gets_its_answer_again_with_its_own_timestamp() -> None:
    inbox = Inbox()
    assert inbox.arrival(Header(240, 1), b"a", 0.0) is Arrival.NEW
    inbox.remember(Header(240, 1), b"a", 0.0)
    assert inbox.arrival(Header(240, 2), b"a", 0.0) is Arrival.PENDING
    assert inbox.answer(240, b"yes") == format_header(Header(240, 2)) + b"yes"
    assert inbox.arrival(Header(240, 3), b"a", 0.0) is Arrival.ANSWERED
    assert inbox.repeated(240) == format_header(Header(240, 3)) + b"yes"


def test_known_number_on_another_message_is_noticed() -> None:
    inbox = Inbox()
    inbox.remember(Header(240, 1), b"a", 0.0)
    assert inbox.arrival(Header(240, 1), b"b", 0.0) is Arrival.CHANGED


def test_inbox_remembers_a_bounded_number_of_requests() -> None:
    inbox = Inbox()
    for sequence in range(10 * MAX_REMEMBERED):
        inbox.remember(Header(sequence, 0), b"a", 0.0)
        inbox.answer(sequence, b"yes")
    kept = [n for n in range(10 * MAX_REMEMBERED) if inbox.arrival(Header(n, 0), b"a", 0.0) is not Arrival.NEW]
    assert kept == list(range(9 * MAX_REMEMBERED, 10 * MAX_REMEMBERED))


@pytest.mark.parametrize(
    ("timestamp", "now", "arrival"),
    [
        (0, 1.0, Arrival.ANSWERED),  # the same datagram twice
        (1000, 1.0, Arrival.ANSWERED),  # sent again before the answer came
        (1500, 1.0, Arrival.ANSWERED),  # in the same millisecond as what followed
        (1501, 1.0, Arrival.BEGAN_AGAIN),
        (0xFFFFFFFF, 1.0, Arrival.ANSWERED),
        (0, 10.9, Arrival.ANSWERED),
        (0, 11.0, Arrival.BEGAN_AGAIN),
    ],
)
def test_first_message_again_is_a_copy_or_a_new_beginning(timestamp: int, now: float, arrival: Arrival) -> None:
    inbox = Inbox(restart_after_s=10.0)
    for sequence, stamp in ((240, 0), (241, 1500)):
        inbox.remember(Header(sequence, stamp), b"a", 1.0)
        inbox.answer(sequence, b"yes")
    assert inbox.arrival(Header(240, timestamp), b"a", now) is arrival


def test_first_message_is_only_repeated_while_nothing_followed_it() -> None:
    inbox = Inbox(restart_after_s=10.0)
    inbox.remember(Header(240, 0), b"a", 0.0)
    inbox.answer(240, b"yes")
    assert inbox.arrival(Header(240, 99_000), b"a", 99.0) is Arrival.ANSWERED


def test_timestamps_are_compared_across_the_wrap() -> None:
    assert later(1, 0)
    assert later(0, 0xFFFFFFFF)
    assert not later(0, 0)
    assert not later(0, 1)
    assert not later(0xFFFFFFFF, 0)
