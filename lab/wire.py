"""What kinds of packet a capture holds: a short classification.

`classify` sorts one captured frame under one of `LABELS`, by the fields RFC 7123 section 3.7 would filter on plus
the marker nibble that parts TSP signalling from IPv6 data on UDP port 3653 (RFC 5572 section 4.4.1.2).  It reads
headers only and never raises on a short or strange frame.  It is no protocol analyser: open the file in Wireshark
for that.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.capfile import LINK_ETHERNET, LINK_RAW, CaptureFile

PORT: Final = 3653
LABELS: Final = (
    "udp 3653 signalling",
    "v6udpv4 data",
    "tcp 3653",
    "protocol 41",
    "icmp",
    "other ipv4",
    "ipv6",
    "arp",
    "other",
)


def read_pcap(path: Path) -> Iterator[tuple[float, int, bytes]]:
    """Yield (seconds since the epoch, link type, frame) for every packet; stops before a cut-off last record.

    Raises UsageError when the file is no capture.
    """
    for at_s, link, frame, _ in CaptureFile(path):
        yield at_s, link, frame


def classify(frame: bytes, link: int = LINK_ETHERNET) -> str:
    """The label, one of `LABELS`, of a frame of an Ethernet (1) or raw IP (101) capture."""
    if link == LINK_RAW:
        kind, packet = {4: 0x0800, 6: 0x86DD}.get(frame[0] >> 4 if frame else 0, 0), frame
    else:
        kind, packet = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == 0x0800:
        return _classify_ipv4(packet)
    return {0x86DD: "ipv6", 0x0806: "arp"}.get(kind, "other")


def _classify_ipv4(packet: bytes) -> str:
    if len(packet) < 20:
        return "other ipv4"
    protocol = packet[9]
    if protocol == 41:
        return "protocol 41"
    if protocol == 1:
        return "icmp"
    first_fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF == 0
    payload = packet[(packet[0] & 15) * 4 :]
    if not first_fragment or PORT not in struct.unpack("!HH", payload[:4].ljust(4, b"\0")):
        return "other ipv4"
    if protocol == 6:
        return "tcp 3653"
    if protocol == 17:
        return "v6udpv4 data" if payload[8:9] and payload[8] >> 4 == 6 else "udp 3653 signalling"
    return "other ipv4"


def count(path: Path) -> Counter[str]:
    """How many packets of each label a capture holds; a label that does not occur counts 0."""
    return Counter(classify(frame, link) for _, link, frame in read_pcap(path))
