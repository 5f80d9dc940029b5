"""Firewall policies as the text of one nftables ruleset.

A policy looks at what it blocks in both directions and keeps no state: a datagram to port 3653 and the answer
from it are both the broker's protocol (RFC 5572 section 4.2 gives it the port for UDP and TCP), and a session
that was set up before the policy changed stops with it.  It does not matter which side is inside.

`drop` says nothing, so the client finds out by waiting.  `reject` says so: ICMP "communication administratively
prohibited" (RFC 1812 section 5.2.7.1), or a TCP reset for TCP.

Protocol 41 is the exception: Linux stays silent whatever the rule says.  Before it answers for a packet it checks the
sum over the payload, unless it knows that the protocol has none; the list of those (nf_reject_verify_csum: AH, ESP,
SCTP, UDP-Lite, DCCP, GRE) lacks IPv6 inside IPv4, so nearly every such packet counts as damaged.  The packet is
stopped and counted all the same.  Measured on 6.18.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_TSP: Final = 3653
_PROHIBITED: Final = "reject with icmpx type admin-prohibited"
_RESET: Final = "reject with tcp reset"


@dataclass(frozen=True, slots=True)
class Policy:
    """A named policy: what it means, and the matches with their verdicts, in order."""

    text: str
    rules: tuple[str, ...]


def _port(protocol: str, verdict: str) -> tuple[str, ...]:
    return (
        f"{protocol} dport {_TSP} counter {verdict}",
        f"{protocol} sport {_TSP} counter {verdict}",
    )


POLICIES: Final[dict[str, Policy]] = {
    "allow": Policy("lets everything through", ("counter accept",)),
    "drop_udp_3653": Policy("drops UDP port 3653 silently", _port("udp", "drop")),
    "reject_udp_3653": Policy("refuses UDP port 3653 with an ICMP error", _port("udp", _PROHIBITED)),
    "drop_tcp_3653": Policy("drops TCP port 3653 silently", _port("tcp", "drop")),
    "reject_tcp_3653": Policy("refuses TCP port 3653 with a reset", _port("tcp", _RESET)),
    "drop_3653": Policy("drops UDP and TCP port 3653 silently", (*_port("udp", "drop"), *_port("tcp", "drop"))),
    "reject_3653": Policy(
        "refuses UDP port 3653 with an ICMP error and TCP port 3653 with a reset",
        (*_port("udp", _PROHIBITED), *_port("tcp", _RESET)),
    ),
    "drop_proto41": Policy("drops IPv6 inside IPv4 (protocol 41) silently", ("ip protocol 41 counter drop",)),
    "reject_proto41": Policy(
        "refuses IPv6 inside IPv4 (protocol 41); Linux sends no ICMP error for it",
        (f"ip protocol 41 counter {_PROHIBITED}",),
    ),
    "drop_all": Policy("drops everything silently", ("counter drop",)),
    "reject_all": Policy(
        "refuses everything, TCP with a reset and the rest with an ICMP error (but protocol 41 silently)",
        (f"meta l4proto tcp counter {_RESET}", f"counter {_PROHIBITED}"),
    ),
}
"""Every policy by name, for messages, documentation and `firewall_ruleset`."""


def firewall_ruleset(policy: str) -> str:
    """The whole ruleset of a firewall, as text for `nft -f`; loading another policy's replaces it in one step.

    Every rule carries the policy's name as a comment beside its counter; what no rule caught is counted as
    `allow`.  KeyError for an unknown policy.
    """
    rules = [f'{rule} comment "{policy}"' for rule in POLICIES[policy].rules]
    if policy != "allow" and not policy.endswith("_all"):
        rules.append('counter accept comment "allow"')
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"""\
flush ruleset
table inet firewall {{
	chain forward {{
		type filter hook forward priority filter; policy accept;
{body}\t}}
}}
"""
