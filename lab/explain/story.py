"""What became of one packet: the evidence joined, node by node along the way it took.

A node on the way has seen the packet come in, go out, or both; nft's trace says which of its rules the packet met;
what came out differs from what came in where a NAT was; and what did not come out was dropped by a rule, refused by
one, refused by routing, or lost to connection tracking, whichever the evidence shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from ipaddress import ip_network
from typing import Any

from lab.explain.evidence import Box, Evidence, Sighting
from lab.explain.nft_trace import Flow, Step, parse_flows, parse_trace
from lab.explain.probe import Header, is_icmp_error, is_refusal
from lab.explain.words import (
    NAT_RULES,
    accepted_by,
    say_answer,
    say_carrier,
    say_changes,
    say_refusal,
    say_rule,
    say_step,
    translated_by,
)
from lab.rules.firewall import POLICIES


class Fate(Enum):
    """What a node did with the packet, and what became of it in the end."""

    SENT = "sent"
    FORWARDED = "forwarded"
    TRANSLATED = "translated"
    TUNNELLED = "tunnelled"
    """Put into a tunnel, or taken out of one."""
    DELIVERED = "delivered"
    DROPPED = "dropped"
    """Silently."""
    REJECTED = "rejected"
    """And the sender was told so, or should have been."""
    LOST = "lost"
    """Without a rule that says so."""

    @property
    def goes_on(self) -> bool:
        """Whether the packet left the node."""
        return self in (Fate.SENT, Fate.FORWARDED, Fate.TRANSLATED, Fate.TUNNELLED)


@dataclass(frozen=True, slots=True)
class Hop:
    """One node on the way."""

    node: str
    kind: str
    fate: Fate
    iface_in: str
    """Where it came in; empty at the sender."""
    iface_out: str
    """Where it left; empty where it ended."""
    packet: str
    """Addresses and ports as it left, or as it came where it did not leave."""
    happened: str
    """In words; begins with the fate."""
    by: str = ""
    """The rule that decided its fate here: its name, else its text."""
    rules: tuple[str, ...] = ()
    """The rules it met, with their chains and verdicts."""
    flow: str = ""
    """What connection tracking remembers of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said to the packet."""

    node: str
    """Who said it."""
    text: str
    reached_sender: bool


@dataclass(frozen=True, slots=True)
class Story:
    """What became of one packet."""

    what: str
    sender: str
    receiver: str
    packet: str
    """Addresses and ports as it was sent."""
    fate: Fate
    node: str
    """Where it ended."""
    by: str
    """The rule, by name, that ended it; empty when none did."""
    verdict: str
    """In a sentence or two, without "The packet was"."""
    hops: tuple[Hop, ...]
    answers: tuple[Answer, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        value = asdict(self)
        value["fate"] = self.fate.value
        for hop, told in zip(self.hops, value["hops"], strict=True):
            told["fate"] = hop.fate.value
        return value


def tell_story(evidence: Evidence) -> Story:
    """The story of the evidence's probe."""
    return _Join(evidence).story()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A sighting of the probe or of an answer, read."""

    at: Sighting
    header: Header


_Told = tuple[Fate, str, str]
"""A fate, what happened in words that follow it, and the rule by which it did."""


class _Join:
    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.probe = evidence.probe
        self.boxes = {box.name: box for box in evidence.boxes}
        self.seen: dict[str, list[_Seen]] = {}
        self.said: list[_Seen] = []
        self._read()
        self.steps = {node: self._own_steps(node, parse_trace(text)) for node, text in evidence.traces.items()}
        self.flows = {node: parse_flows(text) for node, text in evidence.flows.items()}
        self.made: list[_Seen] = []
        """The answers where they were made; a node that forwards one did not make it."""
        self.answers = self._answers()

    def _read(self) -> None:
        """Tell the probe and its answers apart; an answer may well repeat the probe's bytes."""
        on_link: dict[tuple[str, str], list[Header]] = {}
        for sighting in self.evidence.sightings:
            before = on_link.setdefault((sighting.node, sighting.iface), [])
            header = self.probe.is_in(sighting.packet)
            if header is not None and header.ends not in [seen.reversed() for seen in before]:
                self.seen.setdefault(sighting.node, []).append(_Seen(sighting, header))
                before.append(header)
            elif answer := self.probe.is_answered_by(sighting.packet, before):
                self.said.append(_Seen(sighting, answer))

    def _own_steps(self, node: str, steps: list[Step]) -> list[Step]:
        """The steps of the probe itself: its answers are traced too where they repeat its bytes, but later."""
        forms = len({seen.header.protocol for seen in self.seen.get(node, [])})
        packets = list(dict.fromkeys(step.packet for step in steps))[: max(forms, 1)]
        return [step for step in steps if step.packet in packets]

    def story(self) -> Story:
        hops = tuple(self._hop(*stage) for stage in self._path())
        last = hops[-1]
        if last.fate.goes_on:
            fate, by = Fate.LOST, ""
            verdict = f"lost on the wire: it left {last.node} by {last.iface_out} and {self._at_the_other_end(last)}"
        else:
            fate, by = last.fate, last.by
            verdict = f"{fate.value} at {last.node}{last.happened.removeprefix(fate.value)}"
        return Story(
            what=self.probe.what,
            sender=self.probe.sender,
            receiver=self.probe.receiver,
            packet=str(self.probe.header),
            fate=fate,
            node=last.node,
            by=by,
            verdict=f"{verdict}. {self._heard(fate)}",
            hops=hops,
            answers=tuple(self.answers),
        )

    def _at_the_other_end(self, last: Hop) -> str:
        """Why it got no further than a link."""
        far = self.boxes[self.boxes[last.node].peers[last.iface_out]]
        if far.kind != "switch" and last.node not in far.peers.values():
            return f"{far.name} is not plugged in there"
        return "did not arrive at the other end"

    def _heard(self, fate: Fate) -> str:
        """What the sender got to know."""
        sender = self.probe.sender
        for answer in self.answers:
            if answer.reached_sender:
                return f"{sender} was told: {answer.text}, by {answer.node}."
        if self.answers:
            return f"{self.answers[0].node} answered ({self.answers[0].text}), but that did not reach {sender}."
        return f"Nobody answered {sender}." if fate is Fate.DELIVERED else f"{sender} was told nothing."

    # ------------------------------------------------------------------ the way

    def _path(self) -> list[tuple[str, _Seen | None, _Seen | None]]:
        """The nodes on the way, each with how the packet came and how it left."""
        path: list[tuple[str, _Seen | None, _Seen | None]] = []
        node: str | None = self.probe.sender
        came: _Seen | None = None
        while node is not None and node not in [visited for visited, _, _ in path]:
            left = self._left(node)
            path.append((node, came, left))
            came = self._next(node, left) if left is not None else None
            node = came.at.node if came is not None else None
        return path

    def _left(self, node: str) -> _Seen | None:
        """How it left by a wire: of a packet that left through a tunnel, what carries it."""
        out = [seen for seen in self.seen.get(node, []) if seen.at.outgoing and seen.at.iface in self.boxes[node].peers]
        return out[-1] if out else None

    def _next(self, node: str, left: _Seen) -> _Seen | None:
        """Where the other end of the wire saw it come in."""
        for name in self._beyond(node, self.boxes[node].peers[left.at.iface]):
            for seen in self.seen.get(name, []):
                near = self.boxes[name].peers.get(seen.at.iface)
                if not seen.at.outgoing and near is not None and node in self._beyond(name, near):
                    return seen
        return None

    def _beyond(self, node: str, peer: str) -> list[str]:
        """The nodes at the other end of a link: the peer, or all that are on the peer's Ethernet."""
        ends, switches, found = [(node, peer)], set(), []
        while ends:
            near, far = ends.pop()
            if self.boxes[far].kind != "switch":
                found.append(far)
            elif far not in switches:
                switches.add(far)
                ends += [(far, other) for other in self.boxes[far].peers.values() if other != near]
        return found

    # ------------------------------------------------------------------ one node

    def _hop(self, node: str, came: _Seen | None, left: _Seen | None) -> Hop:
        box = self.boxes[node]
        steps = self.steps.get(node, [])
        fate, how, by = self._passed(box, came, left, steps) if left is not None else self._ended(box, came, steps)
        shown = left or came
        return Hop(
            node=node,
            kind=box.kind,
            fate=fate,
            iface_in=came.at.iface if came is not None else "",
            iface_out=left.at.iface if left is not None else "",
            packet=str(shown.header) if shown is not None else str(self.probe.header),
            happened=f"{fate.value}{how}",
            by=by,
            rules=tuple(say_step(step) for step in steps),
            flow=self._flow(node, came, left),
        )

    def _passed(self, box: Box, came: _Seen | None, left: _Seen, steps: Sequence[Step]) -> _Told:
        """What it did with a packet that left."""
        by = accepted_by(steps)
        if came is None:
            out = [seen for seen in self.seen[box.name] if seen.at.outgoing]
            inner = next((seen for seen in out if seen.header.protocol != left.header.protocol), None)
            if inner is None:
                return Fate.SENT, "", by
            return Fate.TUNNELLED, f": sent by {inner.at.iface}, inside {say_carrier(left.header)}", by
        if came.header.protocol != left.header.protocol:
            if left.header.src.version == 6:
                return Fate.TUNNELLED, f": taken out of {say_carrier(came.header)}", by
            return Fate.TUNNELLED, f": put into {say_carrier(left.header)}", by
        if came.header.ends != left.header.ends:
            rule = translated_by(steps)
            why = f"{rule}: {NAT_RULES.get(rule, 'translated')}" if rule else "its flow had a mapping before"
            behaviour = f"{box.behaviour}; " if box.behaviour else ""
            return Fate.TRANSLATED, f": {say_changes(came.header, left.header)} ({behaviour}{why})", rule
        return Fate.FORWARDED, f", let through by {by}" if by else "", by

    def _ended(self, box: Box, came: _Seen | None, steps: Sequence[Step]) -> _Told:
        """What it did with a packet that did not leave."""
        stopping = next((step for step in steps if step.verdict == "drop"), None)
        if stopping is not None:
            return self._stopped(box, came, stopping)
        marking = next((step for step in steps if step.marks and step.name in POLICIES), None)
        if marking is not None:
            return Fate.REJECTED, f" by {say_rule(marking)}, and refused by routing{self._silence(box)}", marking.name
        if came is None:
            if not self.evidence.send_error and self._is_nobody_near(box, self.probe.header):
                return _nobody_near(self.probe.header)
            why = self.evidence.send_error or "it is not known why"
            return Fate.LOST, f": its own kernel did not send it ({why})", ""
        error = next((s.header for s in self.made if s.at.node == box.name and is_icmp_error(s.header)), None)
        carried = came.header.protocol != self.probe.header.protocol
        refused = error is not None and carried and is_refusal(error)
        if str(came.header.dst) in box.addresses and not refused:
            asked = self.probe.receiver
            elsewhere = "" if asked in (box.name, str(came.header.dst)) else f", and not at {asked}"
            return Fate.DELIVERED, elsewhere, accepted_by(steps)
        if error is not None:
            by, why = say_refusal(error)
            return Fate.REJECTED, why, by
        return self._vanished(box, came)

    def _stopped(self, box: Box, came: _Seen | None, step: Step) -> _Told:
        by = step.name or step.rule or f"the policy of {step.chain}"
        if step.rejects or any(answer.node == box.name for answer in self.answers):
            return Fate.REJECTED, f" by {say_rule(step)}{self._silence(box)}", by
        mapping = self._mapping_there(box, came) if box.kind == "nat" and came is not None else ""
        return Fate.DROPPED, f" by {say_rule(step)}{mapping}", by

    def _silence(self, box: Box) -> str:
        if any(answer.node == box.name for answer in self.answers):
            return ""
        return "; it should have said so but did not (the number of ICMP errors is limited)"

    def _mapping_there(self, box: Box, came: _Seen) -> str:
        """Whose the outside port is that somebody tried to reach."""
        to = came.header
        mapped = [
            flow
            for flow in self.flows.get(box.name, [])
            if flow.protocol == to.protocol and (flow.reply.dst, flow.reply.dport) == (to.dst, to.dport)
        ]
        if not mapped:
            return "; no mapping belongs to that port" if to.dport is not None else ""
        known = ", ".join(f"{flow.reply.src}:{flow.reply.sport}" for flow in mapped[:3])
        return f"; that port belongs to {mapped[0].original.src}, which spoke to {known}"

    def _vanished(self, box: Box, came: _Seen) -> _Told:
        """No rule dropped it, nobody answered, it is not for this node, and it did not leave."""
        to = came.header
        for flow in self.flows.get(box.name, []):
            if (
                flow.protocol == to.protocol
                and flow.translated
                and flow.original.src != to.src
                and (flow.reply.src, flow.reply.dport) == (to.dst, to.sport)
                and str(flow.reply.dst) in box.addresses
            ):
                what = f"protocol {to.protocol}" if to.sport is None else f"port {to.sport}"
                text = (
                    f" in connection tracking: from outside, {what} between {flow.reply.dst} and {to.dst} already "
                    f"belongs to {flow.original.src} ({flow.original}); no rule counts this"
                )
                return Fate.LOST, text, "connection tracking"
        if self._is_nobody_near(box, to):
            return _nobody_near(to)
        return Fate.LOST, ": it came in and did not go out; no rule dropped it and nobody answered", ""

    def _is_nobody_near(self, box: Box, to: Header) -> bool:
        """Whether a packet is for an address on one of the box's links that nobody has."""
        near = any(to.dst in ip_network(network) for network in box.networks)
        return near and all(str(to.dst) not in other.addresses for other in self.boxes.values())

    def _flow(self, node: str, came: _Seen | None, left: _Seen | None) -> str:
        for seen in (came, left):
            for flow in self.flows.get(node, []) if seen is not None else []:
                if seen is not None and flow.protocol == seen.header.protocol and _is_of(flow, seen.header):
                    state = f", {flow.state.lower()}" if flow.state else ""
                    return f"{flow.original}, answers {flow.reply}{state}"
        return ""

    # ------------------------------------------------------------------ answers

    def _answers(self) -> list[Answer]:
        """Who answered the probe, each said once.  Whoever sends what did not come in to him is who says it."""
        came: set[tuple[str, str]] = set()
        left: dict[tuple[str, str], _Seen] = {}
        for seen in self.said:
            key = (seen.at.node, say_answer(seen.header))
            carrier = seen.header.icmp is None and seen.header.src.version != self.probe.header.src.version
            if carrier:
                continue  # what brings the answer through a tunnel: the answer itself is seen at the tunnel's ends
            if not seen.at.outgoing:
                came.add(key)
            else:
                left.setdefault(key, seen)
        made = {key: seen for key, seen in left.items() if key not in came}
        self.made = list(made.values())
        return [Answer(node, text, (self.probe.sender, text) in came) for node, text in made]


def _nobody_near(to: Header) -> _Told:
    why = f": {to.dst} would be on a link of it, but nobody there has that address; nothing is said of it at once"
    return Fate.LOST, why, "neighbour"


def _is_of(flow: Flow, header: Header) -> bool:
    """Whether a packet with this header belongs to the flow, in either direction."""
    return any(
        (end.src, end.dst) == (header.src, header.dst)
        and (header.sport is None or end.sport is None or (end.sport, end.dport) == (header.sport, header.dport))
        for end in (flow.original, flow.reply)
    )
