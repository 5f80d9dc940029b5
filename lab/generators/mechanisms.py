"""One packet of every transition mechanism of RFC 7123, and of innocent traffic that a filter must not touch.

`MECHANISMS` maps a name to a `Mechanism`, whose `packet` gives a whole IP packet from `src` to `dst`: the packet that
such a client sends to a server, relay or peer at `dst`.  Inner addresses are what the mechanism would have made of
the outer ones, where it derives them (6to4, 6rd, ISATAP, 6over4, Teredo), and documentation addresses elsewhere.

Every packet carries a token of four bytes in a field that NATs leave alone (data, nonce, sequence number), so that
it is recognised where it arrives.  A TCP packet is a SYN that brings its data along, as RFC 9293 section 3.4 allows:
one packet then shows a new connection to a firewall with state and what it says to one that looks inside.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from lab.encap import PROTOCOL_41
from lab.generators import packets
from lab.generators.packets import TCP, UDP

TSP_PORT: Final = 3653
TEREDO_PORT: Final = 3544
AYIYA_PORT: Final = 5072

SIXRD_PREFIX: Final = IPv6Network("3fff:6d::/32")
"""The 6rd prefix of an imaginary ISP, from the documentation range of RFC 9637."""
RELAYS_6TO4: Final = IPv4Network("192.88.99.0/24")
"""Anycast addresses of 6to4 relays (RFC 3068)."""
SITE_6OVER4: Final = IPv4Network("239.0.0.0/8")
"""Where 6over4 maps IPv6 multicast to (RFC 2529 section 6, RFC 7123 section 3.2)."""

SERVER: Final = IPv6Address("2001:db8:ffff::1")
"""A host in the native IPv6 Internet: the inner destination where a mechanism leads there."""

Make = Callable[[IPv4Address, IPv4Address, bytes, int, int], bytes]
Make6 = Callable[[IPv6Address, IPv6Address, bytes, int, int], bytes]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A kind of traffic."""

    name: str
    title: str
    section: str
    """Section of RFC 7123 that says how to filter it; empty for innocent traffic."""
    protocol: int
    """Protocol number in the IPv4 header; of native IPv6, the next header."""
    port: int | None
    """Usual destination port; None where there is none."""
    make: Make | Make6
    """Source, destination, token, source port and destination port to a packet."""
    version: int = 4
    """IP version of what goes over the wire."""

    @property
    def transition(self) -> bool:
        """Whether it carries or controls IPv6, as opposed to innocent traffic."""
        return bool(self.section)

    def packet(
        self,
        src: IPv4Address | IPv6Address,
        dst: IPv4Address | IPv6Address,
        token: bytes,
        *,
        source_port: int = 50_000,
        port: int | None = None,
    ) -> bytes:
        """A whole IP packet with `token` (4 bytes) in it; `port` in place of the usual destination port.

        Raises ValueError for addresses of the wrong IP version and for a token that is not 4 bytes.
        """
        if src.version != self.version or dst.version != self.version:
            raise ValueError(f"{self.name} goes from IPv{self.version} to IPv{self.version}, not from {src} to {dst}")
        if len(token) != 4:
            raise ValueError("a token is 4 bytes")
        return self.make(src, dst, token, source_port, port or self.port or 0)  # type: ignore[arg-type]


# --- addresses that mechanisms derive --------------------------------------------------------------------------


def address_6to4(address: IPv4Address) -> IPv6Address:
    """The first address in the 6to4 prefix of an IPv4 address (RFC 3056 section 2)."""
    return IPv6Address((0x2002 << 112) | (int(address) << 80) | 1)


def address_6rd(address: IPv4Address, prefix: IPv6Network = SIXRD_PREFIX) -> IPv6Address:
    """The first address in the 6rd prefix of an IPv4 address (RFC 5969 section 4), all 32 bits of it embedded."""
    return IPv6Address(int(prefix.network_address) | (int(address) << (96 - prefix.prefixlen)) | 1)


def address_isatap(address: IPv4Address, prefix: IPv6Network) -> IPv6Address:
    """The ISATAP address in a /64: identifier 0000:5efe or 0200:5efe, then the address (RFC 5214 section 6.1)."""
    private = any(address in IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
    return IPv6Address(int(prefix.network_address) | ((0x0000_5EFE if private else 0x0200_5EFE) << 32) | int(address))


def address_6over4(address: IPv4Address, prefix: IPv6Network) -> IPv6Address:
    """The 6over4 address in a /64: the IPv4 address is the interface identifier (RFC 2529 section 4)."""
    return IPv6Address(int(prefix.network_address) | int(address))


def address_teredo(server: IPv4Address, address: IPv4Address, port: int) -> IPv6Address:
    """The Teredo address of a client that a server sees at `address` and `port` (RFC 4380 section 4)."""
    return IPv6Address(
        (0x2001_0000 << 96) | (int(server) << 64) | ((port ^ 0xFFFF) << 32) | (int(address) ^ 0xFFFF_FFFF)
    )


_ISATAP_SITE: Final = IPv6Network("2001:db8:5efe::/64")
_6OVER4_SITE: Final = IPv6Network("2001:db8:64::/64")
_LINK_LOCAL: Final = IPv6Network("fe80::/64")


# --- the mechanisms --------------------------------------------------------------------------------------------


def _native(src: IPv6Address, dst: IPv6Address, token: bytes, _sport: int, _dport: int) -> bytes:
    return packets.echo_request(src, dst, token)


def _in_ipv4(src: IPv4Address, dst: IPv4Address, inner: bytes) -> bytes:
    return packets.ipv4(src, dst, PROTOCOL_41, inner)


def _6in4(src: IPv4Address, dst: IPv4Address, token: bytes, _sport: int, _dport: int) -> bytes:
    return _in_ipv4(src, dst, packets.echo_request(IPv6Address("2001:db8:f000::2"), SERVER, token))


def _6over4(src: IPv4Address, dst: IPv4Address, token: bytes, _sport: int, _dport: int) -> bytes:
    """To a neighbour, or, when `dst` is multicast, the solicitation that asks for one (RFC 2529 sections 5 and 6)."""
    if dst in SITE_6OVER4:
        # Source link-layer address: type, length in 8 octets, two zero octets, IPv4; the rest of the unit is unused.
        target = address_6over4(IPv4Address(int.from_bytes(token, "big")), _LINK_LOCAL)
        source = address_6over4(src, _LINK_LOCAL)
        return _in_ipv4(src, dst, packets.neighbor_solicitation(source, target, b"\1\1\0\0" + src.packed))
    site = _6OVER4_SITE
    return _in_ipv4(src, dst, packets.echo_request(address_6over4(src, site), address_6over4(dst, site), token))


def _6rd(src: IPv4Address, dst: IPv4Address, token: bytes, _sport: int, _dport: int) -> bytes:
    return _in_ipv4(src, dst, packets.echo_request(address_6rd(src), SERVER, token))


def _6to4(src: IPv4Address, dst: IPv4Address, token: bytes, _sport: int, _dport: int) -> bytes:
    """To the native Internet through an anycast relay, else to the 6to4 site at `dst`."""
    inner_dst = SERVER if dst in RELAYS_6TO4 else address_6to4(dst)
    return _in_ipv4(src, dst, packets.echo_request(address_6to4(src), inner_dst, token))


def _isatap(src: IPv4Address, dst: IPv4Address, token: bytes, _sport: int, _dport: int) -> bytes:
    site = _ISATAP_SITE
    return _in_ipv4(src, dst, packets.echo_request(address_isatap(src, site), address_isatap(dst, site), token))


def _teredo(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """The connectivity test through the server at `dst` (RFC 4380 section 5.2.9)."""
    return packets.udp(src, dst, sport, dport, packets.echo_request(address_teredo(dst, src, sport), SERVER, token))


def _teredo_peer(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """Straight to another client, past the server."""
    server = IPv4Address("192.0.2.254")
    inner = packets.echo_request(address_teredo(server, src, sport), address_teredo(server, dst, dport), token)
    return packets.udp(src, dst, sport, dport, inner)


def _tsp_udp(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    return packets.udp(src, dst, sport, dport, b"\xf0\0\0\xf0" + token + b"VERSION=2.0.0\r\n")


def _tsp_tcp(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    return _syn(src, dst, token, sport, dport, b"VERSION=2.0.0\r\n")


def _tsp_data(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    inner = packets.echo_request(IPv6Address("2001:db8:f000::3"), SERVER, token)
    return packets.udp(src, dst, sport, dport, inner)


def ayiya(identity: IPv6Address, secret: bytes, epoch_s: int, inner: bytes) -> bytes:
    """An AYIYA packet: forward, signed with SHA-1 and a shared secret (draft-massar-v6ops-ayiya-02 section 4)."""
    # Identity of 2**4 bytes, an integer; signature of 5 * 4 bytes, SHA-1; shared secret, forward; IPv6 follows.
    start = bytes((0x41, 0x52, 0x11, PROTOCOL_41)) + struct.pack("!I", epoch_s) + identity.packed
    unsigned = start + hashlib.sha1(secret).digest() + inner
    return start + hashlib.sha1(unsigned).digest() + inner


def _ayiya_payload(token: bytes) -> bytes:
    client = IPv6Address("2001:db8:a414::2")
    return ayiya(client, b"secret", 1_767_225_600, packets.echo_request(client, SERVER, token))


def _ayiya_udp(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    return packets.udp(src, dst, sport, dport, _ayiya_payload(token))


def _ayiya_tcp(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    return _syn(src, dst, token, sport, dport, _ayiya_payload(token))


# --- innocents -------------------------------------------------------------------------------------------------


def _syn(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int, data: bytes) -> bytes:
    return packets.tcp(src, dst, sport, dport, data, sequence=int.from_bytes(token, "big"))


def _noise(token: bytes, length: int) -> bytes:
    """Bytes that look random, as everything encrypted does, and are the same for the same token."""
    return hashlib.shake_128(token).digest(length)


def _dns(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """A question for the AAAA records of a name that begins with the token (RFC 1035 section 4.1)."""
    question = b"\4" + token + b"\7example\3com\0" + struct.pack("!HH", 28, 1)
    return packets.udp(src, dst, sport, dport, struct.pack("!6H", 0x6001, 0x0100, 1, 0, 0, 0) + question)


def _ntp(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """A client's question, version 4, the token as its transmit timestamp (RFC 5905 section 7.3)."""
    return packets.udp(src, dst, sport, dport, b"\x23\0\6\xec" + bytes(36) + token + bytes(4))


def _stun(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """A binding request (RFC 8489 section 5)."""
    return packets.udp(src, dst, sport, dport, struct.pack("!HHI", 1, 0, 0x2112A442) + token + bytes(8))


def _quic(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """A version 1 Initial packet of 1200 bytes; what would be encrypted is noise (RFC 9000 section 17.2.2)."""
    start = b"\xc3\0\0\0\1\x08" + token + token[::-1] + b"\0\0"  # connection identifiers, no retry token
    rest = 1200 - len(start) - 2
    return packets.udp(src, dst, sport, dport, start + struct.pack("!H", 0x4000 | rest) + _noise(token, rest))


def _dtls(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """A record with a ClientHello, the token as the start of its random (RFC 6347 sections 4.1 and 4.2.2)."""
    hello = b"\xfe\xfd" + token + _noise(token, 28) + b"\0\0\0\2\xc0\x2b\1\0"
    handshake = b"\1" + len(hello).to_bytes(3, "big") + bytes(5) + len(hello).to_bytes(3, "big") + hello
    record = b"\x16\xfe\xff" + bytes(8) + len(handshake).to_bytes(2, "big") + handshake
    return packets.udp(src, dst, sport, dport, record)


def _rtp(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    """20 ms of G.711 voice, the token as its source identifier (RFC 3550 section 5.1)."""
    return packets.udp(src, dst, sport, dport, b"\x80\0\0\1\0\0\0\xa0" + token + _noise(token, 160))


def _http(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    return _syn(src, dst, token, sport, dport, b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")


def _https(src: IPv4Address, dst: IPv4Address, token: bytes, sport: int, dport: int) -> bytes:
    hello = b"\3\3" + token + _noise(token, 28) + b"\0\0\2\x13\1\1\0"
    handshake = b"\1" + len(hello).to_bytes(3, "big") + hello
    return _syn(src, dst, token, sport, dport, b"\x16\3\1" + len(handshake).to_bytes(2, "big") + handshake)


_ALL: Final = (
    Mechanism("native_ipv6", "native IPv6", "2", packets.ICMPV6, None, _native, version=6),
    Mechanism("6in4", "6in4, a configured tunnel", "3.1", PROTOCOL_41, None, _6in4),
    Mechanism("6over4", "6over4, IPv6 over IPv4 multicast", "3.2", PROTOCOL_41, None, _6over4),
    Mechanism("6rd", "6rd, an ISP's own 6to4", "3.3", PROTOCOL_41, None, _6rd),
    Mechanism("6to4", "6to4", "3.4", PROTOCOL_41, None, _6to4),
    Mechanism("isatap", "ISATAP", "3.5", PROTOCOL_41, None, _isatap),
    Mechanism("teredo", "Teredo, to a server", "3.6", UDP, TEREDO_PORT, _teredo),
    Mechanism("teredo_peer", "Teredo, to a peer", "3.6", UDP, 51_413, _teredo_peer),
    Mechanism("tsp_control_udp", "TSP control over UDP", "3.7", UDP, TSP_PORT, _tsp_udp),
    Mechanism("tsp_control_tcp", "TSP control over TCP", "3.7", TCP, TSP_PORT, _tsp_tcp),
    Mechanism("tsp_data", "TSP data in UDP (v6udpv4)", "3.7", UDP, TSP_PORT, _tsp_data),
    Mechanism("ayiya_udp", "AYIYA over UDP", "3.8", UDP, AYIYA_PORT, _ayiya_udp),
    Mechanism("ayiya_tcp", "AYIYA over TCP", "3.8", TCP, AYIYA_PORT, _ayiya_tcp),
    Mechanism("dns", "DNS", "", UDP, 53, _dns),
    Mechanism("ntp", "NTP", "", UDP, 123, _ntp),
    Mechanism("stun", "STUN", "", UDP, 3478, _stun),
    Mechanism("quic", "QUIC", "", UDP, 443, _quic),
    Mechanism("dtls", "DTLS", "", UDP, 4433, _dtls),
    Mechanism("rtp", "RTP", "", UDP, 5004, _rtp),
    Mechanism("http", "HTTP", "", TCP, 80, _http),
    Mechanism("https", "HTTPS", "", TCP, 443, _https),
)

MECHANISMS: Final[dict[str, Mechanism]] = {mechanism.name: mechanism for mechanism in _ALL}
"""Every kind of traffic by name: transition mechanisms in the order of RFC 7123, then innocents."""
