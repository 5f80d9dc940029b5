"""Router advertisements as bytes (RFC 4861 section 4.2) and the checks of solicitations (section 6.1.1)."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.actors.advertise import format_advertisement, is_solicitation

PREFIX = IPv6Network("2001:db8:1:2::/64")


def options(message: bytes) -> dict[int, bytes]:
    """The options behind the 16 fixed bytes, by type."""
    found, at = {}, 16
    while at < len(message):
        kind, eights = message[at], message[at + 1]
        found[kind] = message[at : at + 8 * eights]
        at += 8 * eights
    return found


def test_an_advertisement_has_the_prefix_the_mtu_and_the_routers_mac() -> None:
    message = format_advertisement(PREFIX, mtu=1280, mac=bytes.fromhex("020000000001"))
    assert message[:2] == bytes((134, 0))
    assert int.from_bytes(message[6:8], "big") == 1800
    found = options(message)
    assert set(found) == {1, 3, 5}
    assert found[1][2:] == bytes.fromhex("020000000001")
    assert found[3][2] == 64
    assert found[3][3] == 0xC0  # on-link and autonomous
    assert found[3][16:32] == PREFIX.network_address.packed
    assert int.from_bytes(found[5][4:8], "big") == 1280


def test_the_last_advertisement_withdraws_router_and_prefix() -> None:
    message = format_advertisement(PREFIX, mtu=1280, router_lifetime_s=0)
    assert int.from_bytes(message[6:8], "big") == 0
    assert int.from_bytes(options(message)[3][8:12], "big") == 0  # preferred lifetime


@pytest.mark.parametrize("prefix", ["2001:db8::/56", "2001:db8::/72"])
def test_only_a_64_is_announced(prefix: str) -> None:
    with pytest.raises(ValueError, match="/64"):
        format_advertisement(IPv6Network(prefix), mtu=1280)


SOLICITATION = bytes((133, 0, 0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("tail", [b"", bytes((1, 1, 2, 0, 0, 0, 0, 1))], ids=["bare", "with the host's MAC"])
def test_a_solicitation_from_the_link_is_answered(tail: bytes) -> None:
    assert is_solicitation(SOLICITATION + tail, 255)


@pytest.mark.parametrize(
    ("message", "hop_limit"),
    [
        (SOLICITATION, 254),
        (SOLICITATION, None),
        (SOLICITATION[:7], 255),
        (b"\x86" + SOLICITATION[1:], 255),
        (b"\x85\x01" + SOLICITATION[2:], 255),
        (SOLICITATION + bytes((1, 0, 0, 0, 0, 0, 0, 0)), 255),
        (SOLICITATION + bytes((1, 2, 0, 0, 0, 0, 0, 0)), 255),
        (SOLICITATION + b"\x01", 255),
    ],
    ids=["routed", "unknown hops", "short", "other type", "code", "empty option", "cut option", "half option"],
)
def test_anything_else_is_not(message: bytes, hop_limit: int | None) -> None:
    assert not is_solicitation(message, hop_limit)


@given(st.binary(max_size=100))
def test_no_bytes_make_the_check_raise(data: bytes) -> None:
    is_solicitation(data, 255)
