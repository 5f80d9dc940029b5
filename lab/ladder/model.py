"""What belongs to one set-up: the nodes it passed, the messages, the phases, and what became of every packet.

Times in a capture are the kernel's; those in run.json are seconds since the network was up.  `up_at_s` of a trial
joins them; an older run folder is joined by the first packet of its first set-up, which is late by what the client
did before.

A capture sees what leaves an interface after the interface's own delay.  A packet is therefore said to be on a link
from when it reached the node before it; at the node that made it, the delay that was asked for is taken off again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from lab.errors import UsageError
from lab.ladder.frames import Packet
from lab.ladder.journeys import Journey, Sighting, Visit, journeys, sightings
from lab.results import MoveRecord, PolicyRecord, Record, SetupRecord
from lab.run import Run
from lab.topology.plan import AddLink, Plan, Shape

MOST_MESSAGES: Final = 80
"""Messages of a set-up that a ladder shows."""
MESSAGES_AFTER: Final = 6
"""Packets of the client's that a ladder shows after a set-up has ended."""
_AFTER_NS: Final = 2_000_000_000
_SLACK_NS: Final = 1_000
"""How far two readings of one clock may be apart."""


@dataclass(frozen=True, slots=True)
class Column:
    """A node that packets passed."""

    name: str
    kind: str
    address: str


@dataclass(frozen=True, slots=True)
class Hop:
    """A packet on its way from one node to the next, or to where it was lost."""

    a: str
    b: str
    left_ns: int
    arrived_ns: int | None
    """None: it never arrived."""
    tunnelled: bool = False
    rewritten: str = ""
    """What the node it left wrote into it: an address and port."""


@dataclass(frozen=True, slots=True)
class Message:
    """One packet, from the node that made it to where it ended."""

    kind: str
    """signalling, data, tcp, icmp or ip: see `lab.ladder.frames.Packet`."""
    label: str
    detail: str
    """Everything known of it, lines."""
    origin: str
    t_ns: int
    hops: tuple[Hop, ...]
    dropped: str = ""
    """Why it went no farther than its last node, or was lost; empty when it arrived."""
    transmission: int = 1
    """2 and more: the same was sent before."""


@dataclass(frozen=True, slots=True)
class Band:
    """A phase of the set-up, as the client told it."""

    name: str
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """A set-up, ready to be drawn."""

    title: str
    outcome: str
    columns: tuple[Column, ...]
    messages: tuple[Message, ...]
    bands: tuple[Band, ...]
    began_ns: int
    """When the client began: zero of the drawing."""
    ended_ns: int
    notes: tuple[str, ...] = ()


def ladder(run: Run, node: str | None = None, attempt: int | None = None, *, after: int = MESSAGES_AFTER) -> Ladder:
    """The ladder of a set-up of `node` (the first that tried one): number `attempt`, counted from 0 (the last).

    `after`: so many of the client's packets that came later are shown as well.  Raises UsageError when there is no
    such set-up, or nothing was captured.
    """
    setups = [record for record in run.records if isinstance(record, SetupRecord)]
    if node is None:
        if not setups:
            raise UsageError("no node tried to set up a tunnel in this run: there is no ladder to draw")
        node = setups[0].node
    mine = run.tunnels(node)
    if not mine:
        raise UsageError(f"{node} tried no tunnel in this run")
    number = len(mine) - 1 if attempt is None else attempt
    if not 0 <= number < len(mine):
        raise UsageError(f"{node} made {len(mine)} attempts, numbered from 0; there is no number {number}")
    return _Story(run, mine, number, after).told()


class _Story:
    """Reads what is needed and puts a ladder together."""

    def __init__(self, run: Run, setups: Sequence[SetupRecord], number: int, after: int) -> None:
        self.run = run
        self.setup = setups[number]
        self.number, self.of = number, len(setups)
        self.after = after
        file = run.path / "plan.json"
        try:
            self.plan = Plan.from_json(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise UsageError(f"{file} cannot be read: {exc}") from exc
        if not run.captures:
            raise UsageError("no packets were captured in this run, so there is no ladder to draw")
        for move in run.records:
            if isinstance(move, MoveRecord) and move.at_s <= self.setup.at_s:
                self.plan = self.plan.moved(move.node, move.place)
        self.kinds = {value.name: value.kind for value in self.plan.nodes}
        self.macs = {
            (end, iface): mac
            for step in self.plan.steps
            if isinstance(step, AddLink)
            for end, iface, mac in ((step.a, step.a_iface, step.a_mac), (step.b, step.b_iface, step.b_mac))
        }
        self.of_mac = {bytes.fromhex(mac.replace(":", "")): end for (end, _), mac in self.macs.items()}
        self.shapes = {(step.node, step.iface): step for step in self.plan.steps if isinstance(step, Shape)}
        self.addresses = self._addresses()
        self.slack_ns = _SLACK_NS if run.up_at_s is not None else 200_000
        self.clock_ns = self._clock_ns()
        self.began_ns = self._at(self.setup.at_s)
        self.ready_ns = self._at(self.setup.at_s + self.setup.total_s)
        first_packet = self.setup.phases_s.get("first_packet", 0.0)
        self.ended_ns = self._at(self.setup.at_s + self.setup.total_s + first_packet)
        following = setups[number + 1].at_s if number + 1 < self.of else None
        self.until_ns = self.ended_ns + _AFTER_NS
        if following is not None:
            self.until_ns = min(self.until_ns, self._at(following) - 1)

    def told(self) -> Ladder:
        """The ladder."""
        seen: list[Sighting] = []
        for node, iface in self.run.captures:
            between = (self.began_ns - self.slack_ns, self.until_ns)
            if (mac := self.macs.get((node, iface))) is not None:
                seen += sightings(self.run.capture(node, iface), node, mac, between)
        mine = [way for way in journeys(seen, self.addresses) if self._is_mine(way)]
        shown = [way for way in mine if not way.first.bare_ack]
        notes = []
        if len(shown) < len(mine):
            notes.append(f"{len(mine) - len(shown)} TCP segments that only acknowledge are not shown")
        during = [way for way in shown if way.t_ns <= self.ended_ns]
        later = shown[len(during) :]
        if len(during) > MOST_MESSAGES:
            notes.append(f"{len(during) - MOST_MESSAGES} more packets during the set-up are not shown")
            during = during[:MOST_MESSAGES]
        if len(later) > self.after:
            notes.append(f"{len(later) - self.after} or more packets followed")
            later = later[: self.after]
        if not during:
            notes.append("no packet of this set-up was captured")
        messages = self._messages([*during, *later])
        notes += self._unseen(messages)
        return Ladder(
            title=self._title(),
            outcome=self._outcome(),
            columns=self._columns(messages),
            messages=messages,
            bands=tuple(self._bands()),
            began_ns=self.began_ns,
            ended_ns=self.ended_ns,
            notes=tuple(notes),
        )

    # --- clocks and addresses

    def _at(self, seconds: float) -> int:
        return self.clock_ns + round(seconds * 1e9)

    def _clock_ns(self) -> int:
        clock = self.run.up_at_s
        if clock is not None:
            return round(clock * 1e9)
        first = next(record for record in self.run.records if isinstance(record, SetupRecord))
        broker = self.addresses[first.broker]
        times = [
            sighting.t_ns
            for node, iface in self.run.captures
            if node == first.node and (node, iface) in self.macs
            for sighting in sightings(self.run.capture(node, iface), node, self.macs[node, iface], (0, 1 << 63))
            if sighting.outgoing and sighting.packet.dst in broker
        ]
        if not times:
            raise UsageError("this run folder does not say when its network was up, and its captures do not show it")
        return min(times) - round(first.at_s * 1e9)

    def _addresses(self) -> dict[str, frozenset[str]]:
        found = {
            node.name: {
                address.partition("/")[0]
                for interface in node.interfaces
                for address in (interface.ipv4, interface.ipv6)
                if address
            }
            for node in self.plan.nodes
        }
        for record in self.run.records:
            if isinstance(record, SetupRecord):
                found[record.node] |= {record.client_ipv6} if record.client_ipv6 else set()
                found[record.broker] |= {record.server_ipv6} if record.server_ipv6 else set()
        return {name: frozenset(addresses) for name, addresses in found.items()}

    def _is_mine(self, way: Journey) -> bool:
        if any(visit.node == self.setup.node for visit in way.visits):
            return True
        mine = {self.setup.client_ipv6} - {None}
        packets = [packet for visit in way.visits for packet in (visit.packet, visit.packet.inner) if packet]
        return any(mine & {packet.src, packet.dst} for packet in packets)

    # --- messages

    def _messages(self, ways: Iterable[Journey]) -> tuple[Message, ...]:
        sent: dict[tuple[object, ...], int] = {}
        found = []
        for way in ways:
            flow = way.first.flow
            if flow:
                sent[flow] = sent.get(flow, 0) + 1
            found.append(self._message(way, sent[flow] if flow else 1))
        return tuple(_in_causal_order(found))

    def _message(self, way: Journey, transmission: int) -> Message:
        hops, began = [], self._left(way.visits[0])
        for number, (visit, following) in enumerate(pairwise(way.visits)):
            left = began if number == 0 else visit.t_ns
            hops.append(
                Hop(visit.node, following.node, left, following.t_ns, visit.packet.inner is not None, _rewritten(visit))
            )
        dropped, last = self._fate(way)
        if last is not None:
            hops.append(last)
        carrier = max((visit.packet for visit in way.visits), key=lambda packet: packet.inner is not None)
        kind = carrier.kind
        label = carrier.label
        if carrier.inner is not None:
            label += f" in {'protocol 41' if carrier.protocol == 'protocol 41' else 'UDP'}"
        elif kind == "icmp" and way.first.protocol == "ICMP":
            label += f" from {way.first.src}"
        return Message(
            kind=kind,
            label=label,
            detail="\n".join(self._details(way, carrier, dropped)),
            origin=way.visits[0].node,
            t_ns=began,
            hops=tuple(hops),
            dropped=dropped,
            transmission=transmission,
        )

    def _unseen(self, messages: Sequence[Message]) -> Iterable[str]:
        """What the client sent again although no capture shows it a first time."""
        if self.setup.transport != "udp":
            return
        mine = [m for m in messages if m.kind == "signalling" and m.origin == self.setup.node]
        unseen = self.setup.retransmissions - sum(message.transmission > 1 for message in mine)
        if unseen > 0 and len(messages) < MOST_MESSAGES:
            datagrams = f"{unseen} datagram{'s' if unseen > 1 else ''} of {self.setup.node}"
            yield f"{datagrams} left no trace: what an interface itself loses is not captured"

    def _left(self, visit: Visit) -> int:
        """When the node that made a packet sent it: before the delay of its own interface."""
        if visit.came is None and visit.went is not None:
            shape = self.shapes.get((visit.node, visit.went.iface))
            return visit.went.t_ns - round((shape.delay_ms if shape else 0.0) * 1e6)
        return visit.t_ns

    def _fate(self, way: Journey) -> tuple[str, Hop | None]:
        """Why a packet ended before its destination, and its way to nowhere if it was lost on a link."""
        last = way.visits[-1]
        if last.went is not None:
            towards = self.of_mac.get(last.went.macs[:6])
            if towards is None:
                return "", None
            if self.kinds.get(towards) == "switch" or towards == last.node:
                return "", None
            left = self._left(last) if len(way.visits) == 1 else last.t_ns
            return f"lost between {last.node} and {towards}", Hop(
                last.node, towards, left, None, last.packet.inner is not None, _rewritten(last)
            )
        packet = last.packet
        if self._arrived(last.node, packet):
            return "", None
        rule = self._rule(last)
        if rule:
            how = "rejected" if all(name.startswith("reject") for name in rule.split(" or ")) else "dropped"
            return f"{how} by {last.node}: {rule}", None
        shape = next((s for (node, _), s in self.shapes.items() if node == last.node and s.loss_pct), None)
        if shape is not None:
            return f"lost leaving {last.node}: the link loses {shape.loss_pct:g} %", None
        return f"went no farther than {last.node}", None

    def _arrived(self, node: str, packet: Packet) -> bool:
        kind, own = self.kinds.get(node), self.addresses.get(node, frozenset())
        if kind in ("host", "client"):
            return True
        if packet.dst not in own:
            return False
        if packet.inner is not None:
            return kind == "broker" and packet.inner.dst in own
        return kind != "nat" or packet.protocol == "ICMP"

    def _rule(self, visit: Visit) -> str:
        """The name of the rule that can have stopped a packet here: one that counted something, by the end."""
        node = visit.node
        counted = {name for name, packets in self.run.counters(node).items() if packets}
        if self.kinds.get(node) == "firewall":
            parts = [part for part in self._policy(node, visit.t_ns).split("+") if part in counted]
            protocol = visit.packet.protocol
            word = {"UDP": "udp", "TCP": "tcp", "protocol 41": "41"}.get(protocol, "")
            fitting = [part for part in parts if word and word in part]
            return " or ".join(fitting or parts)
        stops = ("drop", "reject", "unsolicited", "filter", "refuse", "not_")
        return " or ".join(sorted(name for name in counted if any(word in name for word in stops)))

    def _policy(self, node: str, t_ns: int) -> str:
        policy = str(next(n.options.get("policy", "") for n in self.plan.nodes if n.name == node))
        for record in self.run.records:
            if (
                isinstance(record, PolicyRecord)
                and record.node == node
                and self._at(record.at_s) <= t_ns + self.slack_ns
            ):
                policy = record.policy
        return policy

    def _details(self, way: Journey, carrier: Packet, dropped: str) -> Iterable[str]:
        first = way.visits[0].packet
        yield carrier.detail or carrier.label
        if carrier.inner is not None:
            yield f"IPv6 {carrier.inner.source} to {carrier.inner.destination}, {carrier.inner.size} bytes"
        number = f", IPv4 id {first.identification}" if first.identification is not None else ""
        yield f"{first.protocol}, {first.size} bytes{number}"
        for visit in way.visits:
            packet = visit.packet
            at = (visit.t_ns - self.began_ns) / 1e6
            side = "out" if visit.came is None else "in" if visit.went is None else "through"
            yield f"{at:.3f} ms {side} {visit.node}: {packet.source} to {packet.destination}, hop limit {packet.ttl}"
        if dropped:
            yield dropped

    # --- the rest of the picture

    def _columns(self, messages: Sequence[Message]) -> tuple[Column, ...]:
        path = _path(self.plan, self.setup.node, self.setup.broker)
        used = {name for name in path if self.kinds[name] != "switch"}
        for message in messages:
            used |= {message.origin} | {end for hop in message.hops for end in (hop.a, hop.b)}
        nodes = {node.name: node for node in self.plan.nodes}
        found = []
        for name in _order(self.plan, self.setup.node, self.setup.broker):
            if name in used:
                node = nodes[name]
                found.append(Column(name, node.kind, (node.ipv4 or node.ipv6 or "").partition("/")[0]))
        return tuple(found)

    def _bands(self) -> Iterable[Band]:
        phases = self.setup.phases_s
        protocol = {name: seconds for name, seconds in phases.items() if name != "first_packet"}
        ready = self.setup.outcome == "ready"
        # Of several attempts in one (transport auto) the phases are those of the last.
        at = self.ready_ns - round(sum(protocol.values()) * 1e9) if ready else self.began_ns
        if at - self.began_ns > 1_000_000 and ready:
            yield Band("before", self.began_ns, at)
        for name, seconds in protocol.items():
            end = at + round(seconds * 1e9)
            if end > at:
                yield Band(name, at, end)
            at = end
        if ready and "first_packet" in phases:
            yield Band("first packet", self.ready_ns, self.ended_ns)
        elif not ready and self.ended_ns > at:
            order = ("connect", "version", "auth", "create", "accept")[self.setup.transport == "udp" :]
            undone = [name for name in order if name not in phases]
            yield Band(f"{undone[0] if undone else 'end'} (open)", at, self.ended_ns)

    def _title(self) -> str:
        which = f", attempt {self.number + 1} of {self.of}" if self.of > 1 else ""
        trial = f", trial {self.run.trial}" if len(self.run.facts["trials"]) > 1 else ""
        asks = f"{self.setup.node} asks {self.setup.broker} for {self.setup.requested}"
        return f"{self.run.facts['topology']}: {asks}{which}{trial}"

    def _outcome(self) -> str:
        from lab.results import describe_setup

        return describe_setup(self.setup)


def _in_causal_order(messages: Sequence[Message]) -> Iterable[Message]:
    """The messages, an answer a nanosecond after what it answers where virtual time made them one moment."""
    arrived: dict[str, int] = {}
    for message in messages:
        late = arrived.get(message.origin, message.t_ns - 1) + 1 - message.t_ns
        if 0 < late < 100:
            hops = tuple(
                replace(
                    hop,
                    left_ns=hop.left_ns + late,
                    arrived_ns=None if hop.arrived_ns is None else hop.arrived_ns + late,
                )
                for hop in message.hops
            )
            message = replace(message, t_ns=message.t_ns + late, hops=hops)
        for hop in message.hops:
            if hop.arrived_ns is not None and hop.arrived_ns - message.t_ns < 1_000_000_000:
                arrived[hop.b] = max(arrived.get(hop.b, 0), hop.arrived_ns)
        yield message


def _rewritten(visit: Visit) -> str:
    """What a node wrote into a packet that it passed on: the new source or destination."""
    if visit.came is None or visit.went is None:
        return ""
    came, went = visit.came.packet, visit.went.packet
    if (came.inner is None) != (went.inner is None):
        return ""
    words = []
    if came.source != went.source:
        words.append(f"from {went.source}")
    if came.destination != went.destination:
        words.append(f"to {went.destination}")
    return ", ".join(words)


def _neighbours(plan: Plan) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {node.name: [] for node in plan.nodes}
    unplugged = {(node.name, iface.name) for node in plan.nodes for iface in node.interfaces if not iface.plugged}
    for step in plan.steps:
        if isinstance(step, AddLink) and not unplugged & {(step.a, step.a_iface), (step.b, step.b_iface)}:
            found[step.a].append(step.b)
            found[step.b].append(step.a)
    return found


def _path(plan: Plan, start: str, end: str) -> list[str]:
    """The nodes from one to another, by the shortest way; the two alone when there is none."""
    neighbours = _neighbours(plan)
    before: dict[str, str] = {start: start}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for other in neighbours[here]:
            if other not in before:
                before[other] = here
                queue.append(other)
    if end not in before:
        return [start, end]
    path = [end]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]


def _order(plan: Plan, client: str, broker: str) -> list[str]:
    """Every node from left to right: what lies behind the client, the way to the broker, the rest by distance."""
    path = _path(plan, client, broker)
    behind: list[tuple[int, str]] = []
    beyond: list[tuple[int, str]] = []
    for node in plan.nodes:
        if node.name not in path:
            way = _path(plan, node.name, broker)
            (behind if client in way else beyond).append((len(_path(plan, client, node.name)), node.name))
    return [*(name for _, name in sorted(behind, reverse=True)), *path, *(name for _, name in sorted(beyond))]


def setups_of(run: Run) -> list[tuple[Record, int]]:
    """Every set-up of a trial, with its number among those of its node."""
    counts: dict[str, int] = {}
    found: list[tuple[Record, int]] = []
    for record in run.records:
        if isinstance(record, SetupRecord):
            found.append((record, counts.get(record.node, 0)))
            counts[record.node] = counts.get(record.node, 0) + 1
    return found
