"""Is this TSP?  The set-up protocol is text, and known by what it says, whatever the port (RFC 5572 section 4.4)."""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv6Address
from typing import Final


class Speaker(Enum):
    """Who says such a thing."""

    CLIENT = "client"
    BROKER = "broker"


_CLIENT: Final = re.compile(
    rb"""VERSION=\d{1,2}\.\d{1,2}(\.\d{1,2})?\s*\Z
       | AUTHENTICATE\ [A-Z0-9-]{3,20}[\s\0\x08]*\Z
       | Content-length:\ *\d{1,5}\s+(<\?xml[^>]*>\s*)?<tunnel[\s>]""",
    re.VERBOSE | re.IGNORECASE,
)
_BROKER: Final = re.compile(
    rb"""CAPABILITY(\ +[A-Z]+=[A-Z0-9-]+)+\s*\Z
       | Content-length:\ *\d{1,5}\s+[1-9]\d{2,3}[ \r\n]""",
    re.VERBOSE | re.IGNORECASE,
)
_ANSWER: Final = re.compile(rb"[1-9]\d{2,3} [ -~]+\s*\Z")
_ADDRESS: Final = re.compile(rb"""<address\s+type=["']ipv6["']\s*>\s*([0-9a-f:.]{2,45})\s*</""", re.IGNORECASE)
_HELLO: Final = re.compile(rb"\0*VERSION=\d{1,2}\.\d{1,2}(\.\d{1,2})?\r?\n")
_LONGEST_HELLO: Final = 32
_HELLO_START: Final = b"VERSION="


def speaker(text: bytes) -> Speaker | None:
    """Who of the two says `text`, a whole message; None when it could be something else than TSP."""
    if _CLIENT.match(text):
        return Speaker.CLIENT
    return Speaker.BROKER if _BROKER.match(text) else None


def is_answer(text: bytes) -> bool:
    """Whether `text` is a status line alone, which other protocols have too."""
    return _ANSWER.match(text) is not None


def begins_session(stream: bytes) -> bool | None:
    """Whether a client's TCP stream that begins with `stream` is TSP; None while that cannot be told yet."""
    if _HELLO.match(stream):
        return True
    text = stream.lstrip(b"\0")
    if len(stream) < _LONGEST_HELLO and (text[:8] == _HELLO_START[: len(text)]) and b"\n" not in text:
        return None
    return False


def addresses(text: bytes) -> list[bytes]:
    """The IPv6 addresses named in a message's XML, packed; the unspecified one is none."""
    found = []
    for match in _ADDRESS.finditer(text):
        try:
            packed = IPv6Address(match[1].decode()).packed
        except ValueError:
            continue
        if any(packed):
            found.append(packed)
    return found
