"""A packet that is made larger or given fewer hops is still a right one, as scapy sees it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import pytest
from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from lab.explain.probe import Kind, make_probe, parse_header
from lab.explain.reshape import resized, with_ttl
from lab.generators import packets
from lab.generators.mechanisms import MECHANISMS

SRC, DST = IPv4Address("192.0.2.2"), IPv4Address("203.0.113.2")
SRC6, DST6 = IPv6Address("2001:db8::2"), IPv6Address("2001:db8:1::2")

KINDS: Final[list[dict[str, Any]]] = [
    *({"mechanism": name} for name in MECHANISMS),
    {"udp": 9},
    {"tcp": 9},
    {"icmp": True},
    {"proto": 47},
]


def packet_of(kind: dict[str, Any], **shape: Any) -> bytes:
    wish = Kind(**kind, **shape)
    src, dst = (SRC6, DST6) if wish.version == 6 else (SRC, DST)
    return make_probe(wish, "laptop", "broker", src, dst, b"bcdf").packet


def as_scapy_writes_it(packet: bytes) -> bytes:
    """The packet with the lengths and checksums that scapy computes, of all headers up to the first data."""
    headers = [IP, IPv6, UDP, TCP, ICMP, ICMPv6EchoRequest]
    conf.layers.filter([*headers, Raw])  # others, of scapy and of the lab, depend on what was imported
    try:
        first: Packet = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
        layer = first
        while type(layer) in headers:
            for field in {"len", "plen", "chksum", "cksum"} & layer.fields.keys():
                delattr(layer, field)
            layer = layer.payload
        return bytes(first)
    finally:
        conf.layers.unfilter()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", [1281, 1500])
def test_a_larger_packet_has_right_lengths_and_checksums(kind: dict[str, Any], size: int) -> None:
    made = packet_of(kind, size=size)
    assert len(made) == size
    assert parse_header(made) == parse_header(packet_of(kind))
    if made[0] >> 4 == 4:
        assert made[6:8] == b"\x40\x00"
        assert packets.internet_checksum(made[:20]) == 0
    assert as_scapy_writes_it(made) == made


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_fewer_hops_to_live_change_nothing_else(kind: dict[str, Any]) -> None:
    before, made = packet_of(kind), packet_of(kind, ttl=3)
    if made[0] >> 4 == 4:
        assert packets.internet_checksum(made[:20]) == 0
        assert (made[8], made[:8], made[9], made[12:]) == (3, before[:8], before[9], before[12:])
    else:
        assert (made[7], made[:7], made[8:]) == (3, before[:7], before[8:])


def test_an_echo_request_over_ipv6_can_be_larger() -> None:
    echo = packets.echo_request(SRC6, DST6, b"bcdf")
    made = resized(echo, 1400)
    assert (len(made), as_scapy_writes_it(made)) == (1400, made)


@pytest.mark.parametrize("size", [0, 20, 65536])
def test_a_size_that_a_packet_cannot_have_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"to 65535 bytes, not {size}"):
        resized(packet_of({"udp": 9}), size)


@pytest.mark.parametrize("ttl", [0, 256, -1])
def test_a_time_to_live_that_a_packet_cannot_have_is_refused(ttl: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 255, not {ttl}"):
        with_ttl(packet_of({"udp": 9}), ttl)
    with pytest.raises(ValueError, match=f"1 to 255, not {ttl}"):
        Kind(udp=9, ttl=ttl)
