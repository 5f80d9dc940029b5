"""The one-line messages of the version and authentication phases (RFC 5572 section 4.4.2).

    client                      broker
    VERSION=2.0.0               CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=DIGEST-MD5
    AUTHENTICATE ANONYMOUS      200 Success

What is written here is exact, since some peers compare with case.  What is read is tolerant: gogoc ends a line
with CR LF NUL, a Java client with CR BS, others with LF or nothing.  `ECHO REQUEST` is in no RFC: gogoc times
brokers with it before it picks one of a redirection list, and any answer that starts with 200 counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from lab.errors import RemoteProtocolError
from lab.tsp.parameters import Mechanism, TunnelType
from lab.tsp.status import MessageError, parse_status

BLANKS: Final = b" \t\r\n\0\b"
"""Bytes that mean nothing at either end of a message."""
ECHO_REQUEST: Final = b"ECHO REQUEST"

_MECHANISMS: Final = {mechanism.value: mechanism for mechanism in Mechanism}
_CARRYING: Final = {kind.value.upper(): kind for kind in TunnelType if kind is not TunnelType.V6ANYV4}
_LENGTH_HEADER: Final = re.compile(rb"[ \t\r\n\0\b]*content-length[ \t]*:", re.IGNORECASE)


class Verb(Enum):
    """What a message from a client is, before its meaning is looked at."""

    VERSION = auto()
    AUTHENTICATE = auto()
    ECHO = auto()
    COMMAND = auto()
    """A Content-length header: XML follows."""
    EMPTY = auto()
    """Eight header bytes only: "go on", or a poll for the next answer."""
    OTHER = auto()
    """Credentials, if the broker waits for some."""


@dataclass(frozen=True, slots=True)
class Capability:
    """What a broker says it offers.  Words we do not know are left out."""

    tunnels: tuple[TunnelType, ...]
    mechanisms: tuple[Mechanism, ...]


def tidy(body: bytes) -> str:
    """A line as text, without blanks, NUL or BS at its ends; bytes that are no UTF-8 become U+FFFD."""
    return body.strip(BLANKS).decode("utf-8", "replace")


def verb_of(body: bytes) -> Verb:
    """What kind of request this is."""
    text = body.strip(BLANKS)
    if not text:
        return Verb.EMPTY
    start = text[:20].upper()
    if start.startswith(b"VERSION="):
        return Verb.VERSION
    if start.startswith(b"AUTHENTICATE"):
        return Verb.AUTHENTICATE
    if start.startswith(ECHO_REQUEST):
        return Verb.ECHO
    if _LENGTH_HEADER.match(text):
        return Verb.COMMAND
    return Verb.OTHER


def format_version(version: str) -> bytes:
    return f"VERSION={version}\r\n".encode()


def parse_version(body: bytes) -> str:
    """The version a client claims, "2.0.0" for instance.  Raises `RemoteProtocolError`."""
    word, equals, version = tidy(body).partition("=")
    if word.strip().upper() != "VERSION" or not equals:
        raise MessageError("expected VERSION=")
    return version.strip()


def version_accepted(version: str, accepted: Iterable[str]) -> bool:
    """True when `version` is one of `accepted` or lies below one: 2.0.1 lies below 2.0."""
    return any(version == prefix or version.startswith(prefix + ".") for prefix in accepted)


def format_capability(tunnels: Iterable[TunnelType], mechanisms: Iterable[Mechanism]) -> bytes:
    """The capability line, upper case, one space between pairs, CR LF: gogoc loses the last pair without it."""
    words = ["CAPABILITY", *(f"TUNNEL={kind.value.upper()}" for kind in tunnels)]
    words += [f"AUTH={mechanism.value}" for mechanism in mechanisms]
    return (" ".join(words) + "\r\n").encode()


def is_capability(body: bytes) -> bool:
    return body.strip(BLANKS)[:10].upper() == b"CAPABILITY"


def parse_capability(body: bytes) -> Capability:
    """What the broker offers.  Raises `RemoteProtocolError` when this is no capability line."""
    if not is_capability(body):
        raise RemoteProtocolError(f"expected CAPABILITY, got {tidy(body)[:40]!r}")
    tunnels: list[TunnelType] = []
    mechanisms: list[Mechanism] = []
    for pair in tidy(body).split()[1:]:
        name, _, value = pair.upper().partition("=")
        if name == "TUNNEL" and value in _CARRYING and _CARRYING[value] not in tunnels:
            tunnels.append(_CARRYING[value])
        elif name == "AUTH" and value in _MECHANISMS and _MECHANISMS[value] not in mechanisms:
            mechanisms.append(_MECHANISMS[value])
    return Capability(tuple(tunnels), tuple(mechanisms))


def format_authenticate(mechanism: Mechanism) -> bytes:
    return f"AUTHENTICATE {mechanism.value}\r\n".encode()


def parse_authenticate(body: bytes) -> Mechanism | None:
    """The mechanism a client picked; None for one we do not know.  Raises `RemoteProtocolError`."""
    words = tidy(body).upper().split()
    if len(words) != 2 or words[0] != "AUTHENTICATE":
        raise MessageError("expected AUTHENTICATE and one mechanism")
    return _MECHANISMS.get(words[1])


def is_status(body: bytes) -> bool:
    """True when a status line starts here.  The base64 text of a challenge never looks like one."""
    try:
        parse_status(tidy(body))
    except RemoteProtocolError:
        return False
    return True
