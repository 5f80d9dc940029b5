"""Every mechanism is found, named and counted; what only looks like one is not; nothing a frame holds is an error."""

from __future__ import annotations

import json
import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.detect import Confidence, Detector, Finding, Report
from lab.detect import detector as detector_module
from lab.detect.findings import Mechanism
from lab.detect.protocol41 import SixRd, parse_sixrd
from lab.detect.text import summary, who, why
from lab.errors import UsageError
from lab.generators import packets
from lab.generators.mechanisms import MECHANISMS, SIXRD_PREFIX, address_teredo
from tests.captures import ethernet, generated, vlan

CLIENT = IPv4Address("192.0.2.1")
BROKER = IPv4Address("198.51.100.2")
TUNNEL = IPv6Address("2001:db8:f000::3")
SERVER = IPv6Address("2001:db8:ffff::1")

FOUND = {
    "native_ipv6": Mechanism.NATIVE,
    "6in4": Mechanism.SIX_IN_FOUR,
    "6over4": Mechanism.SIX_OVER_FOUR,
    "6rd": Mechanism.SIX_RD,
    "6to4": Mechanism.SIX_TO_FOUR,
    "isatap": Mechanism.ISATAP,
    "teredo": Mechanism.TEREDO,
    "teredo_peer": Mechanism.TEREDO,
    "tsp_control_udp": Mechanism.TSP_CONTROL,
    "tsp_control_tcp": Mechanism.TSP_CONTROL,
    "tsp_data": Mechanism.TSP_DATA,
    "ayiya_udp": Mechanism.AYIYA,
    "ayiya_tcp": Mechanism.AYIYA,
}
INNOCENTS = [name for name, mechanism in MECHANISMS.items() if not mechanism.transition]


def look(*frames: bytes, link: int = 1, sixrd: tuple[SixRd, ...] = ()) -> Report:
    """The report on frames captured a millisecond apart, from second 1000 on."""
    detector = Detector(sixrd)
    for number, frame in enumerate(frames):
        detector.frame(1000 + number / 1000, link, frame)
    return detector.report()


def only(report: Report) -> Finding:
    """The one finding of a report."""
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def udp(payload: bytes, sport: int = 50_000, dport: int = 3653, *, back: bool = False) -> bytes:
    """A frame with a datagram from the client to the broker, or, with `back`, of the same flow the other way."""
    if back:
        return ethernet(packets.udp(BROKER, CLIENT, dport, sport, payload))
    return ethernet(packets.udp(CLIENT, BROKER, sport, dport, payload))


def tcp(payload: bytes, sequence: int, dport: int = 3653, *, flags: int = packets.PSH_ACK, back: bool = False) -> bytes:
    """A frame with a segment of one connection, either way."""
    if back:
        return ethernet(packets.tcp(BROKER, CLIENT, dport, 50_000, payload, flags=flags, sequence=sequence))
    return ethernet(packets.tcp(CLIENT, BROKER, 50_000, dport, payload, flags=flags, sequence=sequence))


def echo(size: int = 8, src: IPv6Address = TUNNEL, dst: IPv6Address = SERVER, sequence: int = 1) -> bytes:
    """An IPv6 packet."""
    return packets.echo_request(src, dst, bytes(size), sequence=sequence)


def tsp(text: bytes, sequence: int = 0xF00000F0) -> bytes:
    """A datagram's payload: the header of RFC 5572 section 4.4.1.2, then text."""
    return struct.pack("!II", sequence, 17) + text


SESSION = (
    udp(tsp(b"VERSION=2.0.0\r\n")),
    udp(tsp(b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS\r\n"), back=True),
    udp(tsp(b"AUTHENTICATE ANONYMOUS\r\n", 0xF00000F1)),
    udp(tsp(b"200 Success\r\n", 0xF00000F1), back=True),
    udp(tsp(b'Content-length: 33\r\n<tunnel action="create"></tunnel>', 0xF00000F2)),
    udp(
        tsp(
            b'Content-length: 99\r\n200 Success\r\n<tunnel action="info" type="v6udpv4"><client>'
            b'<address type="ipv6">2001:db8:f000::3</address></client></tunnel>\r\n',
            0xF00000F2,
        ),
        back=True,
    ),
    udp(tsp(b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n', 0xF00000F3)),
    udp(tsp(b"", 0xF00000F3), back=True),
)


def moved(frames: tuple[bytes, ...], port: int) -> list[bytes]:
    """A session at another port of the broker."""
    return [frame.replace(struct.pack("!H", 3653), struct.pack("!H", port), 1) for frame in frames]


# --- what is found ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOUND)
def test_a_single_packet_of_a_mechanism_is_found_with_its_filter(name: str) -> None:
    frame = generated(name)
    found = only(look(frame))
    assert found.mechanism == FOUND[name]
    assert found.filter.section == MECHANISMS[name].section
    assert found.filter.stops == (name != "teredo_peer")
    assert found.packets == 1
    assert found.bytes == len(frame) - 14
    assert found.first_s == found.last_s == 1000
    source = "2001:db8::1" if name == "native_ipv6" else "192.0.2.1"
    assert found.outer[0].startswith(source)
    # 6rd and 6over4 leave traces that could be chance; all else is unmistakable.
    assert found.confidence == (Confidence.LIKELY if name in ("6rd", "6over4") else Confidence.CERTAIN)


def test_a_6rd_prefix_that_is_given_makes_6rd_certain() -> None:
    assert only(look(generated("6rd"), sixrd=(SixRd(SIXRD_PREFIX),))).confidence is Confidence.CERTAIN


def test_a_6rd_domain_with_a_common_ipv4_prefix_is_recognised() -> None:
    domain = parse_sixrd("2001:db8::/40,10.0.0.0/8")
    address = IPv6Address((0x20010DB800 << 88) | (0x010203 << 64) | 1)
    packet = packets.ipv4(IPv4Address("10.1.2.3"), BROKER, 41, echo(src=address))
    assert only(look(ethernet(packet), sixrd=(domain,))).mechanism is Mechanism.SIX_RD
    assert only(look(ethernet(packet))).mechanism is Mechanism.SIX_IN_FOUR
    other = packets.ipv4(IPv4Address("10.1.2.4"), BROKER, 41, echo(src=address))
    assert only(look(ethernet(other), sixrd=(domain,))).mechanism is Mechanism.SIX_IN_FOUR


@pytest.mark.parametrize("text", ["2001:db8::", "2001:db8::/40", "10.0.0.0/8", "2001:db8::/32,10.0.0.1/8", ""])
def test_a_6rd_prefix_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="2001:db8::/40,10.0.0.0/8"):
        parse_sixrd(text)


def test_6over4_multicast_is_certain_and_vouches_for_the_link_local_traffic_of_its_hosts() -> None:
    neighbour = packets.ipv4(
        CLIENT, BROKER, 41, echo(src=IPv6Address("fe80::c000:201"), dst=IPv6Address("fe80::c633:6402"))
    )
    assert only(look(ethernet(neighbour))).mechanism is Mechanism.SIX_IN_FOUR
    multicast, unicast = look(generated("6over4", dst="239.192.1.2"), ethernet(neighbour)).findings
    assert multicast.mechanism is unicast.mechanism is Mechanism.SIX_OVER_FOUR
    assert multicast.confidence is Confidence.CERTAIN
    assert unicast.confidence is Confidence.LIKELY


def test_the_link_local_traffic_of_a_configured_tunnel_is_counted_with_it() -> None:
    solicitation = packets.ipv4(
        CLIENT, BROKER, 41, echo(src=IPv6Address("fe80::c000:201"), dst=IPv6Address("fe80::c633:6402"))
    )
    found = only(look(ethernet(solicitation), generated("6in4")))
    assert (found.mechanism, found.packets, found.first_s) == (Mechanism.SIX_IN_FOUR, 2, 1000)
    assert found.inner == ("2001:db8:f000::2", "2001:db8:ffff::1", "fe80::c000:201", "fe80::c633:6402")


def test_a_6to4_host_behind_a_configured_tunnel_is_not_6to4() -> None:
    packet = packets.ipv4(BROKER, CLIENT, 41, echo(src=IPv6Address("2002:cb00:7101::1"), dst=TUNNEL))
    assert only(look(ethernet(packet))).mechanism is Mechanism.SIX_IN_FOUR


@pytest.mark.parametrize(
    "front", [b"\0\0\x3c\xaf\x3f\xff\xfd\xfe", b"\0\1\0\0" + bytes(9), b"\0\1\0\0" + bytes(9) + bytes(8)]
)
def test_teredo_is_found_behind_its_indications(front: bytes) -> None:
    solicitation = packets.icmpv6(
        IPv6Address("fe80::8000:ffff:ffff:fffd"), IPv6Address("ff02::2"), 133, 0, bytes(4), hop_limit=255
    )
    found = only(look(udp(front + solicitation, dport=3544)))
    assert (found.mechanism, found.confidence) == (Mechanism.TEREDO, Confidence.CERTAIN)
    assert only(look(udp(front + solicitation, dport=40_000))).mechanism is Mechanism.TEREDO


def test_a_teredo_bubble_is_found_on_any_port() -> None:
    src, dst = (address_teredo(BROKER, CLIENT, port) for port in (50_000, 40_000))
    found = only(look(udp(packets.ipv6(src, dst, 59, b""), dport=40_000)))
    assert (found.mechanism, found.confidence, found.filter.stops) == (Mechanism.TEREDO, Confidence.LIKELY, False)
    assert "2001::/32" in found.filter.instead


def test_an_ayiya_heartbeat_is_found_on_its_port_only() -> None:
    beat = bytes((0x41, 0x52, 0x10, 59)) + bytes(4 + 16 + 20)
    assert only(look(udp(beat, dport=5072))).mechanism is Mechanism.AYIYA
    assert look(udp(beat, dport=5073)).findings == ()


def test_ayiya_on_another_port_is_found_by_what_is_inside() -> None:
    found = only(look(generated("ayiya_udp", port=443)))
    assert (found.mechanism, found.confidence, found.filter.stops) == (Mechanism.AYIYA, Confidence.LIKELY, False)


# --- TSP -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [3653, 443, 53, 40_000])
def test_a_session_and_its_data_are_found_on_any_port(port: int) -> None:
    data = (udp(echo(100)), udp(echo(100, SERVER, TUNNEL), back=True), udp(echo(1240)))
    control, carried = look(*moved(SESSION + data, port)).findings
    assert control.mechanism is Mechanism.TSP_CONTROL
    assert carried.mechanism is Mechanism.TSP_DATA
    for found, packets_, first in ((control, 8, 1000.0), (carried, 3, 1000.008)):
        assert found.outer == ("192.0.2.1:50000", f"198.51.100.2:{port}")
        assert found.packets == packets_
        assert found.confidence is Confidence.CERTAIN
        assert found.first_s == pytest.approx(first)
        assert found.filter.section == "3.7"
        assert found.filter.stops == (port == 3653)
        assert (f"port {port}" in found.filter.instead) == (port != 3653)
    assert control.bytes == sum(len(frame.rstrip(b"\0")) - 14 for frame in SESSION[:7]) + 36
    assert carried.bytes == 2 * (28 + 148) + 28 + 1288
    assert control.inner == ("2001:db8:f000::3",)
    assert carried.inner == (str(TUNNEL), str(SERVER))


def test_data_with_a_known_broker_is_certain_in_another_flow_too() -> None:
    frames = [*moved(SESSION, 443), udp(echo(), sport=50_001, dport=443)]
    *_, data = look(*frames).findings
    assert (data.mechanism, data.confidence) == (Mechanism.TSP_DATA, Confidence.CERTAIN)


def test_data_alone_on_an_odd_port_takes_two_packets_of_one_host() -> None:
    first = udp(echo(), dport=443)
    assert look(first).findings == ()
    assert look(first, udp(echo(8, IPv6Address("2400::1"), IPv6Address("2400::2")), dport=443)).findings == ()
    found = only(look(first, udp(echo(sequence=2), dport=443)))
    assert (found.mechanism, found.packets, found.confidence) == (Mechanism.TSP_DATA, 2, Confidence.LIKELY)


def test_a_client_alone_on_an_odd_port_is_likely_and_with_an_answer_certain() -> None:
    frames = moved(SESSION, 443)
    assert only(look(frames[0])).confidence is Confidence.LIKELY
    assert only(look(frames[0], frames[1])).confidence is Confidence.CERTAIN


def test_a_capture_that_begins_in_the_middle_of_a_session_counts_what_came_before_the_telling_message() -> None:
    found = only(look(*SESSION[3:]))
    assert (found.packets, found.first_s) == (5, 1000)
    assert found.outer == ("198.51.100.2:3653", "192.0.2.1:50000")


def test_an_old_little_endian_client_is_found() -> None:
    found = only(look(udp(struct.pack("<II", 0xF0000001, 3) + b"VERSION=2.0.0\r\n")))
    assert found.mechanism is Mechanism.TSP_CONTROL


def test_tsp_over_ipv6_is_found_beside_the_ipv6_that_carries_it() -> None:
    packet = packets.udp(SERVER, IPv6Address("2001:db8::53"), 50_000, 3653, tsp(b"VERSION=2.0.0\r\n"))
    control, native = look(ethernet(packet)).findings
    assert (native.mechanism, control.mechanism) == (Mechanism.NATIVE, Mechanism.TSP_CONTROL)
    assert control.outer == ("[2001:db8:ffff::1]:50000", "[2001:db8::53]:3653")


HANDSHAKE = (
    tcp(b"", 99, flags=0x02),
    tcp(b"", 499, flags=0x12, back=True),
    tcp(b"", 100, flags=0x10),
)
REPLY = tcp(b"CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS\r\n", 500, back=True)


@pytest.mark.parametrize("port", [3653, 8080])
def test_a_session_over_tcp_is_found_on_any_port_and_counted_from_its_first_packet(port: int) -> None:
    hello = tcp(b"VERSION=2.0.0\r\n", 100)
    found = only(look(*moved((*HANDSHAKE, hello, REPLY), port)))
    assert (found.mechanism, found.carrier, found.packets) == (Mechanism.TSP_CONTROL, "tcp", 5)
    assert found.confidence is Confidence.CERTAIN
    assert found.filter.stops == (port == 3653)


def test_a_hello_that_comes_byte_by_byte_and_twice_is_found() -> None:
    text = b"\0VERSION=2.0.2\r\n"
    pieces = [tcp(text[at : at + 1], 100 + at) for at in range(len(text))]
    found = only(look(*moved((*HANDSHAKE, *[piece for piece in pieces for _ in range(2)]), 8080)))
    assert found.packets == 3 + 2 * len(text)


def test_the_sequence_numbers_of_a_connection_may_wrap() -> None:
    frames = (tcp(b"", 0xFFFFFFFD, flags=0x02), tcp(b"VERS", 0xFFFFFFFE), tcp(b"ION=2.0.0\r\n", 2))
    assert only(look(*moved(frames, 8080))).packets == 3


@pytest.mark.parametrize("port", [3653, 5072])
def test_an_attempt_to_connect_is_a_hint(port: int) -> None:
    found = only(look(*moved((HANDSHAKE[0], HANDSHAKE[0]), port)))
    assert (found.confidence, found.packets) == (Confidence.POSSIBLE, 2)
    assert look(*moved(HANDSHAKE[:1], 8080)).findings == ()


def test_something_else_on_the_port_of_tsp_is_not_tsp() -> None:
    assert look(*HANDSHAKE, tcp(b"\x16\3\1\0\x05hello", 100)).findings == ()
    assert look(*HANDSHAKE, tcp(b"220 mail.example.com ESMTP\r\n", 500, back=True)).findings == ()


def test_a_web_page_that_speaks_of_tsp_is_not_tsp() -> None:
    page = tcp(b"VERSION=2.0.0\r\n", 520, 80, back=True)
    request = tcp(b"GET /rfc5572 HTTP/1.1\r\n\r\n", 100, 80)
    answer = tcp(b"HTTP/1.1 200 OK\r\n\r\n", 500, 80, back=True)
    assert look(*moved(HANDSHAKE, 80), request, answer, page).findings == ()
    assert look(request, page).findings == ()


def test_a_v6v4_tunnel_is_told_from_other_6in4_by_the_session_that_made_it() -> None:
    tunnel = ethernet(packets.ipv4(CLIENT, BROKER, 41, echo()))
    behind_a_nat = ethernet(packets.ipv4(IPv4Address("203.0.113.9"), BROKER, 41, echo()))
    other = ethernet(packets.ipv4(IPv4Address("203.0.113.9"), BROKER, 41, echo(src=IPv6Address("2400::1"))))
    for frame, section in ((tunnel, "3.7"), (behind_a_nat, "3.7"), (other, "3.1")):
        found = look(*SESSION, frame).findings[-1]
        assert found.mechanism is Mechanism.SIX_IN_FOUR
        assert found.filter.section == section
        assert any("TSP" in reason for reason in found.why) == (section == "3.7")


def test_a_teredo_host_reached_through_a_tunnel_is_data_of_the_tunnel() -> None:
    inner = echo(dst=address_teredo(BROKER, CLIENT, 5))
    control, data = look(*SESSION, udp(inner)).findings
    assert (control.mechanism, data.mechanism, data.packets) == (Mechanism.TSP_CONTROL, Mechanism.TSP_DATA, 1)


# --- what is not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INNOCENTS)
@pytest.mark.parametrize("port", [None, 3653, 3544, 5072])
def test_innocent_traffic_is_nothing_on_any_port(name: str, port: int | None) -> None:
    frame = generated(name, port=port)
    assert look(frame, frame).findings == ()


def test_a_dns_query_that_begins_like_ipv6_is_nothing() -> None:
    # 41 bytes, identifier 0x6000, one question: as IPv6 that is version 6 and a payload length of 1, which is right.
    query = struct.pack("!6H", 0x6000, 0x0100, 1, 0, 0, 0) + b"\x17" + b"a" * 23 + b"\0" + struct.pack("!HH", 1, 1)
    assert len(query) == 41
    assert look(*[udp(query, sport=sport, dport=53) for sport in (50_000, 50_000, 3653, 3653)]).findings == ()


def test_an_ntp_packet_that_announces_a_leap_second_is_nothing() -> None:
    # The first byte is 0x63; a root delay of 8 s would make the IPv6 payload length right.
    packet = b"\x63\2\6\xec\0\x08\x11\x40" + bytes(8) + random.Random(3).randbytes(32)
    assert look(*[udp(packet, sport=123, dport=123)] * 3).findings == ()


def other_encapsulations() -> dict[str, bytes]:
    """Payloads of UDP that have something of a mechanism, or carry packets otherwise."""
    rng = random.Random(4)
    inner = echo(56)
    return {
        "IPv4 in UDP": packets.ipv4(CLIENT, BROKER, 17, bytes(60)),
        "VXLAN": b"\x08\0\0\0\0\0\x01\0" + ethernet(inner),
        "Geneve": b"\0\0\x86\xdd\0\0\1\0" + inner,
        "GTP-U": b"\x30\xff" + struct.pack("!HI", len(inner), 7) + inner,
        "L2TP": b"\x60\x02" + rng.randbytes(60),
        "WireGuard": b"\4\0\0\0" + rng.randbytes(92),
        "QUIC Retry": b"\xf0\0\0\0\1\x08" + rng.randbytes(8) + b"\0" + rng.randbytes(40),
        "QUIC short header": b"\x61" + rng.randbytes(1000),
        "TURN channel data": b"\x60\0" + struct.pack("!H", 40) + rng.randbytes(40),
        "TURN channel data with IPv6's length": b"\x60\0\0\x28\0\0" + rng.randbytes(38),
        "SIP": b"REGISTER sip:example.com SIP/2.0\r\n\r\n",
        "SSDP": b"NOTIFY * HTTP/1.1\r\n\r\n",
        "a status line": b"\xf0\0\0\xf0\0\0\0\1" + b"200 Success\r\n",
        "an empty message": b"\xf0\0\0\xf0\0\0\0\1",
        "IPv6, one byte too many": inner + b"\0",
        "IPv6, one byte missing": inner[:-1],
        "IPv6, a wrong checksum": inner[:-1] + b"\1",
        "IPv6, no hops left": inner[:7] + b"\0" + inner[8:],
        "IPv6, from a multicast address": inner[:8] + b"\xff" + inner[9:],
        "IPv6, a header that does not exist": inner[:6] + b"\xc8" + inner[7:],
        "IPv6, extension headers without end": packets.ipv6(
            TUNNEL, SERVER, 0, b"\0\0" + bytes(6) + b"\0\xff" + bytes(6)
        ),
    }


@pytest.mark.parametrize("name", other_encapsulations())
def test_what_only_resembles_a_mechanism_is_nothing(name: str) -> None:
    payload = other_encapsulations()[name]
    frames = [udp(payload, sport=50_000, dport=port) for port in (40_000, 40_000, 443, 53)]
    assert look(*frames).findings == ()


def test_random_datagrams_are_nothing_on_any_port() -> None:
    rng = random.Random(5)
    detector = Detector()
    for number in range(20_000):
        length = rng.choice((8, 12, 40, 48, 60, 100))
        payload = bytearray(rng.randbytes(length))
        if number % 2:
            payload[0] = rng.choice((0x60, 0xF0, 0x41, 0x00)) | rng.randrange(16)
        if number % 4 == 1 and length >= 40:  # as near as noise comes: the length is right
            payload[4:6] = (length - 40).to_bytes(2, "big")
        port = rng.choice((3653, 3544, 5072, 53, 443, rng.randrange(1, 65_536)))
        detector.frame(number, 1, udp(bytes(payload), sport=rng.randrange(1024, 65_536), dport=port))
    certain = [found for found in detector.report().findings if found.confidence is not Confidence.POSSIBLE]
    assert certain == []


def test_protocol_41_without_ipv6_inside_is_not_counted() -> None:
    for payload in (b"", b"\x60" + bytes(10), packets.ipv4(CLIENT, BROKER, 17, bytes(40)), echo()[:-1]):
        assert look(ethernet(packets.ipv4(CLIENT, BROKER, 41, payload))).findings == ()


# --- frames ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOUND)
def test_link_layers_make_no_difference(name: str) -> None:
    frame = generated(name)
    packet = frame[14:]
    kind = frame[12:14]
    wanted = FOUND[name]
    assert only(look(ethernet(packet, tags=vlan(7)))).mechanism == wanted
    assert only(look(ethernet(packet, tags=vlan(8, outer=True) + vlan(7)))).mechanism == wanted
    assert only(look(bytes(14) + kind + packet, link=113)).mechanism == wanted
    assert only(look(kind + bytes(18) + packet, link=276)).mechanism == wanted
    assert only(look(struct.pack("<I", 2) + packet, link=0)).mechanism == wanted
    assert only(look(packet, link=101)).mechanism == wanted
    ppp = b"\x00\x57" if name == "native_ipv6" else b"\x00\x21"
    assert only(look(bytes(12) + b"\x88\x64\x11\0\0\1\0\0" + ppp + packet)).mechanism == wanted


def test_ipv6_without_a_link_layer_is_not_said_to_be_native_for_sure() -> None:
    found = only(look(echo(), link=101))
    assert (found.confidence, found.filter.stops, found.carrier) == (Confidence.LIKELY, False, "ip version 6")


def test_an_unknown_link_type_is_told() -> None:
    report = look(b"whatever", b"whatever", link=147)
    assert report.notes == ("2 frames have link type 147, which is not known here",)
    assert "no transition mechanism" in summary(report)


def fragments(packet: bytes, size: int = 64) -> list[bytes]:
    """Frames with the fragments of an IPv4 packet."""
    pieces = []
    for at in range(0, len(packet) - 20, size):
        part = packet[20 + at : 20 + at + size]
        more = 0x2000 if 20 + at + size < len(packet) else 0
        header = packet[:2] + struct.pack("!HHH", 20 + len(part), 7, more | at // 8) + packet[8:20]
        pieces.append(ethernet(header + part))
    return pieces


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", ["protocol 41", "udp"])
def test_all_fragments_of_a_packet_are_counted(kind: str, backwards: bool) -> None:
    inner = echo(300)
    packet = packets.ipv4(CLIENT, BROKER, 41, inner) if kind == "protocol 41" else udp(inner)[14:]
    pieces = fragments(packet)
    before = SESSION if kind == "udp" else ()
    found = look(*before, *(reversed(pieces) if backwards else pieces)).findings[-1]
    assert found.mechanism is (Mechanism.TSP_DATA if kind == "udp" else Mechanism.SIX_IN_FOUR)
    assert found.packets == len(pieces)
    assert found.bytes == len(packet) + 20 * (len(pieces) - 1)


def test_fragments_of_innocent_packets_are_nothing() -> None:
    pieces = fragments(generated("quic")[14:])
    # The second and third, had they headers of their own, would be protocol 41 and UDP to 3653.
    assert look(*pieces, *fragments(packets.ipv4(CLIENT, BROKER, 1, echo(300)))).findings == ()


def test_frames_cut_by_a_snap_length_are_counted_in_full() -> None:
    frames = [udp(echo(1000), dport=443)[:100], udp(echo(1000, sequence=2), dport=443)[:100]]
    found = only(look(*frames))
    assert (found.mechanism, found.bytes) == (Mechanism.TSP_DATA, 2 * (28 + 1048))


def test_times_of_a_capture_out_of_order_are_put_right() -> None:
    detector = Detector()
    for at_s in (5.0, 3.0, 4.0):
        detector.frame(at_s, 1, generated("6in4"))
    report = detector.report()
    assert (report.first_s, report.last_s) == (only(report).first_s, only(report).last_s) == (3.0, 5.0)


# --- hostile captures ------------------------------------------------------------------------------------------

VALID = [generated(name) for name in MECHANISMS] + [*SESSION, *HANDSHAKE, REPLY, *fragments(generated("6in4")[14:], 24)]


@given(st.lists(st.tuples(st.sampled_from([0, 1, 12, 101, 113, 276, 999]), st.binary(max_size=120)), max_size=5))
def test_no_bytes_make_the_detector_fail(frames: list[tuple[int, bytes]]) -> None:
    detector = Detector()
    for link, frame in frames:
        detector.frame(1.0, link, frame)
    json.dumps(detector.report().to_json())


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(VALID),
            st.integers(0, 1300),
            st.lists(st.tuples(st.integers(0, 130), st.integers(0, 255)), max_size=4),
        ),
        max_size=6,
    )
)
def test_damaged_packets_never_make_the_detector_fail(
    damaged: list[tuple[bytes, int, list[tuple[int, int]]]],
) -> None:
    detector = Detector((SixRd(SIXRD_PREFIX),))
    for frame, end, changes in damaged:
        wrong = bytearray(frame[:end])
        for at, value in changes:
            if at < len(wrong):
                wrong[at] = value
        detector.frame(1.0, 1, bytes(wrong))
    report = detector.report()
    json.dumps(report.to_json())
    assert sum(found.packets for found in report.findings if found.mechanism is not Mechanism.NATIVE) <= len(damaged)
    who(report)
    why(report)


@pytest.mark.parametrize("frame", VALID)
def test_a_packet_cut_anywhere_is_no_error(frame: bytes) -> None:
    detector = Detector()
    for end in range(len(frame)):
        detector.frame(1.0, 1, frame[:end])
    detector.report()


def test_a_flood_of_flows_is_bounded_and_what_speaks_tsp_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "_MOST_FLOWS", 64)
    monkeypatch.setattr(detector_module, "_MOST_PAIRS", 64)
    detector = Detector()
    for number, frame in enumerate(SESSION):
        detector.frame(number, 1, frame)
    for number in range(1000):
        src = ip_address((10 << 24) + number)
        assert isinstance(src, IPv4Address)
        for packet in (
            packets.udp(src, BROKER, 4000, 5000, tsp(b"")),
            packets.udp(src, BROKER, 4001, 5000, echo()),
            packets.tcp(src, BROKER, 4000, 5000, b"x", sequence=number),
            packets.tcp(src, BROKER, 4001, 5000),
            packets.ipv4(src, BROKER, 41, echo()),
        ):
            detector.frame(number, 1, ethernet(packet))
    assert len(detector._udp_flows) <= 64
    assert len(detector._tcp_flows) <= 64
    assert len(detector._pairs) <= 64
    report = detector.report()
    assert report.packets_by_mechanism()[Mechanism.TSP_CONTROL] == len(SESSION)
    assert any("were forgotten" in note for note in report.notes)


# --- as text ---------------------------------------------------------------------------------------------------


def test_the_text_names_who_and_how_much_and_what_would_stop_it() -> None:
    report = look(*moved(SESSION, 443), generated("6in4"))
    assert summary(report) == "9 packets in 0.008 s, from 1970-01-01 00:16:40.000 UTC"
    first, second = who(report)
    assert first[1:3] == ("TSP control (udp)", "8")
    assert first[5] == "192.0.2.1:50000 > 198.51.100.2:443 (2001:db8:f000::3)"
    assert second[4:] == ("0.008 - 0.008", "192.0.2.1 > 198.51.100.2 (2001:db8:f000::2 2001:db8:ffff::1)")
    assert why(report)[0] == (
        "1",
        "certain",
        "section 3.7: UDP to port 3653, does not stop these: they use UDP port 443; a filter for that port or host"
        " would, or one that looks into the payload.  Both ends speak TSP",
    )


def test_a_time_that_no_calendar_has_is_left_out() -> None:
    detector = Detector()
    detector.frame(1e30, 1, generated("6in4"))
    assert summary(detector.report()) == "1 packets in 0.000 s"
