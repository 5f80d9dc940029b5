"""The filter that RFC 7123 gives for a mechanism, and whether it stops the packets that were seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

TSP_PORT: Final = 3653
TEREDO_PORT: Final = 3544
AYIYA_PORT: Final = 5072


@dataclass(frozen=True, slots=True)
class Filter:
    """A rule, where RFC 7123 has it, and what it does here."""

    section: str
    """Section of RFC 7123."""
    rule: str
    """What to drop, in words."""
    nft: str
    """The same as an nftables match for a forward chain (for EtherType: of a bridge or netdev table)."""
    stops: bool = True
    """Whether it would have stopped these packets."""
    instead: str = ""
    """Where it would not: what would."""

    def to_json(self) -> dict[str, Any]:
        """The filter as a JSON object."""
        return {
            "rfc": 7123,
            "section": self.section,
            "rule": self.rule,
            "nft": self.nft,
            "stops": self.stops,
            "instead": self.instead,
        }


NATIVE: Final = Filter("2", "EtherType 0x86DD, in layer 2", "ether type ip6")
SIX_IN_FOUR: Final = Filter("3.1", "IP protocol 41", "ip protocol 41")
SIX_OVER_FOUR: Final = Filter("3.2", "IP protocol 41; only 6over4: with a destination in 239.0.0.0/8", "ip protocol 41")
SIX_RD: Final = Filter("3.3", "IP protocol 41", "ip protocol 41")
SIX_TO_FOUR: Final = Filter("3.4", "IP protocol 41; only 6to4: to or from 192.88.99.0/24", "ip protocol 41")
ISATAP: Final = Filter("3.5", "IP protocol 41", "ip protocol 41")
TSP_TUNNEL: Final = Filter("3.7", "IP protocol 41, the tunnel; TCP and UDP port 3653, its set-up", "ip protocol 41")


def by_port(section: str, rule: str, carrier: str, port: int, ports: tuple[int, int], server: int) -> Filter:
    """A filter for `port`, judged by the ports of the packets; `server` is where they went."""
    nft = f"{carrier} dport {port}"
    if port in ports:
        return Filter(section, rule, nft)
    return Filter(
        section,
        rule,
        nft,
        stops=False,
        instead=f"they use {carrier.upper()} port {server}; a filter for that port or host would, or one that looks"
        " into the payload",
    )


def teredo(ports: tuple[int, int], server: int) -> Filter:
    """Section 3.6, for UDP packets between these ports."""
    found = by_port("3.6", "UDP to port 3544", "udp", TEREDO_PORT, ports, server)
    if found.stops:
        return found
    return Filter(
        found.section,
        found.rule,
        found.nft,
        stops=False,
        instead="between peers: payload inspection, UDP with IPv6 inside whose source (outgoing) or destination"
        " (incoming) is in 2001::/32",
    )


def tsp(carrier: str, ports: tuple[int, int], server: int) -> Filter:
    """Section 3.7, for control and data in UDP and control in TCP."""
    return by_port("3.7", f"{carrier.upper()} to port 3653", carrier, TSP_PORT, ports, server)


def ayiya(carrier: str, ports: tuple[int, int], server: int) -> Filter:
    """Section 3.8."""
    return by_port("3.8", "UDP or TCP to port 5072", carrier, AYIYA_PORT, ports, server)
