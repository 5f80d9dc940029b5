"""What may travel in a tunnel, and which tunnel it belongs to."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.encap import (
    AddressSet,
    Drop,
    PrefixTable,
    has_link_scope_destination,
    inner_destination,
    inner_length,
    inner_source,
    parse_6in4,
    parse_inner,
    unroutable_source,
)


def ipv6_packet(source: str = "2001:db8::1", destination: str = "2001:db8::2", payload: bytes = b"hello") -> bytes:
    """An IPv6 packet with no next header (59)."""
    fields = bytes((0x60, 0, 0, 0)) + len(payload).to_bytes(2, "big") + bytes((59, 64))
    return fields + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def ipv4_header(protocol: int = 41, options: bytes = b"") -> bytes:
    return bytes((0x40 | (5 + len(options) // 4), *bytes(8), protocol, *bytes(10))) + options


def test_a_packet_is_as_long_as_its_own_header_says() -> None:
    packet = ipv6_packet(payload=b"x" * 100)
    assert inner_length(packet) == 140
    assert parse_inner(packet) == packet


def test_padding_behind_the_packet_is_cut_off() -> None:
    packet = ipv6_packet()
    assert parse_inner(packet + bytes(6)) == packet


@pytest.mark.parametrize("kept", range(1, 45))
def test_a_cut_packet_is_dropped_as_truncated(kept: int) -> None:
    assert parse_inner(ipv6_packet(payload=b"hello")[:kept]) is Drop.TRUNCATED


@pytest.mark.parametrize("start", [b"", b"\x45", b"\xf0\x00\x00\xf0", b"\x00" * 60, b"\x45" * 60])
def test_what_is_no_ipv6_is_dropped_as_such(start: bytes) -> None:
    assert parse_inner(start) is Drop.NOT_IPV6


def test_the_outer_header_of_protocol_41_may_have_options() -> None:
    packet = ipv6_packet()
    assert parse_6in4(ipv4_header() + packet) == packet
    assert parse_6in4(ipv4_header(options=b"\x01" * 8) + packet) == packet


@pytest.mark.parametrize(
    "outer",
    [ipv4_header(protocol=17), b"\x60" + ipv4_header()[1:], b"\x44" + ipv4_header()[1:], b"", ipv4_header()[:19]],
    ids=["udp", "ipv6", "short header length", "nothing", "cut"],
)
def test_an_outer_header_that_is_no_6in4_is_refused(outer: bytes) -> None:
    assert parse_6in4(outer + ipv6_packet()) is Drop.NOT_IPV6


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("2001:db8::1", None),
        ("fc00::1", None),
        ("::", Drop.LINK_SCOPE),
        ("fe80::1", Drop.LINK_SCOPE),
        ("febf::1", Drop.LINK_SCOPE),
        ("fec0::1", None),
        ("ff02::1", Drop.FORBIDDEN_SOURCE),
        ("::1", Drop.FORBIDDEN_SOURCE),
        ("::192.0.2.1", Drop.FORBIDDEN_SOURCE),
        ("::ffff:192.0.2.1", Drop.FORBIDDEN_SOURCE),
    ],
)
def test_sources_that_rfc_4213_forbids_are_named(source: str, reason: Drop | None) -> None:
    assert unroutable_source(ipv6_packet(source=source)) is reason


@pytest.mark.parametrize(
    ("destination", "stays"), [("ff02::2", True), ("ff0e::1", True), ("fe80::1", True), ("2001:db8::1", False)]
)
def test_neighbour_discovery_stays_on_its_side(destination: str, stays: bool) -> None:
    assert has_link_scope_destination(ipv6_packet(destination=destination)) is stays


def test_addresses_are_read_as_numbers() -> None:
    packet = ipv6_packet("2001:db8::a", "2001:db8::b")
    assert inner_source(packet) == int(IPv6Address("2001:db8::a"))
    assert inner_destination(packet) == int(IPv6Address("2001:db8::b"))


@given(st.binary(max_size=200))
def test_no_bytes_make_a_check_raise(data: bytes) -> None:
    for answer in (parse_inner(data), parse_6in4(data)):
        if isinstance(answer, bytes):
            assert len(answer) >= 40
            unroutable_source(answer)
            has_link_scope_destination(answer)


def test_an_address_set_holds_its_prefixes_and_nothing_else() -> None:
    own = AddressSet([IPv6Network("2001:db8:1::/64"), IPv6Network("2001:db8:ff00::/40")])
    assert int(IPv6Address("2001:db8:1::ffff")) in own
    assert int(IPv6Address("2001:db8:ffab::1")) in own
    assert int(IPv6Address("2001:db8:1:1::1")) not in own
    assert int(IPv6Address("2001:db8:fe00::1")) not in own


def test_the_longest_prefix_wins() -> None:
    table: PrefixTable[str] = PrefixTable()
    table.insert(IPv6Network("2001:db8::/32"), "all")
    table.insert(IPv6Network("2001:db8:1::/48"), "site")
    table.insert(IPv6Network("2001:db8:1:1::/64"), "link")
    assert table.lookup(IPv6Address("2001:db8:1:1::9")) == "link"
    assert table.lookup(IPv6Address("2001:db8:1:2::9")) == "site"
    assert table.lookup(IPv6Address("2001:db8:2::9")) == "all"
    assert table.lookup(IPv6Address("2001:db9::1")) is None


def test_removing_an_old_value_leaves_a_newer_one_alone() -> None:
    table: PrefixTable[str] = PrefixTable()
    network = IPv6Network("2001:db8::/64")
    table.insert(network, "old")
    table.insert(network, "new")
    table.remove(network, "old")
    assert table.lookup(network[1]) == "new"
    table.remove(network, "new")
    table.remove(network, "new")
    assert table.lookup(network[1]) is None
    assert len(table) == 0
