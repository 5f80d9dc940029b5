"""scapy with the lab's layers reads TSP, and tells it from the IPv6 packets on its port."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Raw
from scapy.sendrecv import sniff
from scapy.sessions import TCPSession
from scapy.utils import rdpcap, wrpcap

from lab.dissect import TSP, TSPMessage, TSPReversed
from lab.tsp.messages import Action
from tests.unit.ladders import INNER
from tests.unit.test_ladder import behind_a_nat

REPLY = (
    b"Content-length: 94\r\n200 Success\r\n"
    b'<tunnel action="info" type="v6v4"><client></client><server></server></tunnel>  \r\n'
)


def over_udp(payload: bytes) -> UDP:
    """A datagram to the broker, from bytes and back."""
    return UDP(bytes(UDP(sport=40_000, dport=3653) / Raw(payload)))


def test_a_message_over_udp_has_its_header_and_its_words() -> None:
    packet = over_udp(bytes.fromhex("f00000f000000007") + b"VERSION=2.0.0\r\n")
    assert (packet[TSP].sequence, packet[TSP].timestamp) == (240, 7)
    assert packet[TSPMessage].words == "VERSION=2.0.0"
    assert packet[TSPMessage].status is None


def test_a_header_of_an_old_client_is_read_the_other_way_round() -> None:
    packet = over_udp(bytes.fromhex("010000f000000007") + b"VERSION=2.0.0\r\n")
    assert packet[TSPReversed].sequence == 1
    assert packet[TSPMessage].words == "VERSION=2.0.0"


def test_an_ipv6_packet_on_the_port_is_an_ipv6_packet() -> None:
    packet = over_udp(INNER)
    assert packet[IPv6].dst == "2001:db8:0:1::2"
    assert packet[ICMPv6EchoRequest].seq == 7
    assert TSPMessage not in packet


@pytest.mark.parametrize("payload", [b"\x10nonsense", b"\xf0\x00", b"E" * 40], ids=["other", "short", "ipv4"])
def test_what_is_neither_stays_bytes(payload: bytes) -> None:
    assert bytes(over_udp(payload)[Raw]) == payload


def test_what_is_built_is_what_is_read() -> None:
    built = UDP(sport=40_000, dport=3653) / TSP(sequence=241, timestamp=9) / TSPMessage(text=b"AUTHENTICATE PLAIN\r\n")
    again = UDP(bytes(built))
    assert (again[TSP].sequence, again[TSP].timestamp) == (241, 9)
    assert again[TSPMessage].text == b"AUTHENTICATE PLAIN\r\n"


def test_the_tunnel_element_and_the_status_are_those_of_the_protocol() -> None:
    message = TSPMessage(REPLY)
    assert message.status == 200
    assert message.tunnel is not None
    assert (message.tunnel.action, message.tunnel.type) == (Action.INFO, "v6v4")
    assert TSPMessage(b"<tunnel").tunnel is None


def test_a_stream_is_cut_into_messages_wherever_its_segments_end(tmp_path: Path) -> None:
    said = b"VERSION=2.0.0\r\nAUTHENTICATE ANONYMOUS\r\n"
    segments = [said[:5], said[5:20], said[20:]]
    packets, seq = [], 1
    for segment in segments:
        packets.append(
            IP(src="192.0.2.2", dst="192.0.2.9") / TCP(sport=40_000, dport=3653, flags="PA", seq=seq) / segment
        )
        seq += len(segment)
    file = tmp_path / "stream.pcap"
    wrpcap(str(file), packets)
    read = [packet[TSPMessage].words for packet in sniff(offline=str(file), session=TCPSession) if TSPMessage in packet]
    assert read[0] == "VERSION=2.0.0"
    assert "AUTHENTICATE ANONYMOUS" in read


def test_a_capture_of_the_lab_is_read(tmp_path: Path) -> None:
    run = behind_a_nat(tmp_path)
    packets = rdpcap(str(run.capture("nat", "wan0")))
    assert [packet[TSPMessage].words for packet in packets if TSPMessage in packet] == [
        "VERSION=2.0.0",
        "CAPABILITY v6udpv4 ANONYMOUS",
    ]
    assert sum(IPv6 in packet for packet in packets) == 1
