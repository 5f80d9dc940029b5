"""What firewalls are told to stop, as data: the filters of RFC 7123, and some that real networks have besides.

A `Filter` says which packets it means.  `lab.rules.firewall` makes two policies of each, `drop_NAME` and
`reject_NAME`, and nftables text of any combination.

RFC 7123 stops five mechanisms with one filter, IP protocol 41 (`proto41`), and all of TSP with three (`tsp`).  The
filters named after one mechanism look into the packet to stop that mechanism and no other.  Where RFC 7123 describes
such a look inside (6over4, 6to4, Teredo) it is followed; 6rd, ISATAP and the two halves of TSP are told apart by
the formats of their own RFCs (5969, 5214, 5572), and 6in4 is what then remains of protocol 41.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network
from typing import Final

TSP_PORT: Final = 3653
TEREDO_PORT: Final = 3544
AYIYA_PORT: Final = 5072

SIXRD_PREFIX: Final = IPv6Network("3fff:6d::/32")
"""The 6rd prefix of an imaginary ISP: 6rd looks like any other tunnel to who does not know the prefix."""


@dataclass(frozen=True, slots=True)
class Match:
    """Packets as nftables describes them; INSIDE stands for the inside interfaces."""

    text: str
    protocol: str = "any"
    """tcp, udp or 41 where all of them are of one protocol: it decides how they can be refused."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One thing to stop."""

    name: str
    title: str
    section: str
    """Of RFC 7123; empty for a filter that it does not have."""
    text: str
    """What is stopped, as the object of a sentence."""
    note: str
    """What else to know of it."""
    matches: tuple[Match, ...]
    exceptions: tuple[str, ...] = ()
    """What is let through before, as nftables text."""

    @property
    def is_last(self) -> bool:
        """Whether it stops whatever is left: nothing can come after it."""
        return self.matches == _EVERYTHING


OUTGOING: Final = "iifname INSIDE"
INCOMING: Final = "iifname != INSIDE"
_EVERYTHING: Final = (Match(""),)
_PROTOCOL_41: Final = Match("ip protocol 41", "41")

# Where the inner IPv6 header's fields are, in bits from the end of an IPv4 header: RFC 8200 section 3.
_SOURCE: Final = 64
_DESTINATION: Final = 192
_IDENTIFIER: Final = 64
"""From the begin of an address to its interface identifier."""
_UDP_HEADER: Final = 64


def _port(protocol: str, port: int, extra: str = "") -> tuple[Match, ...]:
    """What goes to a port and what comes from it: no state is kept, so a session that is up stops as well."""
    return tuple(Match(f"{protocol} {end} {port}{extra}", protocol) for end in ("dport", "sport"))


def _raw(start: int, bits: int, condition: str) -> str:
    return f"@th,{start},{bits} {condition}"


def _both_ways(*conditions: tuple[int, int, str], other: str = "") -> tuple[Match, ...]:
    """Protocol 41 whose inner source, on the way out, or destination, on the way in, meets the conditions."""
    return tuple(
        Match(
            " ".join(
                (side, f"ip protocol 41{other}", *(_raw(base + at, bits, value) for at, bits, value in conditions))
            ),
            "41",
        )
        for side, base in ((OUTGOING, _SOURCE), (INCOMING, _DESTINATION))
    )


_6TO4: Final = (0, 16, "0x2002")
_6RD: Final = (0, SIXRD_PREFIX.prefixlen, f"{int(SIXRD_PREFIX.network_address) >> (128 - SIXRD_PREFIX.prefixlen):#x}")
_ISATAP: Final = (_IDENTIFIER, 32, "{ 0x00005efe, 0x02005efe }")


def _not(condition: tuple[int, int, str]) -> tuple[int, int, str]:
    at, bits, value = condition
    return at, bits, f"!= {value}"


_TEREDO_INSIDE: Final = tuple(
    Match(
        f"{side} udp length >= 48 {_raw(_UDP_HEADER, 4, '6')} {_raw(_UDP_HEADER + base, 32, '0x20010000')}",
        "udp",
    )
    for side, base in ((OUTGOING, _SOURCE), (INCOMING, _DESTINATION))
)
"""Version 6 and an address of 2001::/32 where an inner header would have them."""

_ANSWERS: Final = "ct direction reply ct state established,related counter accept"
"""Not the whole of a flow: what goes out has to be on the list itself, also where an earlier policy let it out."""

_ALL: Final = (
    Filter(
        "native_ipv6", "native IPv6", "2", "native IPv6",
        "Wherever it is routed; on one link it takes a switch that looks at the EtherType 0x86DD.",
        (Match("meta nfproto ipv6", "ipv6"),),
    ),
    Filter(
        "proto41", "protocol 41", "3", "IPv6 inside IPv4 (protocol 41)",
        "The one filter for 6in4, 6over4, 6rd, 6to4 and ISATAP (sections 3.1 to 3.5), and for a TSP tunnel of type "
        "v6v4; v6udpv4 and Teredo have none.",
        (_PROTOCOL_41,),
    ),
    Filter(
        "6in4", "6in4", "3.1", "configured tunnels in protocol 41",
        "What is left of protocol 41 without the addresses of 6over4, 6rd, 6to4 and ISATAP.",
        _both_ways(_not(_6TO4), _not(_6RD), _not(_ISATAP), other=" ip daddr != 239.0.0.0/8"),
    ),
    Filter(
        "6over4", "6over4", "3.2", "6over4's multicast",
        "Protocol 41 to 239.0.0.0/8: without it 6over4 hosts do not find each other.",
        (Match("ip protocol 41 ip daddr 239.0.0.0/8", "41"),),
    ),
    Filter(
        "6rd", "6rd", "3.3", f"6rd of the prefix {SIXRD_PREFIX}",
        "Protocol 41 with an inner address of the ISP's own prefix, which one has to know.",
        _both_ways(_6RD),
    ),
    Filter(
        "6to4", "6to4", "3.4", "6to4",
        "Protocol 41 with an inner source of 2002::/16 on the way out, or destination on the way in.",
        _both_ways(_6TO4),
    ),
    Filter(
        "isatap", "ISATAP", "3.5", "ISATAP",
        "Protocol 41 with an inner interface identifier 0:5efe or 200:5efe and the IPv4 address.",
        _both_ways(_ISATAP),
    ),
    Filter(
        "teredo", "Teredo servers", "3.6", f"UDP port {TEREDO_PORT}",
        "The port of Teredo servers; a server on another port, and a peer, escape it.",
        _port("udp", TEREDO_PORT),
    ),
    Filter(
        "teredo_any_port", "Teredo", "3.6", "Teredo on any port",
        "UDP that holds IPv6 with an address of 2001::/32; misses packets with Teredo's own headers in front.",
        _TEREDO_INSIDE,
    ),
    Filter(
        "tsp", "TSP", "3.7", "tunnel brokers with TSP",
        f"All three filters: UDP port {TSP_PORT}, TCP port {TSP_PORT} and protocol 41.",
        (*_port("udp", TSP_PORT), *_port("tcp", TSP_PORT), _PROTOCOL_41),
    ),
    Filter(
        "tsp_control", "TSP control", "3.7", "TSP set-ups over UDP and TCP",
        f"TCP port {TSP_PORT}, and UDP port {TSP_PORT} where the payload begins with 0xF; tunnels that are up go on.",
        (*_port("udp", TSP_PORT, " @th,64,4 0xf"), *_port("tcp", TSP_PORT)),
    ),
    Filter(
        "tsp_data", "TSP data", "3.7", "IPv6 in UDP of TSP tunnels (v6udpv4)",
        f"UDP port {TSP_PORT} where the payload begins with 6; set-ups succeed and the tunnels carry nothing.",
        _port("udp", TSP_PORT, " @th,64,4 6"),
    ),
    Filter(
        "udp_3653", "UDP 3653", "3.7", f"UDP port {TSP_PORT}",
        "Control and data of v6udpv4; set-ups over TCP and v6v4 tunnels go on.",
        _port("udp", TSP_PORT),
    ),
    Filter(
        "tcp_3653", "TCP 3653", "3.7", f"TCP port {TSP_PORT}",
        "Set-ups over TCP; those over UDP go on.",
        _port("tcp", TSP_PORT),
    ),
    Filter(
        "3653", "port 3653", "3.7", f"UDP and TCP port {TSP_PORT}",
        "Every set-up, and v6udpv4; a v6v4 tunnel that is up goes on.",
        (*_port("udp", TSP_PORT), *_port("tcp", TSP_PORT)),
    ),
    Filter(
        "ayiya", "AYIYA", "3.8", f"UDP and TCP port {AYIYA_PORT}",
        "Anything In Anything, by its port.",
        (*_port("udp", AYIYA_PORT), *_port("tcp", AYIYA_PORT)),
    ),
    Filter(
        "udp", "UDP", "", "all of UDP",
        "Name service included; what needs an answer has to come over TCP.",
        (Match("meta l4proto udp", "udp"),),
    ),
    Filter(
        "but_80_443", "all but 80 and 443", "", "everything but TCP to ports 80 and 443 from inside",
        "The guest network: web pages and nothing else, not even name service.",
        _EVERYTHING,
        (_ANSWERS, f"{OUTGOING} tcp dport {{ 80, 443 }} counter accept"),
    ),
    Filter(
        "by_default", "default deny", "3", "everything that is not on its list",
        "What RFC 7123 prefers to any list of mechanisms.  From inside it lets DNS, NTP, web pages, QUIC and ping out.",
        _EVERYTHING,
        (
            _ANSWERS,
            f"{OUTGOING} tcp dport {{ 53, 80, 443 }} counter accept",
            f"{OUTGOING} udp dport {{ 53, 123, 443 }} counter accept",
            f"{OUTGOING} icmp type echo-request counter accept",
            f"{OUTGOING} icmpv6 type echo-request counter accept",
        ),
    ),
    Filter("all", "everything", "", "everything", "No exception.", _EVERYTHING),
)  # fmt: skip

FILTERS: Final[dict[str, Filter]] = {filter_.name: filter_ for filter_ in _ALL}
"""Every filter by name: RFC 7123's in its order, then the others."""
