"""Layers for scapy: TSP over UDP and TCP port 3653, and the IPv6 packets that share the UDP port (RFC 5572).

Importing this module is all it takes:

    import lab.dissect
    from scapy.utils import rdpcap
    for packet in rdpcap("laptop-eth0.pcap"):
        if lab.dissect.TSPMessage in packet:
            print(packet[lab.dissect.TSPMessage].words)

`TSP` is the header over UDP, `TSPMessage` what it carries; over TCP a `TSPMessage` follows TCP at once, and
`sniff(..., session=TCPSession)` cuts a stream into messages.  What a message means is asked of `lab.tsp`.
"""

from __future__ import annotations

from typing import Any

from scapy.fields import BitField, IntField, LEIntField, StrField
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Padding, Raw, bind_layers

from lab.errors import RemoteProtocolError
from lab.ladder import words
from lab.tsp import FIRST_SEQUENCE, HEADER_LENGTH, PORT, classify, parse_header
from lab.tsp.framing import MessageStream, parse_reply, unframe
from lab.tsp.lines import BLANKS, is_status
from lab.tsp.messages import TunnelMessage, parse_tunnel


class TSPMessage(Packet):
    """One message: a line, or a Content-length header and what it counts."""

    name = "TSP message"
    fields_desc = [StrField("text", b"")]  # noqa: RUF012 - so scapy wants it

    @property
    def words(self) -> str:
        """What it says in one line, credentials masked."""
        return words.in_one_line(self.text)

    @property
    def status(self) -> int | None:
        """The code of a broker's answer; None when this is none."""
        try:
            content = unframe(self.text) if self.text.lstrip(BLANKS)[:1] in b"Cc" else self.text
            return parse_reply(content).code if is_status(content) else None
        except RemoteProtocolError:
            return None

    @property
    def tunnel(self) -> TunnelMessage | None:
        """The tunnel element in it; None when there is none that can be read."""
        start = self.text.find(b"<")
        try:
            return parse_tunnel(self.text[start:]) if start >= 0 else None
        except RemoteProtocolError:
            return None

    def mysummary(self) -> str:
        number = f"#{self.underlayer.sequence} " if isinstance(self.underlayer, _Header) else ""
        return f"TSP {number}{self.words}"

    @classmethod
    def tcp_reassemble(cls, data: bytes, metadata: dict[str, Any], session: dict[str, Any]) -> Packet | None:
        """The first whole message of a stream's bytes, for scapy's TCPSession; None while it is not all there."""
        stream = MessageStream(lists_follow=False)
        stream.feed(data, 0.0)
        try:
            message = stream.next()
        except RemoteProtocolError:
            message = data
        if message is None:
            return None
        rest = data[data.find(message) + len(message) :]
        # scapy takes padding back, as the start of what follows.
        return cls(message) / Padding(rest) if rest.strip(BLANKS) else cls(message)


class _Header(Packet):
    """What both orders of the header have in common."""

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        return TSPMessage

    def mysummary(self) -> str:
        return f"TSP #{self.sequence} {words.in_one_line(b'')}"


class TSP(_Header):
    """The eight bytes before a message over UDP (RFC 5572 section 4.4.1.2)."""

    name = "TSP"
    fields_desc = [BitField("marker", 0xF, 4), BitField("sequence", FIRST_SEQUENCE, 28), IntField("timestamp", 0)]  # noqa: RUF012 - so scapy wants it

    @classmethod
    def dispatch_hook(cls, _pkt: bytes | None = None, *args: Any, **kwargs: Any) -> type[Packet]:
        """TSP, or what else may be on its port: IPv6 packets, and anything."""
        if not _pkt:
            return TSP
        kind = classify(_pkt)
        if kind == "data":
            return IPv6
        if kind == "other" or len(_pkt) < HEADER_LENGTH:
            return Raw
        return TSPReversed if parse_header(_pkt)[0].reversed else TSP

    def answers(self, other: Packet) -> bool:
        """Whether this can be the answer to `other`: a broker sends the number back."""
        return isinstance(other, TSP) and bool(other.sequence == self.sequence)


class TSPReversed(_Header):
    """The header of old clients on little-endian machines: its first four bytes the other way round."""

    name = "TSP, little-endian"
    fields_desc = [LEIntField("word", 0xF0000000 + FIRST_SEQUENCE), IntField("timestamp", 0)]  # noqa: RUF012 - so scapy wants it

    @property
    def sequence(self) -> int:
        return int(self.word) & 0x0FFFFFFF


for _ends in ({"dport": PORT}, {"sport": PORT}):
    bind_layers(UDP, TSP, **_ends)
    bind_layers(TCP, TSPMessage, **_ends)
bind_layers(UDP, TSP, sport=PORT, dport=PORT)
bind_layers(TCP, TSPMessage, sport=PORT, dport=PORT)
