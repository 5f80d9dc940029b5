"""Real kinds of NAT boxes by name: what they do to UDP, as documented for such boxes, each with its reason.

A preset is a dictionary of options of `NatBehaviour`, so `net.nat("nat", preset="carrier", ports="random")` is a
carrier's NAT with another choice of ports.  Boxes of one kind differ; these are typical ones, made to be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Preset:
    """A kind of box."""

    text: str
    """Which box this is."""
    options: Mapping[str, Any]
    reasons: Mapping[str, str]
    """Why each option is what it is, by option."""


PRESETS: Final[dict[str, Preset]] = {
    "home": Preset(
        "a home router of today: friendly to games and calls, closed to strangers",
        {
            "mapping": "EIM",
            "filtering": "APDF",
            "hairpinning": "external",
            "ports": "preserve",
            "udp_timeout_s": 30,
            "udp_stream_timeout_s": 120,
        },
        {
            "mapping": "RFC 4787 REQ-1",
            "filtering": "connection tracking, as nearly every Linux-based router has it; RFC 4787 REQ-8 allows it",
            "hairpinning": "RFC 4787 REQ-9 a",
            "ports": "RFC 4787 section 4.2.1 finds it common, and it is what Linux does",
            "udp_timeout_s": "Linux's default, shorter than the two minutes of RFC 4787 REQ-5",
            "udp_stream_timeout_s": "Linux's default, exactly the two minutes of REQ-5",
        },
    ),
    "old_home": Preset(
        "a home router of about 2003: a full cone that forgets quickly and knows neither hairpins nor 6in4",
        {
            "mapping": "EIM",
            "filtering": "EIF",
            "hairpinning": "none",
            "ports": "preserve",
            "udp_timeout_s": 60,
            "udp_stream_timeout_s": 60,
            "other_protocols": False,
        },
        {
            "mapping": "the full cone of RFC 3489 section 5",
            "filtering": "the full cone of RFC 3489 section 5",
            "hairpinning": "missing on many boxes when RFC 4787 section 6 was written",
            "udp_timeout_s": "a minute, below the two of RFC 4787 REQ-5",
            "udp_stream_timeout_s": "such boxes had one timer",
            "other_protocols": "translates what has ports, and ICMP; RFC 5572 section 4.5.2 exists because of it",
        },
    ),
    "corporate": Preset(
        "a company's firewall with address translation: another port for every peer",
        {
            "mapping": "APDM",
            "filtering": "APDF",
            "hairpinning": "none",
            "ports": "random",
            "pool": 2,
            "udp_timeout_s": 30,
            "udp_stream_timeout_s": 120,
        },
        {
            "mapping": "the symmetric NAT of RFC 3489 section 5, which RFC 4787 REQ-1 forbids",
            "filtering": "RFC 4787 REQ-8, where security matters most",
            "ports": "RFC 6056: a port that cannot be guessed",
            "pool": "several outside addresses, paired (RFC 4787 REQ-2)",
        },
    ),
    "carrier": Preset(
        "a carrier's NAT (CGN): a block of ports for each subscriber and no favours",
        {
            "mapping": "EIM",
            "filtering": "ADF",
            "hairpinning": "external",
            "ports": "block",
            "block_size": 1024,
            "udp_timeout_s": 120,
            "udp_stream_timeout_s": 300,
            "refresh": "outbound",
            "other_protocols": False,
        },
        {
            "mapping": "RFC 6888 REQ-1, which asks for RFC 4787",
            "filtering": "RFC 6888 REQ-7 leaves it to the carrier; RFC 4787 REQ-8 recommends it over APDF",
            "hairpinning": "RFC 6888 REQ-1 with RFC 4787 REQ-9: subscribers call each other",
            "ports": "RFC 7422: deterministic, so that nothing need be logged; limits of a subscriber: RFC 6888 REQ-4",
            "udp_timeout_s": "RFC 4787 REQ-5: not less than two minutes",
            "udp_stream_timeout_s": "RFC 4787 REQ-5: five minutes are recommended",
            "refresh": "RFC 4787 REQ-6; from outside, strangers could hold a subscriber's ports",
            "other_protocols": "one subscriber's 6in4 would lock out all others",
        },
    ),
    "cloud": Preset(
        "a cloud provider's: each machine has an outside address of its own, behind a stateful filter",
        {
            "mapping": "EIM",
            "filtering": "APDF",
            "hairpinning": "none",
            "ports": "preserve",
            "one_to_one": True,
            "udp_timeout_s": 30,
            "udp_stream_timeout_s": 120,
        },
        {
            "one_to_one": "Basic NAT (RFC 3022 section 4.1): addresses change, ports do not, 6in4 works for everybody",
            "filtering": "the provider's filter tracks connections and lets in nothing that was not asked for",
        },
    ),
    "hotel": Preset(
        "a hotel's or a hotspot's: plain Linux masquerade with many guests and short timeouts",
        {
            "mapping": "EIM",
            "filtering": "APDF",
            "hairpinning": "none",
            "ports": "overload",
            "udp_timeout_s": 15,
            "udp_stream_timeout_s": 30,
        },
        {
            "ports": "masquerade overloads ports, against RFC 4787 REQ-3: guests with the same source port meet",
            "udp_timeout_s": "many guests, little memory; far below the two minutes of RFC 4787 REQ-5",
            "udp_stream_timeout_s": "the same",
        },
    ),
}
"""Every preset by name."""
