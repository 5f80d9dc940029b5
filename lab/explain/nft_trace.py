"""Two texts of the kernel, read: `nft monitor trace` (nft 1.0.6 and later) and /proc/net/nf_conntrack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from lab.explain.probe import Address

TRACE_TABLE: Final = "lab_trace"
"""The table whose only purpose is to switch the trace on; its own steps are no part of a story."""

_LINE: Final = re.compile(r"trace id (?P<id>\w+) (?P<family>\w+) (?P<table>\S+) (?P<chain>\S+) (?P<rest>.*\S)\s*")
_RULE: Final = re.compile(r"(?:rule|unknown rule handle) (?P<text>.*?) ?\(verdict (?P<verdict>[^)]*)\)")
_ENDING: Final = re.compile(r"(?P<kind>policy|verdict) (?P<verdict>\w+).*")
_COMMENT: Final = re.compile(r'\s*comment "(?P<name>[^"]*)"')
_COUNTER: Final = re.compile(r"\s*counter packets \d+ bytes \d+")


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that matched, or the policy at a chain's end."""

    chain: str
    """Family, table and chain: "inet firewall forward"."""
    rule: str
    """The rule without its counter and comment; empty where the chain's policy decided."""
    name: str
    """The rule's comment; empty when it has none."""
    verdict: str
    """accept, drop, continue, jump ..."""
    packet: str = ""
    """Which packet of a trace it was about: packets that the box itself makes are traced apart."""

    @property
    def rejects(self) -> bool:
        """Whether the rule answers for the packet it drops."""
        return bool(re.search(r"\breject\b", self.rule))

    @property
    def marks(self) -> bool:
        """Whether the rule sets the packet's mark."""
        return "meta mark set" in self.rule


def parse_trace(text: str) -> list[Step]:
    """The steps of all packets traced in one node, in order; lines that are not understood are passed over."""
    steps = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line.rstrip())
        if found is None or found["table"] == TRACE_TABLE:
            continue
        chain = f"{found['family']} {found['table']} {found['chain']}"
        if rule := _RULE.fullmatch(found["rest"]):
            comment = _COMMENT.search(rule["text"])
            plain = _COUNTER.sub("", _COMMENT.sub("", rule["text"])).strip()
            steps.append(Step(chain, plain, comment["name"] if comment else "", rule["verdict"], found["id"]))
        elif (ending := _ENDING.fullmatch(found["rest"])) and ending["kind"] == "policy":
            steps.append(Step(chain, "", "", ending["verdict"], found["id"]))
    return steps


@dataclass(frozen=True, slots=True)
class End:
    """One direction of a flow: a source and a destination."""

    src: Address
    dst: Address
    sport: int | None = None
    dport: int | None = None

    def __str__(self) -> str:
        ports = [f":{port}" if port is not None else "" for port in (self.sport, self.dport)]
        return f"{self.src}{ports[0]} > {self.dst}{ports[1]}"


@dataclass(frozen=True, slots=True)
class Flow:
    """What connection tracking remembers of one flow."""

    protocol: int
    original: End
    """As its first packet came in."""
    reply: End
    """As its answers have to come in."""
    state: str
    """For TCP its state; "unreplied" or "assured" where that is said; else empty."""
    timeout_s: int | None = None

    @property
    def translated(self) -> bool:
        """Whether a NAT changes it."""
        mirrored = End(self.reply.dst, self.reply.src, self.reply.dport, self.reply.sport)
        return mirrored != self.original


def parse_flows(text: str) -> list[Flow]:
    """The flows of /proc/net/nf_conntrack; lines that are not understood are passed over."""
    return [flow for flow in map(_flow, text.splitlines()) if flow is not None]


def _flow(line: str) -> Flow | None:
    words = line.split()
    directions: list[dict[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "src":
            directions.append({})
        if equals and directions and key in ("src", "dst", "sport", "dport"):
            directions[-1].setdefault(key, value)
    if len(directions) < 2 or len(words) < 4 or not words[3].isdigit():
        return None
    flags = [word.strip("[]").lower() for word in words if word.startswith("[") and word != "[HW_OFFLOAD]"]
    states = [word for word in words if word.isupper() and word.replace("_", "").isalpha()]
    try:
        original, reply = map(_one_way, directions[:2])
    except (KeyError, ValueError):
        return None
    timeout_s = int(words[4]) if len(words) > 4 and words[4].isdigit() else None
    return Flow(int(words[3]), original, reply, " ".join((*states, *flags)), timeout_s)


def _one_way(found: Mapping[str, str]) -> End:
    ports = [int(found[key]) if key in found else None for key in ("sport", "dport")]
    return End(ip_address(found["src"]), ip_address(found["dst"]), *ports)
