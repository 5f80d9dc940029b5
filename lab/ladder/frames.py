"""One captured frame, and what stays the same of its packet all along its way.

A packet is known again in another capture by its `key`: of IPv6, all but the hop limit, whether it travels as it is,
in protocol 41 or in UDP port 3653; of IPv4, the identification and what a NAT does not touch.  Addresses, ports and
checksums are not in the key of an IPv4 packet, since a NAT rewrites them.

Sources: RFC 791, 792, 768, 9293, 8200; RFC 5572 section 4.4.1.2 for signalling and data on one UDP port.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from lab.errors import RemoteProtocolError
from lab.ladder import words
from lab.tsp import PORT, classify, parse_header

_ICMP: Final = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_UNREACHABLE: Final = {
    0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
    4: "fragmentation needed", 9: "network prohibited", 10: "host prohibited", 13: "administratively prohibited",
}  # fmt: skip
_ICMPV6: Final = {1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply"}
_TCP_FLAGS: Final = ((2, "SYN"), (1, "FIN"), (4, "RST"), (16, "ACK"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """An IP packet in a frame; of a tunnelled one the outer header's fields, and the packet in it as `inner`."""

    key: tuple[object, ...]
    kind: str
    """signalling, data (IPv6 in a tunnel), tcp, icmp or ip."""
    protocol: str
    """UDP, TCP, protocol 41, ICMP, IPv6..."""
    src: str
    dst: str
    sport: int | None = None
    dport: int | None = None
    ttl: int = 0
    identification: int | None = None
    """Of IPv4."""
    size: int = 0
    """Bytes of the whole IP packet."""
    label: str = ""
    """What it says, in one line."""
    detail: str = ""
    """What it says, whole."""
    flow: tuple[object, ...] = ()
    """What is equal in a packet that was sent again; empty where that cannot be told."""
    bare_ack: bool = False
    """A TCP segment that only acknowledges."""
    inner: Packet | None = None

    @property
    def source(self) -> str:
        return _end(self.src, self.sport)

    @property
    def destination(self) -> str:
        return _end(self.dst, self.dport)


_Maker = Callable[..., Packet]
"""Makes a packet of kind, protocol, key, label and more, with the fields of its IPv4 header filled in."""


def _end(address: str, port: int | None) -> str:
    return address if port is None else f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def parse_frame(frame: bytes) -> Packet | None:
    """The packet in an Ethernet frame; None for what is not IP, is broken off or belongs to one link only (ARP, ND)."""
    try:
        if frame[12:14] == b"\x08\x00":
            return _ipv4(frame[14:])
        if frame[12:14] == b"\x86\xdd":
            return _ipv6(frame[14:])
    except (struct.error, IndexError, ValueError):
        return None
    return None


def _ipv6(data: bytes) -> Packet | None:
    length, following, ttl = struct.unpack_from("!HBB", data, 4)
    data = data[: 40 + length]
    src, dst = IPv6Address(data[8:24]), IPv6Address(data[24:40])
    if src.is_link_local or dst.is_link_local or dst.is_multicast or src.is_unspecified:
        return None
    upper = data[40:]
    found = {"sport": None, "dport": None}
    flow: tuple[object, ...] = ()
    if following == 58:
        kind, protocol = "icmp", "ICMPv6"
        label = f"ICMPv6 {_ICMPV6.get(upper[0], f'type {upper[0]}')}"
        if upper[0] in (128, 129):
            label += f" {struct.unpack_from('!H', upper, 6)[0]}"
    elif following in (6, 17):
        kind, protocol = "ip", {6: "TCP", 17: "UDP"}[following]
        found["sport"], found["dport"] = struct.unpack_from("!HH", upper)
        label = f"{protocol} {found['sport']} to {found['dport']}"
        if following == 6:
            label, _, payload = _tcp(upper)
            flow = (src, dst, upper[:4], upper[4:8], upper[13], len(payload)) if payload or upper[13] & 7 else ()
    else:
        kind, protocol, label = "ip", "IPv6", f"IPv6, next header {following}"
    return Packet(
        key=(6, data[:7], data[8:]),
        kind=kind,
        protocol=protocol,
        src=str(src),
        dst=str(dst),
        sport=found["sport"],
        dport=found["dport"],
        ttl=ttl,
        size=len(data),
        label=label,
        flow=flow,
        bare_ack=following == 6 and upper[13] & 7 == 0 and not _tcp(upper)[2],
    )


def _tcp(segment: bytes) -> tuple[str, tuple[object, ...], bytes]:
    """Label, what a NAT leaves alone, and payload."""
    seq, ack, offset, flags = struct.unpack_from("!IIBB", segment, 4)
    payload = segment[(offset >> 4) * 4 :]
    names = [name for bit, name in _TCP_FLAGS if flags & bit]
    label = f"TCP {' '.join(names)}" + (f", {len(payload)} bytes" if payload else "")
    return label, (seq, ack, flags, payload), payload


def _ipv4(data: bytes) -> Packet | None:
    total, identification, fragment, ttl, protocol = struct.unpack_from("!HHHBB", data, 2)
    src, dst = str(IPv4Address(data[12:16])), str(IPv4Address(data[16:20]))
    upper = data[(data[0] & 15) * 4 : total]
    common = {"src": src, "dst": dst, "ttl": ttl, "identification": identification, "size": total}

    def packet(kind: str, name: str, key: tuple[object, ...], label: str, **more: object) -> Packet:
        return Packet(kind=kind, protocol=name, key=key, label=label, **common, **more)  # type: ignore[arg-type]

    if fragment & 0x1FFF:
        where = (fragment & 0x1FFF) * 8
        return packet("ip", "IPv4", (4, identification, protocol, where, upper), f"fragment from byte {where} on")
    if protocol == 41:
        return _carried(upper, packet, "protocol 41", {})
    if protocol == 17:
        sport, dport = struct.unpack_from("!HH", upper)
        payload, ports = upper[8:], {"sport": sport, "dport": dport}
        if PORT not in (sport, dport):
            key = (4, identification, 17, payload)
            return packet("ip", "UDP", key, f"UDP, {len(payload)} bytes", **ports)
        if classify(payload) == "data":
            return _carried(payload, packet, "UDP", ports)
        return _signalling(payload, packet, (4, identification, 17, payload), ports)
    if protocol == 6:
        sport, dport = struct.unpack_from("!HH", upper)
        label, same, payload = _tcp(upper)
        kind, detail = "tcp", ""
        if PORT in (sport, dport) and payload.strip(b"\0"):
            kind, label, detail = "signalling", words.in_one_line(payload), words.in_full(payload)
        more = {"sport": sport, "dport": dport, "detail": detail}
        if payload or upper[13] & 7:
            more["flow"] = (6, dport == PORT, same[0], upper[13] & 7, payload)
        more["bare_ack"] = not payload and not upper[13] & 7
        return packet(kind, "TCP", (4, identification, 6, *same), label, **more)
    if protocol == 1:
        return _icmp(upper, packet, identification)
    return packet("ip", f"protocol {protocol}", (4, identification, protocol, upper), f"IP protocol {protocol}")


def _carried(data: bytes, packet: _Maker, name: str, ports: dict[str, object]) -> Packet | None:
    inner = _ipv6(data)
    if inner is None:
        return None
    return packet("data", name, inner.key, inner.label, inner=inner, bare_ack=inner.bare_ack, flow=inner.flow, **ports)


def _signalling(payload: bytes, packet: _Maker, key: tuple[object, ...], ports: dict[str, object]) -> Packet:
    try:
        header, body = parse_header(payload)
    except RemoteProtocolError as exc:
        return packet("ip", "UDP", key, f"UDP 3653, no TSP: {exc}", **ports)
    detail = f"sequence {header.sequence}, timestamp {header.timestamp}\n{words.in_full(body)}"
    return packet(
        "signalling",
        "UDP",
        key,
        f"#{header.sequence} {words.in_one_line(body)}",
        detail=detail,
        flow=(17, ports["dport"] == PORT, header.sequence, body),
        **ports,
    )


def _icmp(upper: bytes, packet: _Maker, identification: int) -> Packet:
    kind, code = upper[0], upper[1]
    name = _UNREACHABLE.get(code, "unreachable") if kind == 3 else _ICMP.get(kind, f"type {kind}")
    if kind in (0, 8):  # the identifier is a NAT's to change
        key: tuple[object, ...] = (4, identification, 1, kind, upper[6:])
    else:
        key = (4, identification, 1, kind, code, upper[8 + 4 : 8 + 6], upper[8 + 9 : 8 + 10])
    return packet("icmp", "ICMP", key, f"ICMP {name}")
