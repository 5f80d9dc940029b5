"""What the network said, in words."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.actors.neterrors import explain, parse_extended_error


def extended(kind: int, code: int, origin: int = 2, offender: str = "192.0.2.1") -> bytes:
    """A struct sock_extended_err and the sockaddr_in of the offender, as the kernel lays them out."""
    address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(offender))
    return struct.pack("=IBBBBII", errno.EHOSTUNREACH, origin, kind, code, 0, 0, 0) + address


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        (3, 3, "192.0.2.1 says: port unreachable (ICMP type 3 code 3)"),
        (3, 13, "192.0.2.1 says: communication administratively prohibited (ICMP type 3 code 13)"),
        (3, 99, "192.0.2.1 says: destination unreachable (ICMP type 3 code 99)"),
        (11, 0, "192.0.2.1 says: time to live exceeded (ICMP type 11 code 0)"),
    ],
)
def test_an_icmp_error_names_who_said_what(kind: int, code: int, words: str) -> None:
    assert str(parse_extended_error(extended(kind, code))) == words


def test_a_local_error_is_no_icmp_error() -> None:
    assert parse_extended_error(extended(3, 3, origin=1)) is None


def test_fragmentation_needed_is_about_the_packet_not_the_destination() -> None:
    too_big = parse_extended_error(extended(3, 4))
    assert too_big is not None
    assert too_big.is_too_big


@given(st.binary(max_size=64))
def test_no_bytes_make_the_parser_raise(data: bytes) -> None:
    parse_extended_error(data)


def test_an_errno_is_told_in_words_that_fit_a_packet() -> None:
    assert explain(ConnectionRefusedError(errno.ECONNREFUSED, "x")) == "nothing listens there"
    assert explain(OSError(errno.EIO, "x")) == "Input/output error"
