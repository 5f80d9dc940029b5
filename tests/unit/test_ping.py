"""The arithmetic of echo requests."""

from __future__ import annotations

import pytest

from lab.actors.ping import checksum


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
