"""A TSP message in words: one line for a picture, and all of it for whoever points at it.  Credentials are masked."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from lab.errors import RemoteProtocolError
from lab.tsp.framing import parse_reply, unframe
from lab.tsp.lines import BLANKS, Verb, is_capability, is_status, parse_capability, tidy, verb_of
from lab.tsp.messages import TunnelMessage, parse_brokers, parse_tunnel

MASK: Final = "(masked)"
_SECRETS: Final = re.compile(r'\b(nonce|cnonce|response|rspauth|opaque)=("[^"]*"|[^,\s]*)')


def in_one_line(body: bytes) -> str:
    """What a message says, without its header, as short as it can be said."""
    return _words(body)[0]


def in_full(body: bytes) -> str:
    """What a message says, whole, with credentials masked."""
    return _words(body)[1]


def _words(body: bytes) -> tuple[str, str]:
    text = tidy(body)
    if is_capability(body):
        try:
            offer = parse_capability(body)
        except RemoteProtocolError:
            return "CAPABILITY, unreadable", text
        offered = [*(kind.value for kind in offer.tunnels), *(mechanism.value for mechanism in offer.mechanisms)]
        return f"CAPABILITY {' '.join(offered)}", text
    match verb_of(body):
        case Verb.EMPTY:
            return "(empty: go on)", "a header without a message"
        case Verb.VERSION | Verb.AUTHENTICATE | Verb.ECHO:
            return text, text
        case Verb.COMMAND:
            return _command(body, text)
    if is_status(body):
        return _reply(body, text)
    return _credentials(body)


def _command(body: bytes, text: str) -> tuple[str, str]:
    try:
        content = unframe(body)
    except RemoteProtocolError as exc:
        return f"not well framed: {exc}", text
    if is_status(content):
        return _reply(body, text)
    try:
        return _tunnel(parse_tunnel(content)), text
    except RemoteProtocolError as exc:
        return f"unreadable: {exc}", text


def _reply(body: bytes, text: str) -> tuple[str, str]:
    try:
        reply = parse_reply(body)
    except RemoteProtocolError as exc:
        return f"unreadable: {exc}", text
    said = f"{reply.code} {reply.text}"
    if reply.content:
        try:
            said += f": {_tunnel(parse_tunnel(reply.content))}"
        except RemoteProtocolError:
            try:
                said += f": {', '.join(parse_brokers(reply.content))}"
            except RemoteProtocolError:
                said += ": unreadable XML"
    return said, text


def _tunnel(message: TunnelMessage) -> str:
    words = " ".join((message.action.value, *([message.type] if message.type else [])))
    client = message.client
    if client is None:
        return words
    if client.ipv6 is not None or client.ipv4 is not None:
        words += f" for {client.ipv6 or client.ipv4}"
    if client.router is not None:
        router = client.router
        words += f" with {router.prefix}" if router.prefix is not None else f" with a /{router.prefix_length}"
    return words


def _credentials(body: bytes) -> tuple[str, str]:
    """A SASL challenge or response: its user and realm may be seen, nothing that proves anything may."""
    stripped = body.strip(BLANKS)
    try:
        plain = base64.b64decode(stripped, validate=True)
    except (binascii.Error, ValueError):
        plain = b""
    text = plain.decode("utf-8", "replace")
    if plain.count(b"\0") == 2:
        user = text.split("\0")[1]
        return f"credentials of {user} {MASK}", f"PLAIN credentials of {user}; password {MASK}"
    if re.match(r"\s*(username|realm|nonce|charset|rspauth|qop|algorithm)=", text):
        shown = _SECRETS.sub(rf"\1={MASK}", text)
        name = re.search(r'username="([^"]*)"', text)
        if name:
            return f"DIGEST-MD5 response of {name[1]} {MASK}", shown
        what = "DIGEST-MD5 rspauth" if "rspauth=" in text else "DIGEST-MD5 challenge"
        return what, shown
    return f"{len(body)} bytes that may be credentials {MASK}", f"{len(body)} bytes {MASK}"
