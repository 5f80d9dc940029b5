"""Every generated packet is what scapy, written by others, takes it for: lengths, checksums and the layers inside."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.ntp import NTP
from scapy.packet import Packet, Raw

from lab.actors.ping import checksum
from lab.generators import packets
from lab.generators.mechanisms import (
    MECHANISMS,
    Mechanism,
    address_6rd,
    address_6to4,
    address_isatap,
    address_teredo,
)

LAPTOP = IPv4Address("192.0.2.1")
SERVER = IPv4Address("198.51.100.2")
TOKEN = b"zq7x"

EVERY = pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=list(MECHANISMS))


def packet_of(mechanism: Mechanism) -> bytes:
    """A packet between hosts that the tests know."""
    if mechanism.version == 6:
        return mechanism.packet(IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2"), TOKEN)
    return mechanism.packet(LAPTOP, SERVER, TOKEN)


def read_back(packet: bytes) -> Packet:
    """The packet as scapy reads it."""
    return IPv6(packet) if packet[0] >> 4 == 6 else IP(packet)


def recomputed(packet: bytes) -> bytes:
    """The packet as scapy builds it after all lengths and checksums were taken out."""
    again = read_back(packet)
    layer = again
    while layer and not isinstance(layer, Raw):
        for field in ("chksum", "cksum", "len", "plen"):
            if (
                isinstance(layer, IP | IPv6 | UDP | TCP | ICMP | ICMPv6EchoRequest | ICMPv6ND_NS)
                and field in layer.fields
            ):
                delattr(layer, field)
        layer = layer.payload
    return bytes(again)


@EVERY
def test_scapy_fills_in_the_same_lengths_and_checksums(mechanism: Mechanism) -> None:
    packet = packet_of(mechanism)
    assert recomputed(packet) == packet


@EVERY
def test_a_packet_goes_where_it_should_and_carries_its_token(mechanism: Mechanism) -> None:
    packet = packet_of(mechanism)
    seen = read_back(packet)
    if mechanism.version == 4:
        assert (seen.src, seen.dst, seen.proto) == (str(LAPTOP), str(SERVER), mechanism.protocol)
    else:
        assert seen.nh == mechanism.protocol
    assert TOKEN in packet
    if mechanism.port is not None:
        assert seen.payload.dport == mechanism.port
        assert mechanism.packet(LAPTOP, SERVER, TOKEN, port=4000)[22:24] == (4000).to_bytes(2, "big")


def inner(name: str, dst: IPv4Address = SERVER) -> IPv6:
    """The IPv6 packet that a mechanism carries."""
    packet = IP(MECHANISMS[name].packet(LAPTOP, dst, TOKEN, source_port=50_000))
    carried = packet.payload if packet.proto == 41 else packet[UDP].payload
    return IPv6(bytes(carried))


@pytest.mark.parametrize(
    ("name", "src", "dst"),
    [
        ("6in4", "2001:db8:f000::2", "2001:db8:ffff::1"),
        ("6over4", "2001:db8:64::c000:201", "2001:db8:64::c633:6402"),
        ("6rd", "3fff:6d:c000:201::1", "2001:db8:ffff::1"),
        ("6to4", "2002:c000:201::1", "2002:c633:6402::1"),
        ("isatap", "2001:db8:5efe:0:200:5efe:c000:201", "2001:db8:5efe:0:200:5efe:c633:6402"),
        ("teredo", "2001:0:c633:6402:0:3caf:3fff:fdfe", "2001:db8:ffff::1"),
        ("tsp_data", "2001:db8:f000::3", "2001:db8:ffff::1"),
    ],
)
def test_inner_addresses_are_those_the_mechanism_derives(name: str, src: str, dst: str) -> None:
    seen = inner(name)
    assert (seen.src, seen.dst) == (src, dst)
    assert seen[ICMPv6EchoRequest].data == TOKEN


def test_6to4_through_a_relay_leads_to_the_native_internet() -> None:
    assert inner("6to4", IPv4Address("192.88.99.1")).dst == "2001:db8:ffff::1"


def test_6over4_to_a_multicast_group_asks_for_a_neighbour() -> None:
    seen = inner("6over4", IPv4Address("239.192.1.2"))
    assert seen.src == "fe80::c000:201"
    assert seen.hlim == 255
    assert seen[ICMPv6ND_NS].tgt == str(IPv6Address(b"\xfe\x80" + bytes(10) + TOKEN))


def test_innocents_are_what_they_claim_to_be() -> None:
    dns = IP(packet_of(MECHANISMS["dns"]))
    assert DNS(bytes(dns[UDP].payload)).qd[0].qname == b"zq7x.example.com."
    ntp = NTP(bytes(IP(packet_of(MECHANISMS["ntp"]))[UDP].payload))
    assert (ntp.version, ntp.mode) == (4, 3)
    assert len(bytes(IP(packet_of(MECHANISMS["quic"]))[UDP].payload)) == 1200


def test_a_mechanism_refuses_addresses_of_the_wrong_version() -> None:
    with pytest.raises(ValueError, match="6in4 goes from IPv4 to IPv4"):
        MECHANISMS["6in4"].packet(IPv6Address("::1"), SERVER, TOKEN)
    with pytest.raises(ValueError, match="native_ipv6 goes from IPv6"):
        MECHANISMS["native_ipv6"].packet(LAPTOP, SERVER, TOKEN)
    with pytest.raises(ValueError, match="4 bytes"):
        MECHANISMS["6in4"].packet(LAPTOP, SERVER, b"short")


def test_addresses_in_the_examples_of_the_standards() -> None:
    # RFC 4380 section 4 has the layout; RFC 5569 section 3 and RFC 5214 section 6.1 the identifiers.
    assert address_teredo(IPv4Address("65.54.227.120"), IPv4Address("192.0.2.45"), 40000) == IPv6Address(
        "2001:0000:4136:e378:0000:63bf:3fff:fdd2"
    )
    assert address_6to4(IPv4Address("192.0.2.4")) == IPv6Address("2002:c000:204::1")
    assert address_6rd(IPv4Address("192.0.2.4"), IPv6Network("2a01:e00::/28")) == IPv6Address("2a01:e0c:0:2040::1")
    site = IPv6Network("2001:db8:1:2::/64")
    assert address_isatap(IPv4Address("10.1.2.3"), site) == IPv6Address("2001:db8:1:2:0:5efe:10.1.2.3")
    assert address_isatap(IPv4Address("192.0.2.3"), site) == IPv6Address("2001:db8:1:2:200:5efe:192.0.2.3")


@given(st.binary(max_size=200))
def test_the_checksum_is_that_of_the_ping(data: bytes) -> None:
    assert packets.internet_checksum(data) == checksum(data)


def test_the_checksum_of_zeros_and_of_ones_is_told_apart() -> None:
    assert packets.internet_checksum(bytes(8)) == checksum(bytes(8)) == 0xFFFF
    assert packets.internet_checksum(b"\xff" * 8) == checksum(b"\xff" * 8) == 0


@given(st.randoms(use_true_random=False))
def test_tokens_are_found_whatever_the_addresses(rng: random.Random) -> None:
    src, dst = (IPv4Network("10.0.0.0/8")[rng.randrange(1, 1 << 24)] for _ in range(2))
    for mechanism in MECHANISMS.values():
        if mechanism.version == 4:
            assert TOKEN in mechanism.packet(src, dst, TOKEN, source_port=rng.randrange(1024, 65_536))
