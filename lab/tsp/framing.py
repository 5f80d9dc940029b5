"""Where a message ends: the Content-length header, and the pieces of a TCP stream (RFC 5572 section 4.4.3).

    request    Content-length: N CR LF, then N bytes of XML
    reply      Content-length: N CR LF, then N bytes: `code text CR LF` and perhaps XML

N counts from the first character after the header to the end, final CR LF included.  A UDP datagram ends a
message by itself, so there N is only checked: it must cover the text, and blanks at the ends do not matter.

`MessageStream` cuts a TCP stream into the same units that UDP delivers, so that everything above reads one
kind of message.  A line ends at CR or LF; some peers send neither, or fewer bytes than they announced.  For
them silence is the sign: after `PATIENCE_S` without another byte, what is there counts as the message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lab.errors import RemoteProtocolError
from lab.tsp.lines import BLANKS
from lab.tsp.status import MessageError, parse_status

MAX_MESSAGE: Final = 8192
"""Longest message read, in bytes.  gogoc and tsps stop at 4096."""
PATIENCE_S: Final = 1.0
"""Seconds of silence after which an unfinished line counts as finished."""

_HEADER: Final = re.compile(rb"content-length[ \t]*:[ \t]*([0-9]{1,6})(?![0-9])[^\r\n]*(?:\r\n|\r|\n)", re.IGNORECASE)
_HEADER_START: Final = b"content-length"
_REDIRECTION: Final = re.compile(rb"1[0-9]{3}(?![0-9])")
_LIST_END: Final = re.compile(rb"</\s*tunnel\s*>|<tunnel[^<>]*/>", re.IGNORECASE)
_LINE_END: Final = re.compile(rb"[\r\n]")
_TAIL: Final = 2  # a peer may count a CR LF that it does not send


def frame(content: bytes) -> bytes:
    """`content` behind its Content-length header, written in the one way every peer reads."""
    return b"Content-length: %d\r\n" % len(content) + content


def unframe(body: bytes) -> bytes:
    """The content of a framed message, without blanks at its ends.  Raises `RemoteProtocolError`."""
    body = body.lstrip(BLANKS)
    header = _HEADER.match(body)
    if header is None:
        raise MessageError("expected Content-length")
    announced = int(header[1])
    rest = body[header.end() :]
    content = rest.strip(BLANKS)
    if not len(content) <= announced <= len(rest) + _TAIL:
        raise MessageError(f"Content-length is {announced}, but {len(rest)} bytes follow")
    return content


@dataclass(frozen=True, slots=True)
class Reply:
    """What a broker answered: `content` is the XML after the status line, empty when there is none."""

    code: int
    text: str
    content: bytes


def parse_reply(body: bytes) -> Reply:
    """A status reply, with or without Content-length (tsps sends errors without).  Raises `RemoteProtocolError`."""
    body = body.strip(BLANKS)
    if body[: len(_HEADER_START)].lower() == _HEADER_START:
        body = unframe(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise RemoteProtocolError("a reply that is not UTF-8") from exc
    code, sentence, rest = parse_status(text)
    return Reply(code, sentence, rest.encode().strip(BLANKS))


class MessageStream:
    """The bytes of one direction of a TCP connection, cut into messages.

    `feed` bytes, then call `next` until it says None.  At most `MAX_MESSAGE` unread bytes are kept.
    """

    def __init__(self, *, lists_follow: bool) -> None:
        """`lists_follow`: a code line above 1000 is only complete with its broker list, as a client must read it."""
        self.skipped_nul = False
        """True once a NUL stood before a message: the mark of gogoc and gw6c, who send their C terminators."""
        self._lists_follow = lists_follow
        self._buffer = b""
        self._last_byte_at = 0.0
        self._no_more = False  # the rest counts as a whole message: silence or the end of the stream
        self._ended = False
        self._overflow = False

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the connection; what does not fit is dropped, and `next` will say so."""
        if not data:
            return
        room = MAX_MESSAGE - len(self._buffer)
        self._overflow = self._overflow or len(data) > room
        self._buffer += data[:room]
        self._last_byte_at = now
        self._no_more = False

    def end(self) -> None:
        """The peer will send nothing more; what is there counts as a whole message."""
        self._no_more = self._ended = True

    def next(self) -> bytes | None:
        """The next whole message, or None while there is none.  Never an empty one.

        Raises `RemoteProtocolError` once when there was more to read than `MAX_MESSAGE` bytes and no message in it.
        """
        stripped = self._buffer.lstrip(BLANKS)
        if b"\0" in self._buffer[: len(self._buffer) - len(stripped)]:
            self.skipped_nul = True
        self._buffer = stripped
        end = self._message_end()
        if end is None:
            if self._overflow:
                self._overflow, self._buffer = False, b""
                raise MessageError(f"a message longer than {MAX_MESSAGE} bytes")
            return None
        message, self._buffer = self._buffer[:end], self._buffer[end:]
        return message

    def timer(self) -> float | None:
        """When `handle_timer` would end an unfinished message, or None."""
        if self._buffer.strip(BLANKS) and not self._no_more:
            return self._last_byte_at + PATIENCE_S
        return None

    def handle_timer(self, now: float) -> None:
        due = self.timer()
        if due is not None and now >= due:
            self._no_more = True

    def _message_end(self) -> int | None:
        """Length of the message at the front of the buffer; None: not all of it is there."""
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[: len(_HEADER_START)].lower() == _HEADER_START[: len(buffer)]:
            return self._frame_end()
        if self._lists_follow and _REDIRECTION.match(buffer):
            last = _LIST_END.search(buffer)
            if last is not None:
                return last.end()
            return len(buffer) if self._no_more else None
        line_end = _LINE_END.search(buffer)
        if line_end is not None:
            return line_end.start()
        return len(buffer) if self._no_more else None

    def _frame_end(self) -> int | None:
        header = _HEADER.match(self._buffer)
        if header is None:
            line_ended = b"\n" in self._buffer or b"\r" in self._buffer[:-1]
            # A broken header has no length: give all there is to the reader, who will say what is wrong.
            return len(self._buffer) if line_ended or self._ended else None
        end = header.end() + int(header[1])
        if self._buffer[header.end() - 1 : header.end()] == b"\r" and len(self._buffer) == header.end():
            return len(self._buffer) if self._ended else None  # the LF of this CR may still come
        if len(self._buffer) >= end:
            return end
        if end > MAX_MESSAGE:
            return len(self._buffer)  # it will never fit
        missing = end - len(self._buffer)
        return len(self._buffer) if self._ended or (self._no_more and missing <= _TAIL) else None
