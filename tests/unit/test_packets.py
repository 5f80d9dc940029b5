"""Frames as rows, and the mappings of a NAT found in what went in and what came out."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from lab.packets import Packet, find_mappings, parse_packet

CLIENT, NAT, BROKER = "192.168.0.2", "192.0.2.2", "198.51.100.2"


def ipv4(protocol: int, src: str, dst: str, payload: bytes) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0, socket.inet_aton(src), socket.inet_aton(dst)
    )
    return b"\0" * 12 + b"\x08\0" + head + payload


def udp(src: str, sport: int, dst: str, dport: int, data: bytes) -> bytes:
    return ipv4(17, src, dst, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data)


def ipv6(src: str, dst: str) -> bytes:
    addresses = (socket.inet_pton(socket.AF_INET6, address) for address in (src, dst))
    return b"\x60" + b"\0" * 5 + b"\x3b\x40" + b"".join(addresses)


def test_a_datagram_and_the_ipv6_in_it_are_told() -> None:
    packet = parse_packet(udp(CLIENT, 4000, BROKER, 3653, ipv6("2001:db8::1", "2001:db8::2")))
    assert packet[:8] == ("udp", CLIENT, 4000, BROKER, 3653, 64, "2001:db8::1", "2001:db8::2")


def test_protocol_41_has_no_ports() -> None:
    packet = parse_packet(ipv4(41, CLIENT, BROKER, ipv6("2001:db8::1", "2001:db8::2")))
    assert (packet.protocol, packet.sport, packet.inner_dst) == ("6in4", None, "2001:db8::2")


def test_an_echo_request_has_its_identifier_for_a_port() -> None:
    packet = parse_packet(ipv4(1, CLIENT, BROKER, b"\x08\0\0\0\x01\x02\0\x01data"))
    assert (packet.protocol, packet.sport) == ("icmp", 0x102)


def test_padding_after_the_packet_is_no_part_of_it() -> None:
    frame = udp(CLIENT, 4000, BROKER, 53, b"abc")
    assert parse_packet(frame + b"\0" * 11) == parse_packet(frame)


@given(st.binary(max_size=120), st.sampled_from([1, 101]))
def test_no_frame_makes_the_parser_raise(frame: bytes, link: int) -> None:
    parse_packet(frame, link)


def seen(*frames: tuple[float, bytes]) -> list[tuple[float, Packet]]:
    return [(at_s, parse_packet(frame)) for at_s, frame in frames]


def test_a_mapping_is_found_by_what_the_nat_leaves_as_it_is() -> None:
    inside = seen(
        (1.0, udp(CLIENT, 4000, BROKER, 3653, b"one")),
        (1.5, udp(BROKER, 3653, CLIENT, 4000, b"answer")),
        (2.0, udp(CLIENT, 4000, BROKER, 3653, b"two")),
        (3.0, udp(CLIENT, 4001, BROKER, 3653, b"one")),
    )
    outside = seen(
        (1.1, udp(NAT, 61000, BROKER, 3653, b"one")),
        (1.4, udp(BROKER, 3653, NAT, 61000, b"answer")),
        (2.1, udp(NAT, 61000, BROKER, 3653, b"two")),
        (3.1, udp(NAT, 61001, BROKER, 3653, b"one")),
    )
    first, second = find_mappings(inside, outside, {"192.168.0.1"})
    assert (first.inside, first.inside_port, first.outside, first.outside_port) == (CLIENT, 4000, NAT, 61000)
    assert (first.first_s, first.last_s, first.packets) == (1.1, 2.1, 2)
    assert (second.inside_port, second.outside_port, second.packets) == (4001, 61001, 1)


def test_what_the_nat_did_not_let_out_makes_no_mapping() -> None:
    inside = seen((1.0, udp(CLIENT, 4000, BROKER, 3653, b"one")), (1.0, udp(CLIENT, 4000, "192.168.0.1", 53, b"q")))
    assert list(find_mappings(inside, seen((0.9, udp(NAT, 6, BROKER, 3653, b"one"))), {"192.168.0.1"})) == []
