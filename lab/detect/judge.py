"""What the flows of a capture amount to: findings, each with what it was recognised by and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address
from typing import Final

from lab.detect import filters
from lab.detect.filters import AYIYA_PORT, TEREDO_PORT, TSP_PORT, Filter
from lab.detect.findings import INNER_SHOWN, Confidence, Finding, Mechanism
from lab.detect.flows import Carried, Tally, TcpFlow, UdpFlow, port_of, ports_of, text_of
from lab.detect.protocol41 import Shape

_ORDER: Final = (Confidence.CERTAIN, Confidence.LIKELY, Confidence.POSSIBLE)

_PROTOCOL_41: Final[dict[Mechanism, Filter]] = {
    Mechanism.SIX_IN_FOUR: filters.SIX_IN_FOUR,
    Mechanism.SIX_OVER_FOUR: filters.SIX_OVER_FOUR,
    Mechanism.SIX_RD: filters.SIX_RD,
    Mechanism.SIX_TO_FOUR: filters.SIX_TO_FOUR,
    Mechanism.ISATAP: filters.ISATAP,
}


class PairEntry(Carried):
    """Packets of protocol 41 or EtherType 0x86DD between two hosts."""

    __slots__ = ("ends", "mechanism", "members", "reasons", "variant")

    def __init__(self, mechanism: Mechanism, ends: tuple[bytes, bytes], variant: object) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.ends = ends
        """Addresses, packed: who sent the first packet, and to whom."""
        self.variant = variant
        """Of protocol 41 the `Shape`; of native IPv6 whether no link layer was captured."""
        self.reasons: dict[str, Confidence] = {}
        self.members: set[bytes] = set()
        """Hosts that were seen to take part in 6over4 multicast."""


def judge(udp: Iterable[UdpFlow], tcp: Iterable[TcpFlow], pairs: Iterable[PairEntry]) -> tuple[Finding, ...]:
    """All findings, in the order in which they began."""
    udp, tcp, pairs = list(udp), [flow for flow in tcp if flow.verdict != "other"], list(pairs)
    brokers = {flow.broker for flow in udp if flow.broker is not None}
    hosts = {frozenset((ends[0][:-2], ends[1][:-2])) for ends in _tsp_ends(udp, tcp)}
    offered = {address for flow in udp for address in flow.offered}
    offered |= {address for flow in tcp for address in flow.offered if flow.verdict == "tsp"}
    findings = [finding for flow in udp for finding in _udp(flow, brokers)]
    findings += [finding for flow in tcp for finding in _tcp(flow)]
    findings += _pairs(pairs, hosts, offered)
    return tuple(sorted(findings, key=lambda finding: (finding.first_s, finding.mechanism, finding.outer)))


def _tsp_ends(udp: Iterable[UdpFlow], tcp: Iterable[TcpFlow]) -> Iterator[tuple[bytes, bytes]]:
    yield from (flow.ends for flow in udp if flow.is_tsp)
    yield from (flow.ends for flow in tcp if flow.verdict == "tsp")


# --- UDP -------------------------------------------------------------------------------------------------------


def _udp(flow: UdpFlow, brokers: set[bytes]) -> Iterator[Finding]:
    ports = ports_of(flow.ends)
    server = port_of(flow.broker or flow.ends[1])
    if flow.is_tsp:
        both = len(flow.speakers) == 2
        why = ["both ends speak TSP" if both else f"the {next(iter(flow.speakers)).value} speaks TSP"]
        sure = both or TSP_PORT in ports
        yield _finding(
            Mechanism.TSP_CONTROL, "udp", flow, flow.tsp, flow.offered, sure, why, filters.tsp("udp", ports, server)
        )
        if flow.teredo.packets:  # a Teredo client somewhere in the Internet, reached through the tunnel
            flow.data.merge(flow.teredo)
            flow.data.note_addresses(*flow.teredo.addresses)
    elif flow.teredo.packets:
        found = _teredo(flow, ports, server)
        if found is not None:
            yield found
    data = _data(flow, ports, brokers)
    if data is not None:
        confidence, reasons = data
        yield _finding(
            Mechanism.TSP_DATA,
            "udp",
            flow,
            flow.data,
            flow.data.addresses,
            confidence,
            reasons,
            filters.tsp("udp", ports, server),
        )
    ayiya = flow.ayiya
    if ayiya.packets and (AYIYA_PORT in ports or ayiya.good or ayiya.evidence > 1):
        known = AYIYA_PORT in ports and ayiya.evidence > 0
        yield _finding(
            Mechanism.AYIYA,
            "udp",
            flow,
            ayiya,
            ayiya.addresses,
            known,
            ["AYIYA's header, with lengths that agree", *_checked(ayiya)],
            filters.ayiya("udp", ports, server),
        )


def _data(flow: UdpFlow, ports: tuple[int, int], brokers: set[bytes]) -> tuple[Confidence, list[str]] | None:
    """How sure it is that a flow carries TSP data, and why; None when it is not to be said."""
    data = flow.data
    if not data.packets:
        return None
    reasons = ["bare IPv6 packets in UDP, every length in agreement", *_checked(data)]
    if flow.is_tsp:
        return Confidence.CERTAIN, [*reasons, "in the flow of a TSP session"]
    if not brokers.isdisjoint(flow.ends) and data.evidence:
        return Confidence.CERTAIN, [*reasons, "with a broker that speaks TSP in another flow"]
    if TSP_PORT in ports:
        level = Confidence.CERTAIN if data.good else Confidence.LIKELY if data.repeated else Confidence.POSSIBLE
        return level, [*reasons, "port 3653"]
    if data.evidence > 1 and data.evidence > data.bad and data.repeated:
        return Confidence.LIKELY, [
            *reasons,
            "no TSP was seen: another encapsulation of bare IPv6 in UDP looks the same",
        ]
    return None


def _teredo(flow: UdpFlow, ports: tuple[int, int], server: int) -> Finding | None:
    teredo = flow.teredo
    port = TEREDO_PORT in ports
    if not teredo.evidence and not port:
        return None
    level = Confidence.CERTAIN if teredo.good or (port and teredo.evidence) else Confidence.LIKELY
    if not teredo.evidence:
        level = Confidence.POSSIBLE
    reasons = ["bare IPv6 packets in UDP with an address in 2001::/32, or Teredo's indications before them"]
    return _finding(
        Mechanism.TEREDO,
        "udp",
        flow,
        teredo,
        teredo.addresses,
        level,
        [*reasons, *_checked(teredo), *(["port 3544"] if port else [])],
        filters.teredo(ports, server),
    )


def _checked(carried: Carried) -> list[str]:
    """What the checksums inside say."""
    if carried.good:
        return [f"the checksum inside is right in {carried.good} of {carried.good + carried.bad}"]
    if carried.bad:
        return ["no checksum inside is right: captured before it was filled in, or forged"]
    return []


# --- TCP -------------------------------------------------------------------------------------------------------


def _tcp(flow: TcpFlow) -> Iterator[Finding]:
    ports = ports_of(flow.ends)
    server = port_of(flow.ends[1])
    if flow.verdict == "tsp":
        why = ["the client's first words are TSP's" if flow.opened else "TSP messages in the stream"]
        sure = TSP_PORT in ports or len(flow.said) == 2
        yield _finding(
            Mechanism.TSP_CONTROL, "tcp", flow, flow, flow.offered, sure, why, filters.tsp("tcp", ports, server)
        )
    elif flow.verdict == "ayiya":
        yield _finding(
            Mechanism.AYIYA,
            "tcp",
            flow,
            flow,
            flow.offered,
            AYIYA_PORT in ports,
            ["AYIYA's header, with lengths that agree"],
            filters.ayiya("tcp", ports, server),
        )
    elif flow.verdict is None and flow.opened and not flow.said and server in (TSP_PORT, AYIYA_PORT):
        tsp = server == TSP_PORT
        yield _finding(
            Mechanism.TSP_CONTROL if tsp else Mechanism.AYIYA,
            "tcp",
            flow,
            flow,
            Counter(),
            Confidence.POSSIBLE,
            [f"a connection attempt to port {server}, in which nothing was said"],
            (filters.tsp if tsp else filters.ayiya)("tcp", ports, server),
        )


# --- pairs of hosts --------------------------------------------------------------------------------------------


def _pairs(pairs: list[PairEntry], tsp_hosts: set[frozenset[bytes]], offered: set[bytes]) -> Iterator[Finding]:
    members = {host for entry in pairs for host in entry.members}
    plain = {
        frozenset(entry.ends): entry
        for entry in pairs
        if entry.mechanism is Mechanism.SIX_IN_FOUR and entry.variant is Shape.PLAIN
    }
    over = {
        frozenset(entry.ends): entry
        for entry in pairs
        if entry.mechanism is Mechanism.SIX_OVER_FOUR and entry.variant is Shape.PLAIN
    }
    shown = []
    for entry in pairs:
        if entry.variant is Shape.LINK_LOCAL_BY_IPV4:
            # Neighbours of a 6over4 link, or the two ends of a configured tunnel: the company they keep tells.
            hosts = frozenset(entry.ends)
            sixover4 = hosts in over or not members.isdisjoint(entry.ends)
            home = (over if sixover4 else plain).get(hosts)
            if sixover4:
                entry.mechanism = Mechanism.SIX_OVER_FOUR
                entry.reasons = {
                    "link-local addresses made of the outer ones, between hosts of 6over4": Confidence.LIKELY
                }
            if home is not None:
                home.merge(entry)
                home.note_addresses(*entry.addresses)
                continue
        shown.append(entry)
    for entry in shown:
        if entry.mechanism is Mechanism.NATIVE:
            yield _native(entry)
        else:
            yield _protocol41(entry, tsp_hosts, offered)


def _native(entry: PairEntry) -> Finding:
    if not entry.variant:
        why = ["EtherType 0x86DD"]
        if any(address[:2] == b"\xfe\x80" or address[0] == 0xFF for address in entry.ends):
            why.append("within one link: of no use to anyone outside")
        return _finding(Mechanism.NATIVE, "ethertype 0x86dd", entry, entry, Counter(), True, why, filters.NATIVE)
    rule = Filter(
        filters.NATIVE.section,
        filters.NATIVE.rule,
        filters.NATIVE.nft,
        stops=False,
        instead="captured without a link layer, such as inside a tunnel: the filter against what carries it",
    )
    why = ["IPv6 packets on a device without a link layer"]
    return _finding(Mechanism.NATIVE, "ip version 6", entry, entry, Counter(), Confidence.LIKELY, why, rule)


def _protocol41(entry: PairEntry, tsp_hosts: set[frozenset[bytes]], offered: set[bytes]) -> Finding:
    rule = _PROTOCOL_41[entry.mechanism]
    reasons = list(entry.reasons)
    confidence = min(entry.reasons.values(), key=_ORDER.index)
    if entry.mechanism is Mechanism.SIX_IN_FOUR:
        if frozenset(entry.ends) in tsp_hosts:
            reasons.append("TSP was spoken between the same hosts: a v6v4 tunnel")
            rule = filters.TSP_TUNNEL
        elif not offered.isdisjoint(entry.addresses):
            reasons.append("TSP offered one of the inner addresses: a v6v4 tunnel")
            rule = filters.TSP_TUNNEL
    return _finding(entry.mechanism, "protocol 41", entry, entry, entry.addresses, confidence, reasons, rule)


# --- findings --------------------------------------------------------------------------------------------------


def _finding(
    mechanism: Mechanism,
    carrier: str,
    flow: UdpFlow | TcpFlow | PairEntry,
    tally: Tally,
    addresses: Counter[bytes],
    confidence: Confidence | bool,
    why: Iterable[str],
    rule: Filter,
) -> Finding:
    """A finding; `confidence` may be whether it is certain, as opposed to likely."""
    if isinstance(confidence, bool):
        confidence = Confidence.CERTAIN if confidence else Confidence.LIKELY
    inner = sorted((address[:2] == b"\xfe\x80" or address[:1] == b"\xff", address) for address in addresses)
    return Finding(
        mechanism=mechanism,
        carrier=carrier,
        outer=(text_of(flow.ends[0]), text_of(flow.ends[1])),
        inner=tuple(str(IPv6Address(address)) for _, address in inner[:INNER_SHOWN]),
        inner_more=max(0, len(inner) - INNER_SHOWN),
        first_s=tally.first_s,
        last_s=tally.last_s,
        packets=tally.packets,
        bytes=tally.bytes,
        confidence=confidence,
        why=tuple(why),
        filter=rule,
    )
