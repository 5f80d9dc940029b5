"""Capture files for tests, written here byte by byte: every kind that `lab.capfile` reads."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from lab.generators.mechanisms import MECHANISMS

IPV4 = b"\x08\x00"
IPV6 = b"\x86\xdd"


def ethernet(packet: bytes, *, tags: bytes = b"") -> bytes:
    """The packet in an Ethernet frame, behind `tags`, padded to the shortest frame there is."""
    kind = IPV6 if packet and packet[0] >> 4 == 6 else IPV4
    return (bytes.fromhex("020000000001020000000002") + tags + kind + packet).ljust(60, b"\0")


def vlan(identifier: int, *, outer: bool = False) -> bytes:
    """A VLAN tag (IEEE 802.1Q), or a provider's."""
    return (b"\x88\xa8" if outer else b"\x81\x00") + struct.pack("!H", identifier)


def pcap(
    frames: Iterable[bytes], *, order: str = "<", nanoseconds: bool = True, link: int = 1, snaplen: int = 262_144
) -> bytes:
    """A pcap file; frame number n was captured at n milliseconds after second 1000."""
    data = struct.pack(f"{order}IHHiIII", 0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, link)
    for number, frame in enumerate(frames):
        parts = number % 1000 * (1_000_000 if nanoseconds else 1000)
        kept = frame[:snaplen]
        data += struct.pack(f"{order}IIII", 1000 + number // 1000, parts, len(kept), len(frame)) + kept
    return data


def pcapng(frames: Iterable[bytes], *, order: str = "<", link: int = 1, resolution: int | None = None) -> bytes:
    """A pcapng file of one section and one interface, times as those of `pcap`."""
    options = b""
    unit = 10**6
    if resolution is not None:
        options = struct.pack(f"{order}HHB3xHH", 9, 1, resolution, 0, 0)
        unit = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    data = _block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += _block(order, 1, struct.pack(f"{order}HHI", link, 0, 0) + options)
    data += _block(order, 5, struct.pack(f"{order}III", 0, 0, 0))  # statistics: to be skipped
    for number, frame in enumerate(frames):
        stamp = (1_000_000 + number) * unit // 1000
        start = struct.pack(f"{order}IIIII", 0, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame))
        data += _block(order, 6, start + frame + bytes(-len(frame) % 4))
    return data


def _block(order: str, kind: int, body: bytes) -> bytes:
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def write(path: Path, frames: Iterable[bytes]) -> Path:
    """Write Ethernet frames into a pcap file at `path`."""
    path.write_bytes(pcap(frames))
    return path


def generated(name: str, src: str = "192.0.2.1", dst: str = "198.51.100.2", *, port: int | None = None) -> bytes:
    """An Ethernet frame with a generated packet."""
    from ipaddress import ip_address

    if MECHANISMS[name].version == 6:
        src, dst = "2001:db8::1", "2001:db8::2"
    return ethernet(MECHANISMS[name].packet(ip_address(src), ip_address(dst), b"zq7x", port=port))
