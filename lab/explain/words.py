"""Rules, answers and translations in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lab.encap import PROTOCOL_41
from lab.explain.nft_trace import Step
from lab.explain.probe import ICMP, ICMPV6, TCP, UDP, Address, Header, is_icmp_error
from lab.rules.firewall import POLICIES

NAT_RULES: Final = {
    "nat_mapping_kept": "this inside endpoint has a mapping",
    "nat_port_kept": "a new mapping, which keeps the port",
    "nat_port_changed": "a new mapping, with another port",
    "nat_one_to_one": "an address of its own outside",
    "nat_masquerade": "the outside address",
    "nat_hairpin": "from one inside host to another, by the outside address",
    "nat_inbound": "let in from outside by an existing mapping",
    "nat_proto41_host": "protocol 41 belongs to one inside host",
    "nat_unsolicited": "nobody inside asked for it",
    "nat_port_taken": "the port belongs to another inside host",
    "nat_no_block": "this inside host has no block of ports",
    "nat_other_protocol": "neither TCP, UDP nor ICMP",
}
"""What the named rules of `lab.rules.nat` mean for a packet."""

_UNREACHABLE: Final = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    13: "communication administratively prohibited",
}
_UNREACHABLE6: Final = {
    0: "no route",
    1: "administratively prohibited",
    3: "address unreachable",
    4: "port unreachable",
}


def say_rule(step: Step) -> str:
    """A rule that decided: its name and what that means, its text and its chain."""
    rule = f"rule '{step.rule}'" if step.rule else "the policy"
    where = f"{rule} of chain {step.chain.split()[-1]}"
    if not step.name:
        return where
    if step.name in NAT_RULES:
        return f"{step.name}, {NAT_RULES[step.name]} ({where})"
    policy = POLICIES.get(step.name)
    if policy is None:
        return f"{step.name} ({where})"
    section = f"; RFC 7123 section {policy.section}" if policy.section else ""
    return f"the policy {step.name}, which {policy.text} ({where}{section})"


def say_step(step: Step) -> str:
    """A step of the trace in one line: chain, name, rule, verdict."""
    name = f"{step.name}: " if step.name else ""
    return f"{step.chain}: {name}{step.rule or 'the policy of the chain'} -> {step.verdict}"


def accepted_by(steps: Sequence[Step]) -> str:
    """The name of the last named rule that let the packet through; empty when there is none."""
    return next((step.name for step in reversed(steps) if step.name and step.verdict == "accept"), "")


def translated_by(steps: Sequence[Step]) -> str:
    """The name of the rule that translated the packet; empty when that was decided by an earlier one of its flow."""
    words = ("snat", "dnat", "masquerade", "redirect")
    return next((step.name for step in reversed(steps) if any(word in step.rule for word in words)), "")


def say_changes(before: Header, after: Header) -> str:
    """What a translation changed."""
    ends = (
        ("source", (before.src, before.sport), (after.src, after.sport)),
        ("destination", (before.dst, before.dport), (after.dst, after.dport)),
    )
    return " and ".join(f"{name} {say_end(*old)} becomes {say_end(*new)}" for name, old, new in ends if old != new)


def say_end(address: Address, port: int | None) -> str:
    """An address, and a port where there is one."""
    return str(address) if port is None else f"{address}:{port}"


def say_carrier(header: Header) -> str:
    """What carries a packet through a tunnel."""
    return f"{'protocol 41' if header.protocol == PROTOCOL_41 else 'UDP'}, {header}"


def say_refusal(header: Header) -> tuple[str, str]:
    """Why a router refused a packet, from the ICMP error that it sent: what decided, and that in words."""
    assert header.icmp is not None
    kind, code = header.icmp
    six = header.protocol == ICMPV6
    if kind == (3 if six else 11):
        return "time to live", ": it had no hops left to live"
    if header.mtu is not None:
        return "MTU", f": it is too large for the next link, which takes {header.mtu} bytes, and must not be fragmented"
    if (kind, code) == ((1, 3) if six else (3, 1)):
        return "neighbour", ": nobody on the link there has its destination's address"
    return "routing", " by routing: there is no way to its destination"


def _six(header: Header) -> str:
    return "v6" if header.protocol == ICMPV6 else ""


def say_answer(header: Header) -> str:
    """An answer to a probe."""
    if header.icmp is not None and is_icmp_error(header):
        kind, code = header.icmp
        if header.mtu is not None:
            return f"ICMP{_six(header)} too big, {header.mtu} bytes would do (type {kind} code {code})"
        words = _UNREACHABLE if header.protocol == ICMP else _UNREACHABLE6
        unreachable = kind == (3 if header.protocol == ICMP else 1)
        text = words.get(code, "unreachable") if unreachable else "time exceeded" if kind in (3, 11) else "refused"
        return f"ICMP{_six(header)} {text} (type {kind} code {code})"
    if header.icmp is not None:
        return "an echo reply"
    if header.protocol == TCP:
        return "a TCP reset" if header.flags & 0x04 else "a TCP SYN-ACK: the port is open"
    return "a UDP datagram" if header.protocol == UDP else f"a packet of protocol {header.protocol}"
