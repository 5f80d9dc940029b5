"""Firewall policies as the text of one nftables ruleset.

A policy is `allow`, or one or more of `POLICIES` joined by "+": "drop_teredo+reject_tsp_control".  They are asked in
that order, those that stop everything else last, and each counts what it stops under its own name.

But for the two that keep a list of what is allowed, they keep no state and look at both directions: a datagram to
port 3653 and the answer from it are both the broker's protocol (RFC 5572 section 4.2 gives it the port for UDP and
TCP), and a session that was set up before the policy changed stops with it.

`drop` says nothing, so the client finds out by waiting.  `reject` says so: ICMP "communication administratively
prohibited" (RFC 1812 section 5.2.7.1), or a TCP reset for TCP.

Protocol 41 needs a detour to be answered.  Before nftables' own `reject` answers for a packet, Linux checks the sum
over the payload, unless it knows that the protocol has none; the list of those (nf_reject_verify_csum: AH, ESP, SCTP,
UDP-Lite, DCCP, GRE) lacks IPv6 inside IPv4, so nearly every such packet counts as damaged and is dropped silently.
Routing has no such doubt: the rule marks the packet before it is routed, and `ip rule add fwmark 41 prohibit`
(`lab.topology.plan.Prohibit`) refuses what is marked, with the same ICMP error.  Without that routing rule the
packet is dropped in the chain `forward`, counted as `not_answered`.  Routing and ICMP both take these errors from
one allowance of each host (RFC 1812 section 4.3.2.8): two go out at once, then one for each packet that comes at
least two seconds after the one before; a steady stream hears no more of it.  Measured on 6.18.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Final

from lab.rules.catalogue import FILTERS, Filter, Match

PROHIBITED_MARK: Final = 41
"""Packets with this mark are refused by routing."""

_ADMIN_PROHIBITED: Final = "reject with icmpx type admin-prohibited"
_RESET: Final = "reject with tcp reset"


@dataclass(frozen=True, slots=True)
class Policy:
    """A named policy."""

    name: str
    text: str
    """What it does, as a sentence without its subject."""
    section: str = ""
    """Of RFC 7123, as far as it has the filter."""
    filter: Filter | None = None
    """What it stops; None: nothing."""
    answers: bool = False
    """Whether it says so."""

    @property
    def title(self) -> str:
        """Its name as a person would say it."""
        if self.filter is None:
            return "allow everything"
        return f"{'reject' if self.answers else 'drop'} {self.filter.title}"


def _policies() -> Iterator[Policy]:
    yield Policy("allow", "lets everything through")
    for name, filter_ in FILTERS.items():
        yield Policy(f"drop_{name}", f"silently drops {filter_.text}", filter_.section, filter_)
        yield Policy(
            f"reject_{name}",
            f"refuses {filter_.text}, with an ICMP error or a TCP reset",
            filter_.section,
            filter_,
            answers=True,
        )


POLICIES: Final[dict[str, Policy]] = {policy.name: policy for policy in _policies()}
"""Every policy by name, for messages, documentation and `firewall_ruleset`."""


def check_policy(policy: str | Sequence[str]) -> str:
    """The policy in its one spelling, "drop_teredo+reject_tsp_control".

    ValueError, with what was probably meant, for a policy that does not exist or a combination without sense.
    """
    return "+".join(part.name for part in parse_policy(policy))


PolicyName = Annotated[str, check_policy]
"""The type of a parameter that takes a policy or a combination: a wrong one is refused before anything is built."""


def parse_policy(policy: str | Sequence[str]) -> tuple[Policy, ...]:
    """The policies that "a+b" or ("a", "b") joins, those that stop everything else last.  ValueError as above."""
    words = policy.split("+") if isinstance(policy, str) else policy
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"a policy is a name, or several, not {policy!r}")
    found = [_find(word.strip()) for word in words]
    if not found:
        raise ValueError("a firewall has a policy; `allow` is the one that stops nothing")
    if len(found) > 1 and any(part.filter is None for part in found):
        raise ValueError("allow lets everything through; it cannot be combined with what stops something")
    filters = [part.filter.name for part in found if part.filter is not None]
    for name in filters:
        if filters.count(name) > 1:
            raise ValueError(f"{name} can be dropped or rejected, and once")
    last = [part for part in found if part.filter is not None and part.filter.is_last]
    if len(last) > 1:
        raise ValueError(f"{last[0].name} leaves nothing for {last[1].name}; take one of them")
    return (*(part for part in found if part not in last), *last)


def _find(name: str) -> Policy:
    if name in POLICIES:
        return POLICIES[name]
    close = get_close_matches(name, POLICIES, n=3)
    known = f"there is allow, and drop_ or reject_ with any of {', '.join(FILTERS)}"
    hint = f"did you mean {' or '.join(close)}?" if close else known
    raise ValueError(f"there is no firewall policy {name!r}; {hint}")


def firewall_ruleset(policy: str | Sequence[str], *, inside: str = "lan*") -> str:
    """The whole ruleset of a firewall, as text for `nft -f`; loading another policy's replaces it in one step.

    `inside` is the name, or the beginning of the names with a *, of the inside interfaces.  Every rule carries its
    policy's name as a comment beside its counter; what no rule caught is counted as `allow`.  ValueError for an
    unknown policy.
    """
    policies = parse_policy(policy)
    answered = any(part.answers and _has_protocol_41(part) for part in policies)
    early: list[str] = []
    forward: list[str] = []
    for part in policies:
        for exception in part.filter.exceptions if part.filter is not None else ():
            forward.append(f'{exception} comment "allow"')
        for match, verdict in _rules(part):
            rule = f'{match.text} {verdict} comment "{part.name}"'.strip()
            # What is asked before routing has to be asked in its order there, all of it.
            (early if answered and match.protocol == "41" else forward).append(rule)
    if answered:
        forward.insert(0, f'meta mark {PROHIBITED_MARK} counter drop comment "not_answered"')
    if not any(part.filter is not None and part.filter.is_last for part in policies):
        forward.append('counter accept comment "allow"')
    chains = _chain("prerouting", early) + _chain("forward", forward)
    return f"flush ruleset\ntable inet firewall {{\n{chains}}}\n".replace("INSIDE", f'"{inside}"')


def _has_protocol_41(policy: Policy) -> bool:
    return policy.filter is not None and any(match.protocol in ("41", "any") for match in policy.filter.matches)


def _rules(policy: Policy) -> Iterator[tuple[Match, str]]:
    """Matches with their counters and verdicts, in order."""
    if policy.filter is None:
        return
    for match in policy.filter.matches:
        if not policy.answers:
            yield match, "counter drop"
            continue
        if match.protocol in ("any", "ipv6"):
            yield Match(f"{match.text} meta l4proto tcp".strip(), "tcp"), f"counter {_RESET}"
        if match.protocol == "any":
            yield Match("ip protocol 41", "41"), _marked()
        yield match, {"tcp": f"counter {_RESET}", "41": _marked()}.get(match.protocol, f"counter {_ADMIN_PROHIBITED}")


def _marked() -> str:
    return f"counter meta mark set {PROHIBITED_MARK} accept"


def _chain(hook: str, rules: list[str]) -> str:
    if not rules:
        return ""
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"\tchain {hook} {{\n\t\ttype filter hook {hook} priority filter; policy accept;\n{body}\t}}\n"
