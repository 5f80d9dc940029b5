"""The eight bytes of RFC 5572 section 4.4.1.2, and which datagram is what."""

from __future__ import annotations

import pytest

from lab.errors import RemoteProtocolError
from lab.tsp import Header, classify, format_header, parse_header


def test_first_datagram_of_gogoc_is_read_and_written_back_byte_for_byte() -> None:
    datagram = bytes.fromhex("f0 00 00 f0 00 00 00 42") + b"VERSION=2.0.2\r\n"
    header, body = parse_header(datagram)
    assert header == Header(sequence=240, timestamp=66)
    assert body == b"VERSION=2.0.2\r\n"
    assert format_header(header) + body == datagram


def test_sequence_has_28_bits_and_keeps_the_marker() -> None:
    assert format_header(Header(0x0FFFFFFF, 0xFFFFFFFF)) == b"\xff" * 8
    assert format_header(Header(0x10000001, 0x100000002)) == bytes.fromhex("f0000001 00000002")
    assert parse_header(bytes.fromhex("fabcdef0 01020304"))[0] == Header(0x0ABCDEF0, 0x01020304)


def test_header_of_a_little_endian_client_goes_back_as_it_came() -> None:
    datagram = bytes.fromhex("01 00 00 f0 12 34 56 78")
    header, body = parse_header(datagram)
    assert (header.sequence, header.reversed, body) == (1, True, b"")
    assert format_header(header) == datagram


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        ("f0 00 00 00", "signalling"),
        ("ff ff ff ff", "signalling"),
        ("60 00 00 00", "data"),
        ("6f ff ff f5", "data"),  # an IPv6 flow label that ends in 0xF5: tsps loses this flow
        ("45 00 00 f0", "other"),  # IPv4 has no tunnel type over UDP, whatever its length field says
        ("00 00 00 f0", "signalling"),  # an old little-endian client
        ("00 00 00 0f", "other"),
        ("56 45 52 53", "other"),  # "VERS": TSP text without a header
    ],
)
def test_first_bytes_tell_signalling_from_data(start: str, kind: str) -> None:
    assert classify(bytes.fromhex(start) + bytes(8)) == kind


def test_short_datagrams_are_never_signalling_by_their_last_byte() -> None:
    assert classify(b"") == "other"
    assert classify(bytes.fromhex("000000f0")) == "other"


@pytest.mark.parametrize("datagram", [b"", b"\xf0", b"\xf0" * 7, bytes(8), b"\x60" + bytes(39)])
def test_what_is_no_header_is_refused(datagram: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_header(datagram)
