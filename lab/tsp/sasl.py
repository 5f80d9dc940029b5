"""The three SASL mechanisms of the lab (RFC 5572 section 4.4.2)."""

from __future__ import annotations

import hashlib


def _encode(text: str) -> bytes:
    """Text as RFC 2831 section 2.1.2.1 hashes it: ISO 8859-1 where that is possible, else UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def digest_ha1(user: str, realm: str, password: str) -> bytes:
    """MD5(user:realm:password), 16 bytes: what a broker stores in place of the password (RFC 2831 section 2.1.2.1)."""
    return hashlib.md5(_encode(f"{user}:{realm}:{password}"), usedforsecurity=False).digest()
