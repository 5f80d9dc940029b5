"""The arithmetic of echo requests."""

from __future__ import annotations

import asyncio

import pytest

from lab.actors.ping import checksum, ping
from lab.errors import UsageError
from lab.kernel.namespace import Namespace


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes.fromhex("0001f203f4f5f6f7"), 0x220D),  # the example of RFC 1071 section 3
        (b"", 0xFFFF),
        (b"\xff\xff", 0),
        (b"\x01", 0xFEFF),
    ],
)
def test_the_internet_checksum_is_that_of_rfc_1071(data: bytes, expected: int) -> None:
    assert checksum(data) == expected


@pytest.mark.parametrize(("count", "size"), [(0, 104), (-4, 104), (1, 47), (1, 65_536)])
def test_a_ping_that_does_not_exist_is_refused_before_anything_is_opened(count: int, size: int) -> None:
    with Namespace("nowhere", -1) as nowhere, pytest.raises(UsageError):
        asyncio.run(ping(nowhere, "2001:db8::1", count=count, size=size))
