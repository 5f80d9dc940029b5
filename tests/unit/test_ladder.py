"""The ladder: packets found again in every capture, what became of them, and a picture in which nothing overlaps."""

from __future__ import annotations

import base64
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab.errors import UsageError
from lab.ladder.figure import figure
from lab.ladder.model import Ladder, Message, ladder
from lab.ladder.words import in_full, in_one_line
from lab.run import Run
from tests.unit.ladders import INNER, Recorder, filtered, home, setup, signalling

THERE = ["laptop", "nat", "internet", "broker"]
BACK = THERE[::-1]
OUTSIDE: dict[str, tuple[str, int] | None] = {"nat": ("192.0.2.2", 50_000)}


def behind_a_nat(folder: Path) -> Run:
    """VERSION and its answer, an echo through the tunnel to the server and one to the broker itself that is lost."""
    wire = Recorder(home())
    wire.send(0.1, THERE, signalling(240, b"VERSION=2.0.0\r\n"), nat=OUTSIDE)
    wire.send(1.0, BACK, signalling(240, b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS\r\n"), nat=OUTSIDE, back=True)
    wire.send(4.5, THERE, INNER, nat=OUTSIDE)
    wire.send(5.0, ["laptop", "nat", "internet"], signalling(241, b""), nat=OUTSIDE, lost=True)
    return wire.run(folder, [setup()])


def told(run: Run, attempt: int | None = None) -> Ladder:
    return ladder(run, None, attempt)


def by_label(found: Ladder, part: str) -> Message:
    return next(message for message in found.messages if part in message.label)


def test_a_packet_is_one_message_from_end_to_end_although_a_nat_rewrites_it(tmp_path: Path) -> None:
    found = told(behind_a_nat(tmp_path))
    message = by_label(found, "VERSION")
    assert [(hop.a, hop.b) for hop in message.hops] == [("laptop", "nat"), ("nat", "internet"), ("internet", "broker")]
    assert [hop.rewritten for hop in message.hops] == ["", "from 192.0.2.2:50000", ""]
    assert message.dropped == ""
    assert len(found.messages) == 4


def test_the_answer_is_written_back_to_the_inside_address(tmp_path: Path) -> None:
    message = by_label(told(behind_a_nat(tmp_path)), "CAPABILITY")
    assert message.label == "#240 CAPABILITY v6udpv4 ANONYMOUS"
    assert [hop.rewritten for hop in message.hops] == ["", "", "to 192.168.0.2:40000"]


def test_a_packet_that_left_and_never_arrived_is_lost_on_the_link(tmp_path: Path) -> None:
    message = by_label(told(behind_a_nat(tmp_path)), "#241")
    assert message.dropped == "lost between nat and internet"
    assert message.hops[-1].arrived_ns is None


def test_a_tunnelled_packet_is_told_by_what_it_carries(tmp_path: Path) -> None:
    message = by_label(told(behind_a_nat(tmp_path)), "in UDP")
    assert message.label == "ICMPv6 echo request 7 in UDP"
    assert all(hop.tunnelled for hop in message.hops)
    assert "2001:db8:f000::1 to 2001:db8:0:1::2" in message.detail


def test_columns_follow_the_path_and_leave_out_who_saw_nothing(tmp_path: Path) -> None:
    assert [column.name for column in told(behind_a_nat(tmp_path)).columns] == THERE


def test_phases_stand_where_the_client_says(tmp_path: Path) -> None:
    found = told(behind_a_nat(tmp_path))
    spans = [(band.name, band.began_ns - found.began_ns, band.ended_ns - found.began_ns) for band in found.bands]
    ms = 1_000_000
    assert spans == [("version", 0, 2 * ms), ("create", 2 * ms, 4 * ms), ("first packet", 4 * ms, 6 * ms)]


def blocked(folder: Path, policy: str = "drop_3653") -> Run:
    """Three transmissions of VERSION that end at the firewall."""
    wire = Recorder(filtered(policy))
    for number, at_ms in enumerate((0.0, 1000.0, 3000.0)):
        wire.send(at_ms, ["laptop", "firewall"], signalling(240, b"VERSION=2.0.0\r\n", number))
    failed = setup(outcome="timeout", phases_s={}, total_s=7.0, type=None, client_ipv6=None, server_ipv6=None)
    return wire.run(folder, [failed], {"firewall": {policy: 3, "drop_proto41": 0, "allow": 2}})


def test_a_dropped_packet_ends_at_the_firewall_with_the_name_of_the_rule(tmp_path: Path) -> None:
    found = told(blocked(tmp_path))
    assert {message.dropped for message in found.messages} == {"dropped by firewall: drop_3653"}
    assert [message.transmission for message in found.messages] == [1, 2, 3]
    assert [band.name for band in found.bands] == ["version (open)"]


def test_a_packet_refused_is_not_called_dropped(tmp_path: Path) -> None:
    found = told(blocked(tmp_path, "reject_3653"))
    assert {message.dropped for message in found.messages} == {"rejected by firewall: reject_3653"}


def test_equal_packets_are_kept_apart_by_their_order(tmp_path: Path) -> None:
    wire = Recorder(home())
    for at_ms in (0.1, 1.1):
        wire.identification = 7  # a sender that gives every packet the same identification
        wire.send(at_ms, THERE, signalling(240, b"VERSION=2.0.0\r\n"), nat=OUTSIDE, hop_ms=0.5)
    found = told(wire.run(tmp_path, [setup()]))
    assert [len(message.hops) for message in found.messages] == [3, 3]
    assert [message.transmission for message in found.messages] == [1, 2]


@pytest.mark.parametrize("make", [behind_a_nat, blocked], ids=["nat", "firewall"])
def test_no_texts_of_the_picture_overlap(tmp_path: Path, make: object) -> None:
    assert callable(make)
    made = figure(told(make(tmp_path)))
    made.draw_without_rendering()
    axes = made.axes[0]
    boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts if text.get_text()]
    assert len(boxes) > 10
    clashes = [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.padded(-1).overlaps(other.padded(-1))]
    assert clashes == []
    page = made.bbox
    outside = [text for text, box in boxes if not (page.x0 <= box.x0 and box.x1 <= page.x1)]
    assert outside == []


def test_the_svg_tells_of_every_message_and_needs_nothing_else(tmp_path: Path) -> None:
    run = behind_a_nat(tmp_path)
    svg = run.ladder().svg()
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    groups = [group for group in root.iter(f"{space}g") if group.get("class") == "message"]
    assert len(groups) == len(told(run).messages)
    titles = [group.findtext(f"{space}title") or "" for group in groups]
    assert "VERSION=2.0.0" in titles[0]
    assert "through nat: 192.0.2.2:50000 to" in titles[0]
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_a_picture_goes_into_a_file_of_each_kind(tmp_path: Path) -> None:
    picture = behind_a_nat(tmp_path).ladder()
    starts = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    for suffix, start in starts.items():
        assert picture.save(tmp_path / f"ladder{suffix}").read_bytes().startswith(start)
    with pytest.raises(UsageError, match="svg"):
        picture.save(tmp_path / "ladder.gif")


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    run = behind_a_nat(tmp_path)
    with pytest.raises(UsageError, match="1 attempts, numbered from 0"):
        run.ladder("laptop", 1)
    with pytest.raises(UsageError, match="server tried no tunnel"):
        run.ladder("server")


def test_credentials_are_masked() -> None:
    plain = base64.b64encode(b"\0ann\0secret") + b"\r\n"
    assert in_one_line(plain) == "credentials of ann (masked)"
    digest = base64.b64encode(b'username="ann",realm="lab",nonce="abc",cnonce="def",response=0123')
    for text in (in_full(plain), in_full(digest), in_one_line(digest)):
        assert not any(secret in text for secret in ("secret", "abc", "def", "0123"))
        assert "ann" in text
    unknown = base64.b64encode(b"ticket")
    assert "dGlja2V0" not in in_full(unknown) + in_one_line(unknown)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "(empty: go on)"),
        (b"AUTHENTICATE PLAIN\r\n", "AUTHENTICATE PLAIN"),
        (b"200 Success\r\n", "200 Success"),
        (b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n', "accept"),
        (b"Content-length: 18\r\n303 Not over TCP\r\n", "303 Not over TCP"),
        (
            b'Content-length: 119\r\n<tunnel action="create" type="v6anyv4"><client>'
            b'<address type="ipv4">192.0.2.9</address></client></tunnel>            \r\n',
            "create v6anyv4 for 192.0.2.9",
        ),
    ],
)
def test_messages_are_said_in_few_words(body: bytes, words: str) -> None:
    assert in_one_line(body) == words
