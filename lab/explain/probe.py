"""A packet that is recognised wherever it turns up, whatever NATs made of its addresses and ports.

It carries four bytes, the token, where NATs leave them alone: in its data, or as a TCP sequence number.  They are
found again in an ICMP error that quotes it, in an echo reply, in a tunnel that carries it, and in what acknowledges a
SYN.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Self

from lab.encap import PROTOCOL_41
from lab.explain.reshape import resized, with_ttl
from lab.generators import packets
from lab.generators.mechanisms import MECHANISMS, Mechanism

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
_IPV6_HEADER: Final = 40
_UDP_HEADER: Final = 8
_SYN: Final = 0x02
_RST: Final = 0x04
_ACK: Final = 0x10

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Header:
    """What the outermost headers of an IP packet say."""

    src: Address
    dst: Address
    protocol: int
    sport: int | None = None
    dport: int | None = None
    icmp: tuple[int, int] | None = None
    """Type and code of an ICMP or ICMPv6 message."""
    flags: int = 0
    """Of TCP."""
    acknowledgement: int = 0
    mtu: int | None = None
    """Of an ICMP error about a packet that is too large: how large it may be."""

    def __str__(self) -> str:
        return f"{_end(self.src, self.sport)} > {_end(self.dst, self.dport)}"

    def reversed(self) -> tuple[Address, Address, int, int | None, int | None]:
        """The addresses, protocol and ports that an answer has on the same link."""
        return self.dst, self.src, self.protocol, self.dport, self.sport

    @property
    def ends(self) -> tuple[Address, Address, int, int | None, int | None]:
        """Source, destination, protocol and ports."""
        return self.src, self.dst, self.protocol, self.sport, self.dport


def _end(address: Address, port: int | None) -> str:
    if port is None:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def parse_header(packet: bytes) -> Header | None:
    """The headers of an IPv4 or IPv6 packet; None when it is damaged, too short, or a later fragment."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        if struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
            return None
        src: Address = IPv4Address(packet[12:16])
        dst: Address = IPv4Address(packet[16:20])
        protocol = packet[9]
    elif len(packet) >= _IPV6_HEADER and packet[0] >> 4 == 6:
        start, protocol = _IPV6_HEADER, packet[6]
        src, dst = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    else:
        return None
    rest = packet[start:]
    if protocol in (TCP, UDP) and len(rest) >= 8:
        sport, dport = struct.unpack_from("!HH", rest)
        if protocol == TCP and len(rest) >= 20:
            return Header(src, dst, TCP, sport, dport, None, rest[13], int.from_bytes(rest[8:12], "big"))
        return Header(src, dst, protocol, sport, dport)
    if protocol in (ICMP, ICMPV6) and len(rest) >= 8:
        icmp = (rest[0], rest[1])
        mtu = None
        if protocol == ICMP and icmp == (3, 4):  # RFC 1191 section 4
            mtu = struct.unpack_from("!H", rest, 6)[0]
        elif protocol == ICMPV6 and icmp[0] == 2:  # RFC 4443 section 3.2
            mtu = struct.unpack_from("!I", rest, 4)[0]
        return Header(src, dst, protocol, icmp=icmp, mtu=mtu)
    return Header(src, dst, protocol)


def is_icmp_error(header: Header) -> bool:
    """Whether it is an ICMP message that quotes another packet."""
    if header.icmp is None:
        return False
    return header.icmp[0] in (3, 4, 5, 11, 12) if header.protocol == ICMP else header.icmp[0] < 128


def is_refusal(header: Header) -> bool:
    """Whether it is an ICMP error of a router on the way, and none that the destination itself sends.

    Of a destination are: no such port, no such protocol, a header that cannot be understood.
    """
    if not is_icmp_error(header):
        return False
    kind, code = header.icmp or (0, 0)
    if header.protocol == ICMP:
        return kind != 12 and (kind, code) not in ((3, 2), (3, 3))
    return kind != 4 and (kind, code) != (1, 4)


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet from a node to another."""

    sender: str
    receiver: str
    what: str
    """What it is, in words: "UDP port 3653"."""
    token: bytes
    packet: bytes

    @property
    def header(self) -> Header:
        """Its headers as it is sent."""
        found = parse_header(self.packet)
        assert found is not None
        return found

    def is_in(self, packet: bytes) -> Header | None:
        """The outermost headers of `packet` when it is this probe, translated or tunnelled maybe; else None."""
        header = parse_header(packet)
        if header is None or self.token not in packet or is_icmp_error(header):
            return None
        if header.protocol == TCP and header.flags & _ACK:
            return None
        if header.icmp is not None and header.icmp[0] in (0, 129):  # an echo reply has the same data
            return None
        return header

    def is_answered_by(self, packet: bytes, seen: Sequence[Header] = ()) -> Header | None:
        """The headers of `packet` when it answers this probe, which passed that link before as `seen`; else None."""
        header = parse_header(packet)
        if header is None:
            return None
        back = [before.reversed() for before in seen]
        if header.icmp is not None:
            echo_reply = header.icmp[0] in (0, 129)
            return header if self.token in packet and (is_icmp_error(header) or echo_reply) else None
        if header.protocol == TCP:
            # RFC 9293: what answers a SYN acknowledges its sequence number and the data it brought along.
            sequence = int.from_bytes(self.token, "big")
            near = 1 <= (header.acknowledgement - sequence) % 2**32 <= 2000
            if not (near and header.flags & (_RST | _SYN) and header.flags & _ACK):
                return None
            return header if not seen or header.ends in back else None
        return header if header.ends in back else None

    def nft_matches(self) -> list[str]:
        """The probe as nftables finds it, and as it is found inside the two kinds of TSP tunnel."""
        header = self.header
        start = _IPV6_HEADER if header.src.version == 6 else (self.packet[0] & 15) * 4
        at = self.packet.index(self.token, start) - start
        protocol = f"meta l4proto {header.protocol}"
        found = [f"{protocol} {self._raw(at)}"]
        if header.src.version == 6:
            found.append(f"meta l4proto {PROTOCOL_41} {self._raw(_IPV6_HEADER + at)}")
            found.append(f"meta l4proto udp {self._raw(_UDP_HEADER + _IPV6_HEADER + at)}")
        return found

    def _raw(self, at: int) -> str:
        return f"@th,{at * 8},32 0x{self.token.hex()}"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "sender": self.sender,
            "receiver": self.receiver,
            "what": self.what,
            "token": self.token.hex(),
            "packet": self.packet.hex(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**{**value, "token": bytes.fromhex(value["token"]), "packet": bytes.fromhex(value["packet"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What kind of packet to send: exactly one of these."""

    udp: int | None = None
    """A destination port."""
    tcp: int | None = None
    proto: int | None = None
    """An IP protocol number; 41 is an IPv6 packet inside IPv4."""
    icmp: bool = False
    """An echo request."""
    mechanism: str | None = None
    """A packet of `lab.generators.mechanisms.MECHANISMS`."""
    size: int | None = None
    """Of the packet in bytes, with its IP header; it must not be fragmented then."""
    ttl: int | None = None
    """How many hops it has to live."""

    def __post_init__(self) -> None:
        given = [self.udp is not None, self.tcp is not None, self.proto is not None, self.icmp, bool(self.mechanism)]
        if sum(given) != 1:
            raise ValueError("say which packet: exactly one of udp, tcp, proto, icmp and mechanism")
        for port in (self.udp, self.tcp):
            if port is not None and not 0 < port < 65536:
                raise ValueError(f"a port is 1 to 65535, not {port}")
        if self.proto is not None and not 0 <= self.proto < 256:
            raise ValueError(f"a protocol number is 0 to 255, not {self.proto}")
        if self.mechanism is not None and self.mechanism not in MECHANISMS:
            raise ValueError(f"there is no mechanism {self.mechanism!r}; choose from {', '.join(MECHANISMS)}")
        if self.ttl is not None and not 1 <= self.ttl <= 255:
            raise ValueError(f"a time to live is 1 to 255, not {self.ttl}")

    @property
    def version(self) -> int | None:
        """The IP version it has to be sent with; None: either."""
        if self.mechanism is not None:
            return MECHANISMS[self.mechanism].version
        return 4 if self.proto == PROTOCOL_41 else None


def make_probe(
    kind: Kind, sender: str, receiver: str, src: Address, dst: Address, token: bytes, *, source_port: int = 40_000
) -> Probe:
    """A probe of this kind.  Where the port is that of a known mechanism or service, it is a packet of that.

    ValueError when it cannot have the size that is wanted.
    """
    mechanism = _mechanism(kind, src.version)
    what = _title(kind)
    if mechanism is not None:
        packet = mechanism.packet(src, dst, token, source_port=source_port)
        what = mechanism.title if kind.mechanism else what
    else:
        packet = _plain(kind, src, dst, token + b"what becomes of this packet?", source_port)
    if kind.size is not None:
        packet, what = resized(packet, kind.size), f"{what}, {kind.size} bytes"
    if kind.ttl is not None:
        packet, what = with_ttl(packet, kind.ttl), f"{what}, time to live {kind.ttl}"
    return Probe(sender, receiver, what, token, packet)


def _mechanism(kind: Kind, version: int) -> Mechanism | None:
    if kind.mechanism is not None:
        return MECHANISMS[kind.mechanism]
    if kind.proto == PROTOCOL_41:
        return MECHANISMS["6in4"]
    for protocol, port in ((UDP, kind.udp), (TCP, kind.tcp)):
        for mechanism in MECHANISMS.values():
            if port is not None and (mechanism.version, mechanism.protocol, mechanism.port) == (
                version,
                protocol,
                port,
            ):
                return mechanism
    return None


def _title(kind: Kind) -> str:
    if kind.udp is not None:
        return f"UDP port {kind.udp}"
    if kind.tcp is not None:
        return f"TCP port {kind.tcp}"
    return "an echo request" if kind.icmp else f"protocol {kind.proto}"


def _plain(kind: Kind, src: Any, dst: Any, data: bytes, source_port: int) -> bytes:
    """`src` and `dst` are addresses of one version."""
    if kind.udp is not None:
        return packets.udp(src, dst, source_port, kind.udp, data)
    if kind.tcp is not None:
        sequence = int.from_bytes(data[:4], "big")
        return packets.tcp(src, dst, source_port, kind.tcp, sequence=sequence)
    if kind.proto is not None:
        return packets.ip(src, dst, kind.proto, data)
    if isinstance(src, IPv6Address) and isinstance(dst, IPv6Address):
        return packets.echo_request(src, dst, data, identifier=source_port)
    body = struct.pack("!HH", source_port, 1) + data
    start = b"\x08\x00"  # echo request (RFC 792)
    checksum = packets.internet_checksum(start + b"\0\0" + body)
    return packets.ip(src, dst, ICMP, start + checksum.to_bytes(2, "big") + body)
