"""The story of a packet from what was recorded in real networks (tests/data/explain), and the reading of its parts."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.explain.evidence import Evidence
from lab.explain.nft_trace import parse_flows, parse_trace
from lab.explain.probe import Kind, Probe, make_probe, parse_header
from lab.explain.story import Fate, Story, tell_story
from lab.explain.tell import text
from lab.generators import packets
from lab.generators.mechanisms import MECHANISMS

FOLDER: Final = Path(__file__).parent.parent / "data" / "explain"


def evidence(name: str) -> Evidence:
    return Evidence.from_json(json.loads((FOLDER / f"{name}.json").read_text()))


def story(name: str) -> Story:
    return tell_story(evidence(name))


def fates(told: Story) -> list[tuple[str, str]]:
    return [(hop.node, hop.fate.value) for hop in told.hops]


@pytest.mark.parametrize("name", [file.stem for file in sorted(FOLDER.glob("*.json"))])
def test_evidence_survives_being_written_and_read(name: str) -> None:
    once = evidence(name)
    assert Evidence.from_json(json.loads(json.dumps(once.to_json()))) == once
    json.dumps(story(name).to_json())


# --- stories ----------------------------------------------------------------------------------------------------


def test_a_packet_that_arrives_is_told_with_who_let_it_through_and_who_answered() -> None:
    told = story("passed")
    assert fates(told) == [
        ("laptop", "sent"),
        ("firewall", "forwarded"),
        ("internet", "forwarded"),
        ("broker", "delivered"),
    ]
    assert told.hops[1].happened == "forwarded, let through by allow"
    assert (told.hops[1].iface_in, told.hops[1].iface_out) == ("lan0", "wan0")
    assert [(a.node, a.text, a.reached_sender) for a in told.answers] == [("broker", "a UDP datagram", True)]


def test_a_drop_is_told_as_text() -> None:
    rule = "inet firewall forward: drop_3653: udp dport 3653 drop -> drop"
    why = (
        "by the policy drop_3653, which silently drops UDP and TCP port 3653 "
        "(rule 'udp dport 3653 drop' of chain forward; RFC 7123 section 3.7)"
    )
    assert text(story("dropped")) == [
        "UDP port 3653 from laptop to broker: 192.0.2.2:50001 > 203.0.113.2:3653",
        "",
        " 1  laptop (client, eth0): sent",
        f" 2  firewall (firewall, lan0): dropped {why}",
        f"      rule      {rule}",
        "",
        f"The packet was dropped at firewall {why}. laptop was told nothing.",
    ]


@pytest.mark.parametrize(
    ("name", "by", "answer"),
    [
        ("rejected_udp", "reject_3653", "ICMP communication administratively prohibited (type 3 code 13)"),
        ("rejected_tcp", "reject_3653", "a TCP reset"),
        ("rejected_proto41", "reject_proto41", "ICMP communication administratively prohibited (type 3 code 13)"),
    ],
)
def test_a_rejection_is_told_with_what_the_sender_heard(name: str, by: str, answer: str) -> None:
    told = story(name)
    assert fates(told) == [("laptop", "sent"), ("firewall", "rejected")]
    assert (told.fate, told.node, told.by) == (Fate.REJECTED, "firewall", by)
    assert told.verdict.endswith(f"laptop was told: {answer}, by firewall.")


def test_a_rejection_without_an_answer_says_so() -> None:
    seen = evidence("rejected_udp")
    silent = replace(seen, sightings=tuple(s for s in seen.sightings if seen.probe.is_in(s.packet)))
    told = tell_story(silent)
    assert told.fate is Fate.REJECTED
    assert "it should have said so but did not" in told.verdict
    assert told.answers == ()


def test_an_answer_that_gets_lost_is_told_as_lost() -> None:
    seen = evidence("rejected_udp")
    lossy = replace(seen, sightings=tuple(s for s in seen.sightings if s.node != "laptop" or s.outgoing))
    assert "but that did not reach laptop" in tell_story(lossy).verdict


def test_what_nobody_inside_asked_for_is_dropped_by_the_nat() -> None:
    told = story("unsolicited")
    assert fates(told) == [("broker", "sent"), ("internet", "forwarded"), ("nat", "dropped")]
    assert told.by == "nat_unsolicited"
    assert "no mapping belongs to that port" in told.verdict


def test_each_nat_on_the_way_is_told_with_its_mapping_and_flow() -> None:
    told = story("two_nats")
    assert [fate for _, fate in fates(told)] == ["sent", "translated", "translated", "forwarded", "delivered"]
    home, carrier = told.hops[1:3]
    assert home.by == "nat_port_kept"
    assert "source 192.168.0.2:50001 becomes 100.64.0.2:50001 (EIM mapping" in home.happened
    assert home.flow.startswith("192.168.0.2:50001 > 198.51.100.2:3653, answers 198.51.100.2:3653 > 100.64.0.2:50001")
    assert "source 100.64.0.2:50001 becomes 192.0.2.2:" in carrier.happened
    assert any("nat_record" in rule for rule in home.rules)
    assert not any("nat_record" in line for line in text(told))  # bookkeeping: in the data only


def test_a_clash_in_connection_tracking_is_told_with_the_flow_that_was_first() -> None:
    told = story("second_client")
    assert fates(told) == [("bob", "sent"), ("nat", "lost")]
    assert told.by == "connection tracking"
    assert "already belongs to 192.168.0.2 (192.168.0.2 > 198.51.100.2)" in told.verdict


def test_without_the_flows_a_clash_is_told_as_what_is_known_of_it() -> None:
    told = tell_story(replace(evidence("second_client"), flows={}))
    assert (told.fate, told.by) == (Fate.LOST, "")
    assert "no rule dropped it and nobody answered" in told.verdict


def test_routing_that_knows_no_way_is_told() -> None:
    told = story("no_route")
    assert fates(told) == [("broker", "sent"), ("internet", "rejected")]
    assert told.by == "routing"


def test_a_packet_that_lived_for_too_few_hops_is_told_with_who_said_so() -> None:
    told = story("no_hops")
    assert fates(told) == [("laptop", "sent"), ("firewall", "forwarded"), ("internet", "rejected")]
    assert told.by == "time to live"
    assert told.verdict == (
        "rejected at internet: it had no hops left to live. "
        "laptop was told: ICMP time exceeded (type 11 code 0), by internet."
    )


def test_a_packet_that_does_not_arrive_at_the_other_end_was_lost_on_the_wire() -> None:
    seen = evidence("passed")
    told = tell_story(replace(seen, sightings=tuple(s for s in seen.sightings if s.node in ("laptop", "firewall"))))
    assert told.fate is Fate.LOST
    assert told.verdict.startswith("lost on the wire: it left firewall by wan0 and did not arrive at the other end")


def test_a_packet_for_who_has_moved_away_is_told_as_that() -> None:
    seen = evidence("passed")
    boxes = tuple(replace(box, peers={}) if box.name == "internet" else box for box in seen.boxes)
    here = tuple(s for s in seen.sightings if s.node in ("laptop", "firewall"))
    told = tell_story(replace(seen, boxes=boxes, sightings=here))
    assert told.verdict.startswith(
        "lost on the wire: it left firewall by wan0 and internet is not plugged in there. laptop was told nothing."
    )


def test_a_packet_that_its_own_kernel_refuses_is_told_with_the_reason() -> None:
    seen = replace(evidence("passed"), sightings=(), traces={}, send_error="network is unreachable")
    told = tell_story(seen)
    assert fates(told) == [("laptop", "lost")]
    assert "its own kernel did not send it (network is unreachable)" in told.verdict


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_trace_is_read_without_counters_comments_and_the_switch_itself() -> None:
    steps = parse_trace(
        'trace id 9a lab inet lab_trace p packet: iif "lan0"\n'
        "trace id 9a inet lab_trace prerouting rule meta l4proto udp meta nftrace set 1 (verdict continue)\n"
        'trace id 9a inet t p packet: iif "lan0" ip saddr 192.0.2.2 ip daddr 198.51.100.2\n'
        'trace id 9a inet t p rule udp dport 3653 counter packets 3 bytes 99 drop comment "drop_3653" (verdict drop)\n'
        "trace id 9b inet t p unknown rule handle 7 (verdict continue)\n"
        "trace id 9b inet t p verdict continue \n"
        "trace id 9b inet t p policy accept \n"
        "trace id 9b inet t conntrack: ct direction original\n"
        "something else\n"
    )
    assert [(step.chain, step.rule, step.name, step.verdict, step.packet) for step in steps] == [
        ("inet t p", "udp dport 3653 drop", "drop_3653", "drop", "9a"),
        ("inet t p", "7", "", "continue", "9b"),
        ("inet t p", "", "", "accept", "9b"),
    ]


def test_flows_of_every_protocol_are_read() -> None:
    udp, tcp, tunnel, ping = parse_flows(
        "ipv4     2 udp      17 29 src=192.168.0.2 dst=198.51.100.2 sport=50001 dport=3653 [UNREPLIED] "
        "src=198.51.100.2 dst=192.0.2.2 sport=3653 dport=50001 mark=0 zone=0 use=2\n"
        "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 "
        "src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 [ASSURED] mark=0 use=1\n"
        "ipv4     2 unknown  41 599 src=192.168.0.2 dst=198.51.100.2 src=198.51.100.2 dst=192.0.2.2 mark=0 use=2\n"
        "ipv4     2 icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 "
        "src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=7\n"
        "not a flow\n"
        "ipv4     2 udp      17 29 src=nonsense dst=198.51.100.2 src=198.51.100.2 dst=192.0.2.2\n"
    )
    assert (udp.protocol, udp.timeout_s, udp.state, udp.translated) == (17, 29, "unreplied", True)
    assert str(udp.original) == "192.168.0.2:50001 > 198.51.100.2:3653"
    assert (tcp.state, tcp.translated) == ("ESTABLISHED assured", False)
    assert (tunnel.protocol, tunnel.original.sport, tunnel.translated) == (41, None, True)
    assert (ping.protocol, ping.original.sport, ping.translated) == (1, None, False)


@given(st.text())
def test_no_text_stops_the_reading(words: str) -> None:
    parse_trace(words)
    parse_flows(words)


@given(st.binary(max_size=120))
def test_no_packet_stops_the_reading(packet: bytes) -> None:
    parse_header(packet)
    probe("udp", 53).is_in(packet)
    probe("udp", 53).is_answered_by(packet)


# --- probes -----------------------------------------------------------------------------------------------------

SRC, DST = ip_address("192.168.0.2"), ip_address("198.51.100.2")
SRC6, DST6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")


def probe(kind: str, value: Any) -> Probe:
    return make_probe(Kind(**{kind: value}), "laptop", "broker", SRC, DST, b"bcdf", source_port=50_001)


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("udp", 3653, "UDP port 3653"),
        ("udp", 9, "UDP port 9"),
        ("tcp", 3653, "TCP port 3653"),
        ("tcp", 9, "TCP port 9"),
        ("proto", 41, "protocol 41"),
        ("proto", 47, "protocol 47"),
        ("icmp", True, "an echo request"),
    ],
)
def test_a_probe_is_what_was_asked_for_and_recognises_itself(kind: str, value: Any, what: str) -> None:
    made = probe(kind, value)
    assert made.what == what
    assert made.is_in(made.packet) == made.header
    assert (made.header.src, made.header.dst) == (SRC, DST)
    assert made.is_answered_by(made.packet) is None
    assert Probe.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_packet_of_every_mechanism_can_be_a_probe(name: str) -> None:
    six = MECHANISMS[name].version == 6
    ends = (SRC6, DST6) if six else (SRC, DST)
    made = make_probe(Kind(mechanism=name), "laptop", "broker", *ends, b"bcdf")
    assert made.what == MECHANISMS[name].title
    assert made.is_in(made.packet)
    start = 40 if six else 20
    (offset,) = [int(match.split("@th,")[1].split(",")[0]) for match in made.nft_matches()][:1]
    assert offset % 8 == 0
    assert made.packet[start + offset // 8 :].startswith(b"bcdf")


def test_an_icmp_error_that_quotes_a_probe_is_an_answer_and_not_the_probe() -> None:
    made = probe("udp", 53)
    error = packets.ipv4(ip_address("192.0.2.1"), SRC, 1, b"\3\15\0\0\0\0\0\0" + made.packet)  # type: ignore[arg-type]
    assert made.is_in(error) is None
    answer = made.is_answered_by(error)
    assert answer is not None
    assert answer.icmp == (3, 13)


def test_a_reset_answers_a_syn_and_no_other_reset_does() -> None:
    made = probe("tcp", 3653)
    sequence = int.from_bytes(b"bcdf", "big")

    def reset(acknowledgement: int) -> bytes:
        return packets.tcp(DST, SRC, 3653, 50_001, flags=0x14, acknowledgement=acknowledgement)  # type: ignore[type-var]

    assert made.is_answered_by(reset(sequence + 1))
    assert made.is_answered_by(reset(sequence)) is None
    assert made.is_answered_by(reset(sequence + 100_000)) is None


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, "exactly one"),
        ({"udp": 1, "icmp": True}, "exactly one"),
        ({"udp": 0}, "1 to 65535"),
        ({"tcp": 65_536}, "1 to 65535"),
        ({"proto": 256}, "0 to 255"),
        ({"udp": 9, "ttl": 256}, "1 to 255, not 256"),
        ({"mechanism": "6in5"}, "no mechanism '6in5'; choose from native_ipv6"),
    ],
)
def test_a_wish_without_sense_is_refused(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Kind(**wish)
