"""Status codes of TSP and the line that carries them (RFC 5572 appendix B).

A status line is `code text CR LF`, as in SMTP.  A code above 1000 is that code less 1000 and says that a
list of other brokers follows.  Codes that only implementations use are marked so.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from lab.errors import RemoteProtocolError


class Status(IntEnum):
    """A status code; `text()` is the sentence sent along when there is nothing better to say."""

    SUCCESS = 200
    AUTHENTICATION_FAILED = 300
    NO_MORE_TUNNELS = 301
    UNSUPPORTED_VERSION = 302
    TUNNEL_TYPE_NOT_PROVIDED = 303
    SERVER_ERROR = 310
    BAD_SYNTAX = 500
    BAD_IPV4_ADDRESS = 501
    BAD_IPV6_ADDRESS = 502
    IPV4_ALREADY_USED = 506
    PREFIX_LENGTH_NOT_AVAILABLE = 507
    DNS_DELEGATION_ERROR = 509  # gogoc only
    PREFIX_LENGTH_NOT_SUPPORTED = 518  # gogoc only
    PREFIX_LENGTH_MISSING = 520  # gogoc only
    REQUEST_IN_PROGRESS = 521
    PREFIX_FOR_ANONYMOUS = 522  # gogoc only
    SERVER_BUSY = 530
    NEGOTIATION_TIMEOUT = 599  # ddtb only
    REDIRECTED = 1200  # gogoc only: a redirection that is no error

    def text(self) -> str:
        return _TEXTS[self]


_TEXTS: Final = {
    Status.SUCCESS: "Success",
    Status.AUTHENTICATION_FAILED: "Authentication failed",
    Status.NO_MORE_TUNNELS: "No more tunnels available",
    Status.UNSUPPORTED_VERSION: "Unsupported client version",
    Status.TUNNEL_TYPE_NOT_PROVIDED: "Tunnel type not provided",
    Status.SERVER_ERROR: "Server side error",
    Status.BAD_SYNTAX: "Bad syntax or length",
    Status.BAD_IPV4_ADDRESS: "Bad IPv4 address",
    Status.BAD_IPV6_ADDRESS: "Bad IPv6 address",
    Status.IPV4_ALREADY_USED: "The IPv4 address already has a tunnel",
    Status.PREFIX_LENGTH_NOT_AVAILABLE: "The prefix length cannot be assigned",
    Status.DNS_DELEGATION_ERROR: "DNS delegation error",
    Status.PREFIX_LENGTH_NOT_SUPPORTED: "Prefix length not supported",
    Status.PREFIX_LENGTH_MISSING: "Prefix length missing",
    Status.REQUEST_IN_PROGRESS: "A request is already in progress, try again later",
    Status.PREFIX_FOR_ANONYMOUS: "No prefix for anonymous users",
    Status.SERVER_BUSY: "Server too busy, try again later",
    Status.NEGOTIATION_TIMEOUT: "The negotiation took too long",
    Status.REDIRECTED: "Redirection",
}

REDIRECTION: Final = 1000
"""Added to a code when a list of brokers follows."""

MAX_TEXT: Final = 200
"""Characters of a status text that are kept."""

_STATUS_LINE: Final = re.compile(
    r"\s*(?:(?P<code>\d{3,4})(?!\d)|(?P<ok>OK)\b)[ \t]*(?P<text>[^\r\n<]*)", re.ASCII | re.IGNORECASE
)


class MessageError(RemoteProtocolError):
    """What the peer sent is malformed, and `.status` is the code to answer it with."""

    def __init__(self, message: str, status: Status = Status.BAD_SYNTAX) -> None:
        super().__init__(message)
        self.status = status


def parse_status(text: str) -> tuple[int, str, str]:
    """Code, text, and what follows the line.  Only the leading number counts; a leading "OK" is 200.

    Some of RFC 5572's own figures show "OK Authentication successful" without a number.  The line may lack
    its end and XML may follow on the same line.  The text is for a person to read: without control characters, at
    most `MAX_TEXT` characters.  Raises `RemoteProtocolError`.
    """
    match = _STATUS_LINE.match(text)
    if match is None:
        raise RemoteProtocolError(f"expected a status line, got {text[:40]!r}")
    code = int(match["code"]) if match["code"] else int(Status.SUCCESS)
    return code, _one_line(match["text"])[:MAX_TEXT], text[match.end() :]


def format_status(code: int, text: str | None = None) -> bytes:
    """`code text CR LF`; without a text, the one that belongs to the code."""
    if text is None:
        text = Status(code).text()
    return f"{int(code)} {_one_line(text).replace('<', '(')}\r\n".encode()


def _one_line(text: str) -> str:
    """Text fit for a line and for a terminal: no control characters, single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
