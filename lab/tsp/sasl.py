"""The SASL mechanisms PLAIN and DIGEST-MD5 as TSP carries them (RFC 5572 section 4.4.2).

PLAIN travels raw, `NUL user NUL password CR LF` (RFC 4616), not in base64.  DIGEST-MD5 (RFC 2831) takes one
base64 line each way:

    broker     realm, nonce, qop, algorithm, charset          the challenge
    client     username, cnonce, digest-uri, response, ...    proves the password, which does not travel
    broker     rspauth                                        proves that the broker knows it as well

    A1       = MD5(user:realm:password) as 16 raw bytes, then ":" nonce ":" cnonce
    A2       = "AUTHENTICATE:" digest-uri in the response, ":" digest-uri in rspauth
    response = MD5(hex MD5(A1) : nonce : nc : cnonce : qop : hex MD5(A2))

A nonce is good for one response, right or wrong, so a recorded response is worth nothing.  MD5 is what the
protocol says; DIGEST-MD5 has been Historic since RFC 6331 and is here because TSP clients speak it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import random
import re
from collections.abc import Callable
from typing import Final

from lab.errors import RemoteProtocolError
from lab.tsp.lines import BLANKS
from lab.tsp.status import MessageError, Status

Credentials = Callable[[str], bytes | None]
"""MD5(user:realm:password) of a user, 16 bytes, or None for an unknown one."""

_LINE_ENDS: Final = b"\r\n\0\b"
# Possessive throughout (*+): a hostile peer must not make it try the same blanks over and over.
_DIRECTIVE: Final = re.compile(
    r'[\s,]*+([!#-+.0-9A-Za-z^_|~-]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]*+))\s*+(?=,|$)', re.DOTALL
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


def digest_ha1(user: str, realm: str, password: str) -> bytes:
    """MD5(user:realm:password), 16 bytes: what a broker stores in place of the password (RFC 2831 section 2.1.2.1)."""
    return _md5(b":".join(_hashed_form(part) for part in (user, realm, password)))


def format_plain(user: str, password: str) -> bytes:
    return f"\0{user}\0{password}\r\n".encode()


def parse_plain(body: bytes) -> tuple[str, str]:
    """User and password.  Raises `MessageError` (status 300).

    Leading NULs are skipped, so the terminator that gogoc sends after its previous line over TCP does no harm.
    An authorization identity before the user is allowed only when it is the user's own.
    """
    parts = body.lstrip(_LINE_ENDS).rstrip(_LINE_ENDS).split(b"\0")
    if len(parts) == 3 and parts[0] == parts[1]:
        parts = parts[1:]
    if len(parts) != 2 or not parts[0]:
        raise MessageError("expected NUL user NUL password", Status.AUTHENTICATION_FAILED)
    try:
        return parts[0].decode(), parts[1].decode()
    except UnicodeDecodeError as exc:
        raise MessageError("user and password must be UTF-8", Status.AUTHENTICATION_FAILED) from exc


def check_plain(body: bytes, realm: str, credentials: Credentials) -> str:
    """The user whose password this is.  Raises `MessageError` (status 300) for all others alike."""
    user, password = parse_plain(body)
    known = credentials(user)
    given = digest_ha1(user, realm, password)
    if not hmac.compare_digest(known or bytes(16), given) or known is None:
        raise MessageError("unknown user or wrong password", Status.AUTHENTICATION_FAILED)
    return user


class DigestClient:
    """The client's side of one DIGEST-MD5 exchange."""

    def __init__(self, user: str, password: str, server_name: str, rng: random.Random) -> None:
        self._user = user
        self._password = password
        self._uri = f"tsp/{server_name}"
        self._cnonce = f"{rng.getrandbits(64):016x}"
        self._rspauth = ""

    def respond(self, challenge: bytes) -> bytes:
        """The line that answers a challenge.  Raises `RemoteProtocolError`."""
        fields = parse_directives(decode_line(challenge)[0])
        if "nonce" not in fields:
            raise RemoteProtocolError("a challenge without a nonce")
        if fields.get("algorithm", "md5-sess").lower() != "md5-sess":
            raise RemoteProtocolError("the challenge wants another algorithm than md5-sess")
        if "auth" not in re.split(r"[\s,]+", fields.get("qop", "auth").lower()):
            raise RemoteProtocolError("the challenge does not offer qop auth")
        charset = fields.get("charset")
        # Texts read from the wire are Latin-1, one character a byte, so that they hash as they came.
        user = self._user.encode("utf-8" if charset else "latin-1", "replace").decode("latin-1")
        realm, nonce, nc = fields.get("realm", ""), fields["nonce"], "00000001"
        ha1 = digest_ha1(self._user, _as_text(realm, utf8=charset is not None), self._password)
        proof = [_proof(ha1, nonce, self._cnonce, nc, self._uri, method) for method in ("AUTHENTICATE", "")]
        self._rspauth = proof[1]
        pairs = [f"charset={charset}"] if charset else []
        pairs += [f'username="{_quote(user)}"', f'realm="{_quote(realm)}"', f'nonce="{_quote(nonce)}"', f"nc={nc}"]
        pairs += [f'cnonce="{self._cnonce}"', f'digest-uri="{_quote(self._uri)}"', f"response={proof[0]}", "qop=auth"]
        return encode_line(",".join(pairs))

    def verify(self, reply: bytes) -> bytes:
        """What follows rspauth in the broker's reply (ddtb glues its 200 to it), when the proof is right.

        Raises `RemoteProtocolError` when the broker did not prove that it knows the password.
        """
        text, rest = decode_line(reply)
        given = parse_directives(text).get("rspauth", "")
        if not hmac.compare_digest(given.lower().encode(), self._rspauth.encode()):
            raise RemoteProtocolError("the broker did not prove that it knows the password")
        return rest


class DigestServer:
    """The broker's side of one DIGEST-MD5 exchange: one challenge, one response."""

    def __init__(self, realm: str, rng: random.Random) -> None:
        self._realm = realm
        self._nonce: str | None = f"{rng.getrandbits(128):032x}"

    def challenge(self) -> bytes:
        """The challenge line.  All five directives, since gogoc reads them unchecked."""
        realm = self._realm.encode().decode("latin-1")
        return encode_line(
            f'realm="{realm}",nonce="{self._nonce}",qop="auth",algorithm=md5-sess,charset=utf-8',
        )

    def check(self, response: bytes, credentials: Credentials) -> tuple[str, bytes]:
        """The user, and the rspauth line for him.  Raises `MessageError` (status 300)."""

        def failed(why: str) -> MessageError:
            return MessageError(why, Status.AUTHENTICATION_FAILED)

        nonce, self._nonce = self._nonce, None
        fields = parse_directives(decode_line(response)[0])
        if nonce is None or fields.get("nonce") != nonce or fields.get("nc") != "00000001":
            raise failed("a response to another challenge")
        if fields.get("qop", "auth").lower() != "auth":
            raise failed("qop must be auth")
        utf8 = "charset" in fields
        user = _as_text(fields.get("username", ""), utf8=utf8)
        if _as_text(fields.get("realm", ""), utf8=utf8) != self._realm:
            raise failed("a response for another realm")
        if fields.get("authzid", fields.get("username")) != fields.get("username"):
            raise failed("one user cannot act for another")
        uri, cnonce = fields.get("digest-uri", ""), fields.get("cnonce", "")
        if not uri.lower().startswith("tsp/") or not cnonce:
            raise failed("digest-uri must be tsp/host, and cnonce given")
        known = credentials(user)
        # The same work for an unknown user, so that the time taken does not tell who exists.
        tail = f":{fields['authzid']}" if "authzid" in fields else ""
        ours = _proof(known or bytes(16), nonce, cnonce, "00000001", uri, "AUTHENTICATE", tail)
        theirs = fields.get("response", "").lower()
        if not hmac.compare_digest(ours.encode(), theirs.encode("latin-1")) or known is None:
            raise failed("unknown user or wrong password")
        return user, encode_line(f"rspauth={_proof(known, nonce, cnonce, '00000001', uri, '', tail)}")


def encode_line(text: str) -> bytes:
    """Base64 of `text` (Latin-1, that is its bytes), CR LF."""
    return base64.b64encode(text.encode("latin-1")) + b"\r\n"


def decode_line(body: bytes) -> tuple[str, bytes]:
    """The text of the base64 at the start of `body`, and what follows it.  Raises `MessageError` (status 300)."""
    body = body.strip(BLANKS)
    match = _BASE64.match(body)
    try:
        if match is None:
            raise ValueError("nothing there")
        return base64.b64decode(match[0], validate=True).decode("latin-1"), body[match.end() :].strip(BLANKS)
    except (ValueError, binascii.Error) as exc:
        raise MessageError("expected a base64 line", Status.AUTHENTICATION_FAILED) from exc


def parse_directives(text: str) -> dict[str, str]:
    """The name=value pairs of a challenge or response, names in lower case, quotes and escapes removed.

    A second value of the same name is an error, but for realm, where the first is taken (RFC 2831 section 2.1.1).
    Raises `MessageError` (status 300).
    """
    fields: dict[str, str] = {}
    position = 0
    while match := _DIRECTIVE.match(text, position):
        name = match[1].lower()
        value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
        if name in fields and name != "realm":
            raise MessageError(f"{name} given twice", Status.AUTHENTICATION_FAILED)
        fields.setdefault(name, value)
        position = match.end()
    if text[position:].strip(" \t\r\n,\0"):
        raise MessageError("expected name=value pairs", Status.AUTHENTICATION_FAILED)
    return fields


def _proof(ha1: bytes, nonce: str, cnonce: str, nc: str, uri: str, method: str, tail: str = "") -> str:
    a1 = ha1 + f":{nonce}:{cnonce}{tail}".encode("latin-1")
    a2 = f"{method}:{uri}".encode("latin-1", "replace")
    return _md5(f"{_md5(a1).hex()}:{nonce}:{nc}:{cnonce}:auth:{_md5(a2).hex()}".encode("latin-1")).hex()


def _hashed_form(text: str) -> bytes:
    """Text as RFC 2831 section 2.1.2.1 hashes it: ISO 8859-1 where that is possible, else UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _as_text(wire: str, *, utf8: bool) -> str:
    """Text of a directive: the bytes are UTF-8 when a charset was named and they can be, else ISO 8859-1."""
    if not utf8:
        return wire
    try:
        return wire.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return wire


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
