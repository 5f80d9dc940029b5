"""Content-length, and the cutting of a TCP stream into messages (RFC 5572 section 4.4.3)."""

from __future__ import annotations

import pytest

from lab.errors import RemoteProtocolError
from lab.tsp.framing import MAX_MESSAGE, PATIENCE_S, MessageStream, frame, parse_reply, unframe

ACCEPT = b'<tunnel action="accept"></tunnel>\r\n'
LIST = b'<tunnel action="list" type="broker"><broker><address type="ipv4">192.0.2.1</address></broker></tunnel>\r\n'


def cut(data: bytes, *, step: int | None = None, lists_follow: bool = False) -> list[bytes]:
    stream = MessageStream(lists_follow=lists_follow)
    messages: list[bytes] = []
    for start in range(0, len(data), step or len(data)):
        stream.feed(data[start : start + (step or len(data))], 0.0)
        while (message := stream.next()) is not None:
            messages.append(message)
    return messages


def test_accept_is_35_bytes_long_as_in_the_rfc_and_in_gogoc() -> None:
    assert frame(ACCEPT) == b"Content-length: 35\r\n" + ACCEPT
    assert unframe(frame(ACCEPT)) == ACCEPT.strip()


@pytest.mark.parametrize(
    "body",
    [
        b"Content-length: 35\r\n" + ACCEPT,
        b"content-LENGTH:35\n" + ACCEPT.strip(),  # counts a CR LF that it does not send
        b"Content-length: 33\r\n" + ACCEPT,  # sends a CR LF that it does not count
        b"\r\n\0 Content-length : 35 bytes\r\n\r\n" + ACCEPT + b"\0",
    ],
)
def test_frames_are_read_with_every_known_quirk(body: bytes) -> None:
    assert unframe(body) == ACCEPT.strip()


@pytest.mark.parametrize(
    "body",
    [
        ACCEPT,
        b"Content-length: 123\r\n" + ACCEPT,
        b"Content-length: 20\r\n" + ACCEPT,
        b"Content-length: -35\r\n" + ACCEPT,
        b"Content-length: 35" + ACCEPT,
        b"Content-length: 9999999999\r\n" + ACCEPT,
        b"Content-length:\r\n" + ACCEPT,
    ],
)
def test_wrong_lengths_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unframe(body)


def test_reply_is_read_with_and_without_content_length() -> None:
    assert parse_reply(frame(b"200 Success\r\n<tunnel/>\r\n")).content == b"<tunnel/>"
    bare = parse_reply(b"310 TSP status error\r\n")  # what tsps sends in the create phase
    assert (bare.code, bare.text, bare.content) == (310, "TSP status error", b"")
    one_line = parse_reply(frame(b"200 Success <tunnel/>"))
    assert (one_line.code, one_line.text, one_line.content) == (200, "Success", b"<tunnel/>")


def test_stream_is_cut_alike_whatever_the_segments() -> None:
    stream = b"VERSION=2.0.2\r\nAUTHENTICATE PLAIN\r\n\0\0ann\0secret\r\n" + frame(ACCEPT) + b"\0" + frame(ACCEPT)
    expected = [b"VERSION=2.0.2", b"AUTHENTICATE PLAIN", b"ann\0secret", frame(ACCEPT), frame(ACCEPT)]
    for step in (None, 1, 2, 3, 7, 19, 20, 21):
        assert cut(stream, step=step) == expected


def test_nul_before_a_message_is_skipped_and_noticed() -> None:
    stream = MessageStream(lists_follow=False)
    stream.feed(b"AUTHENTICATE DIGEST-MD5\r\n\0", 0.0)
    assert stream.next() == b"AUTHENTICATE DIGEST-MD5"
    assert stream.next() is None
    assert stream.skipped_nul


def test_line_without_an_end_counts_after_silence() -> None:
    stream = MessageStream(lists_follow=True)
    stream.feed(b"200 Succ", 5.0)
    assert stream.next() is None
    stream.feed(b"ess", 5.5)
    assert stream.timer() == 5.5 + PATIENCE_S
    stream.handle_timer(5.5 + PATIENCE_S / 2)
    assert stream.next() is None
    stream.handle_timer(5.5 + PATIENCE_S)
    assert stream.next() == b"200 Success"
    assert stream.timer() is None


def test_line_without_an_end_counts_when_the_stream_ends() -> None:
    stream = MessageStream(lists_follow=True)
    stream.feed(b"300 Authentication failed", 0.0)
    stream.end()
    assert stream.next() == b"300 Authentication failed"


def test_frame_lacking_a_counted_line_end_counts_after_silence_and_one_lacking_more_does_not() -> None:
    for missing, complete in ((1, True), (2, True), (3, False)):
        stream = MessageStream(lists_follow=True)
        stream.feed(frame(ACCEPT)[:-missing], 0.0)
        assert stream.next() is None
        stream.handle_timer(PATIENCE_S)
        assert (stream.next() is not None) is complete


def test_half_a_length_header_is_never_taken_for_a_line() -> None:
    stream = MessageStream(lists_follow=False)
    stream.feed(b"Content-len", 0.0)
    stream.handle_timer(PATIENCE_S)
    assert stream.next() is None
    stream.feed(b"gth: 35\r", 3.0)
    assert stream.next() is None
    stream.feed(b"\n" + ACCEPT, 3.0)
    assert stream.next() == frame(ACCEPT)


def test_redirection_waits_for_its_list_on_the_client_side() -> None:
    data = b"1302 Unsupported client version\r\n" + LIST + b"\0"
    for step in (None, 1, 5):
        assert cut(data, step=step, lists_follow=True) == [data[: data.index(b"</tunnel>") + 9]]


def test_stream_keeps_no_more_than_one_message() -> None:
    stream = MessageStream(lists_follow=False)
    stream.feed(b"x" * MAX_MESSAGE, 0.0)
    assert stream.next() is None
    stream.feed(b"x", 0.0)
    with pytest.raises(RemoteProtocolError):
        stream.next()
    assert stream.next() is None
    stream.feed(b"VERSION=2.0.0\r\n", 0.0)
    assert stream.next() == b"VERSION=2.0.0"


def test_whole_messages_before_one_that_is_too_long_are_read() -> None:
    stream = MessageStream(lists_follow=False)
    stream.feed(b"VERSION=2.0.0\r\n" + b"x" * 10 * MAX_MESSAGE, 0.0)
    assert stream.next() == b"VERSION=2.0.0"
    with pytest.raises(RemoteProtocolError):
        stream.next()


def test_frame_that_would_never_fit_is_handed_on_to_be_refused() -> None:
    (message,) = cut(b"Content-length: 999999\r\n<tunnel")
    with pytest.raises(RemoteProtocolError):
        unframe(message)
