"""Version, capability, authenticate and status lines, as peers really write them."""

from __future__ import annotations

import pytest

from lab.errors import RemoteProtocolError
from lab.tsp import Mechanism, Status, TunnelType
from lab.tsp.lines import (
    Verb,
    format_authenticate,
    format_capability,
    format_version,
    is_status,
    parse_authenticate,
    parse_capability,
    parse_version,
    verb_of,
    version_accepted,
)
from lab.tsp.status import MessageError, format_status, parse_status


def test_lines_are_written_exactly_as_old_peers_compare_them() -> None:
    assert format_version("2.0.0") == b"VERSION=2.0.0\r\n"
    assert format_authenticate(Mechanism.DIGEST_MD5) == b"AUTHENTICATE DIGEST-MD5\r\n"
    line = format_capability((TunnelType.V6V4, TunnelType.V6UDPV4), tuple(Mechanism))
    assert line == b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"AUTHENTICATE ANONYMOUS\r\n\0",  # gogoc, gw6c: the C terminator
        b"AUTHENTICATE ANONYMOUS\r\b",  # the Java client of MSPSim
        b"AUTHENTICATE ANONYMOUS\n",
        b"AUTHENTICATE ANONYMOUS",
        b"\0authenticate  anonymous \r\n",
    ],
)
def test_authenticate_is_read_whatever_ends_the_line(body: bytes) -> None:
    assert verb_of(body) is Verb.AUTHENTICATE
    assert parse_authenticate(body) is Mechanism.ANONYMOUS


def test_unknown_mechanism_is_no_mechanism() -> None:
    assert parse_authenticate(b"AUTHENTICATE PASSDSS-3DES-1\r\n") is None
    with pytest.raises(MessageError):
        parse_authenticate(b"AUTHENTICATE\r\n")
    with pytest.raises(MessageError):
        parse_authenticate(b"AUTHENTICATE PLAIN dGVzdA==\r\n")


@pytest.mark.parametrize("body", [b"VERSION=2.0.0\r\n", b"version=2.0.0", b"VERSION=2.0.0\r\n\0", b"VERSION = 2.0.0\n"])
def test_version_is_read_without_case_and_line_end(body: bytes) -> None:
    assert parse_version(body) == "2.0.0"


def test_versions_below_an_accepted_one_are_accepted() -> None:
    assert all(version_accepted(version, ("2.0",)) for version in ("2.0", "2.0.0", "2.0.1", "2.0.2"))
    assert not any(version_accepted(version, ("2.0",)) for version in ("1.0.1", "2.01", "2", "", "3.0.0"))


@pytest.mark.parametrize(
    "body",
    [
        b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=DIGEST-MD5\r\n",
        b"CAPABILITY  TUNNEL=V6V4  TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=DIGEST-MD5",
        b"capability tunnel=v6v4 tunnel=v6udpv4 auth=anonymous auth=digest-md5\n",
        b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 TUNNEL=V9 AUTH=PASSDSS-3DES-1 AUTH=ANONYMOUS AUTH=DIGEST-MD5 X\r\n\0",
    ],
)
def test_capabilities_are_read_with_every_known_quirk(body: bytes) -> None:
    capability = parse_capability(body)
    assert capability.tunnels == (TunnelType.V6V4, TunnelType.V6UDPV4)
    assert capability.mechanisms == (Mechanism.ANONYMOUS, Mechanism.DIGEST_MD5)


def test_capability_never_lists_v6anyv4() -> None:
    assert parse_capability(b"CAPABILITY TUNNEL=V6ANYV4 AUTH=PLAIN\r\n").tunnels == ()


@pytest.mark.parametrize(
    ("body", "verb"),
    [
        (b"", Verb.EMPTY),
        (b"\r\n\0", Verb.EMPTY),
        (b"ECHO REQUEST", Verb.ECHO),
        (b"Content-length: 35\r\n<tunnel/>", Verb.COMMAND),
        (b"CONTENT-LENGTH : 35\r\n", Verb.COMMAND),
        (b"\0ann\0secret\r\n", Verb.OTHER),
        (b"dXNlcm5hbWU9\r\n", Verb.OTHER),
    ],
)
def test_requests_are_told_apart_by_their_first_word(body: bytes, verb: Verb) -> None:
    assert verb_of(body) is verb


@pytest.mark.parametrize(
    ("line", "code", "text", "rest"),
    [
        ("200 Success\r\n", 200, "Success", "\r\n"),
        ("200", 200, "", ""),
        ("200 anything at all", 200, "anything at all", ""),
        ("OK Authentication successful\r\n", 200, "Authentication successful", "\r\n"),  # figures of RFC 5572
        ("310 Failed to confirm client tunnel\r\n\0", 310, "Failed to confirm client tunnel", "\r\n\0"),
        ("1302 Go there\r\n<tunnel/>", 1302, "Go there", "\r\n<tunnel/>"),
        ("200 Success<tunnel/>", 200, "Success", "<tunnel/>"),
    ],
)
def test_status_is_the_leading_number(line: str, code: int, text: str, rest: str) -> None:
    assert parse_status(line) == (code, text, rest)


@pytest.mark.parametrize("line", ["", "Success", "20000 x", "20 x", "-200", "CAPABILITY", "OKAY", "cmVhbG0="])
def test_what_has_no_number_is_no_status(line: str) -> None:
    assert not is_status(line.encode())
    with pytest.raises(RemoteProtocolError):
        parse_status(line)


def test_status_text_cannot_break_its_line() -> None:
    assert format_status(310, "one\r\ntwo\0<three>") == b"310 one two (three>\r\n"
    assert format_status(Status.UNSUPPORTED_VERSION) == b"302 Unsupported client version\r\n"


def test_status_text_of_a_peer_is_fit_for_a_terminal() -> None:
    assert parse_status("310 \x1b[31mred\x07 " + "x" * 500)[1] == ("[31mred " + "x" * 500)[:200]


def test_every_status_has_a_text() -> None:
    assert all(status.text() for status in Status)
