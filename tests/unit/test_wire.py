"""The lab's own pcap files are read back, and frames are sorted by what RFC 7123 would filter on."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import UsageError
from lab.wire import LABELS, classify, count, read_pcap


def frame(protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    """An Ethernet frame with an IPv4 packet of `protocol`."""
    ipv4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, fragment, 64, protocol, 0, bytes(4), bytes(4))
    return bytes(12) + b"\x08\x00" + ipv4 + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    return frame(17, struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload)


@pytest.mark.parametrize(
    ("captured", "label"),
    [
        (udp(40000, 3653, b"\xf0\0\0\xf0\0\0\0\0VERSION=2.0.0\r\n"), "udp 3653 signalling"),
        (udp(3653, 40000, b"\xf0\0\0\xf0\0\0\0\0"), "udp 3653 signalling"),
        (udp(40000, 3653, b"\x60" + bytes(39)), "v6udpv4 data"),
        (udp(40000, 53, b"\x60" + bytes(39)), "other ipv4"),
        (frame(6, struct.pack("!HH", 40000, 3653) + bytes(16)), "tcp 3653"),
        (frame(6, struct.pack("!HH", 40000, 80) + bytes(16)), "other ipv4"),
        (frame(41, b"\x60" + bytes(39)), "protocol 41"),
        (frame(1, bytes(8)), "icmp"),
        (frame(17, struct.pack("!HH", 1, 3653), fragment=100), "other ipv4"),
        (bytes(12) + b"\x86\xdd" + bytes(40), "ipv6"),
        (bytes(12) + b"\x08\x06" + bytes(28), "arp"),
        (b"", "other"),
    ],
)
def test_a_frame_is_sorted_by_its_headers(captured: bytes, label: str) -> None:
    assert classify(captured) == label


@given(st.binary(max_size=80), st.sampled_from([1, 101]))
def test_no_frame_makes_the_classification_fail(captured: bytes, link: int) -> None:
    assert classify(captured, link) in LABELS


def pcap(*frames: bytes) -> bytes:
    header = struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(struct.pack("<IIII", 7, 500_000_000, len(f), len(f)) + f for f in frames)


def test_a_capture_is_read_back_with_its_times(tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"
    file.write_bytes(pcap(frame(41, b"\x60"), frame(41, b"\x60"), udp(1, 3653, b"\xf0")))
    assert [(at, link) for at, link, _ in read_pcap(file)] == [(7.5, 1)] * 3
    assert count(file) == {"protocol 41": 2, "udp 3653 signalling": 1}
    assert count(file)["arp"] == 0


def test_a_record_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.pcap"
    file.write_bytes(pcap(frame(41, b"\x60"), frame(41, b"\x60"))[:-3])
    assert len(list(read_pcap(file))) == 1


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("no capture, but longer than a pcap header")
    with pytest.raises(UsageError, match=r"a\.txt"):
        list(read_pcap(file))
