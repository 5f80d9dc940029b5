"""A report is one HTML file that holds everything, and nothing of a run can break out of it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from lab.errors import UsageError
from lab.report import content, to_html, write
from lab.run import Run
from tests.unit.ladders import Recorder, filtered, home, setup, signalling
from tests.unit.test_ladder import behind_a_nat, blocked
from tests.unit.test_tables import moving

VOID: Final = {"meta", "link", "br", "hr", "img", "input"}
EMPTY_IN_SVG: Final = {"path", "rect", "use", "image"}


class Outline(HTMLParser):
    """Collects elements and what they load, and complains of an end tag that ends nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action") and value is not None:
                self.loads.append(value)
            if name == "id" and value is not None:
                self.ids.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def test_a_report_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    page = Outline(to_html(behind_a_nat(tmp_path)))
    assert page.open == []
    assert {"topology", "what-happened", "network", "again", "node-nat"} <= set(page.ids)
    assert all(link.startswith(("#", "data:")) for link in page.loads)


def test_a_report_tells_set_up_ladder_phases_tables_and_how_to_run_again(tmp_path: Path) -> None:
    html = to_html(behind_a_nat(tmp_path))
    text = " ".join(Outline(html).text)
    assert "laptop    tunnel    v6anyv4 asked: v6udpv4 over udp in 4.0 ms" in text
    for part in ("v6udpv4 over udp in 4.0 ms", "version 2.000 ms", "#240 VERSION=2.0.0", "Set-ups", "Nodes"):
        assert part in text
    assert "scripts/lab run home --on host --seed 1" in text
    assert html.count('class="message"') == 4


def test_policies_and_the_packets_they_stopped_are_told(tmp_path: Path) -> None:
    text = " ".join(Outline(to_html(blocked(tmp_path))).text)
    assert re.search(r"firewall\s+from the start\s+drop_3653", text)
    assert re.search(r"firewall\s+drop_3653\s+3\b", text)
    assert "drop_proto41" not in text


def test_what_a_run_says_is_text_and_no_markup(tmp_path: Path) -> None:
    wire = Recorder(filtered())
    wire.send(0.0, ["laptop", "firewall"], signalling(240, b"VERSION=<script>alert(1)</script>\r\n"))
    hostile = '"><script>alert(2)</script><img src=x onerror=alert(3)>'
    run = wire.run(tmp_path, [setup(outcome="refused", reason=hostile, phases_s={hostile: 0.001})])
    html = to_html(Run(run.path, {**run.facts, "title": hostile, "message": hostile, "status": "check failed"}))
    assert html.count("<script") == 1
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_run_without_set_ups_or_captures_has_a_report_too(tmp_path: Path) -> None:
    run = Recorder(filtered()).run(tmp_path, [setup()])
    assert "no packets were captured" in to_html(run)
    assert "What happened" in to_html(Recorder(filtered()).run(tmp_path, []))


def test_only_so_many_ladders_are_drawn_and_the_rest_is_said(tmp_path: Path) -> None:
    wire = Recorder(filtered())
    for number in range(15):
        wire.send(number * 10.0, ["laptop", "firewall"], signalling(240, b"VERSION=2.0.0\r\n"))
    html = to_html(wire.run(tmp_path, [setup(at_s=number * 0.01, total_s=0.001) for number in range(15)]))
    assert html.count('class="viewer"') == 12
    assert "3 ladders are left out" in html


def test_the_addresses_of_a_client_that_moves_are_drawn_for_every_trial(tmp_path: Path) -> None:
    Recorder(home()).run(tmp_path, [])
    html = to_html(moving(tmp_path))
    drawn = re.findall(r'<section class="plot">.*?</section>', html, re.DOTALL)
    assert len(drawn) == 2
    for told in ("192.168.1.2", "at cafe", "2001:db8:f000:1::1", "tunnel 2", "2 not answered (below)"):
        assert told in " ".join(Outline(drawn[0]).text)
    page = Outline(html)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.loads if link.startswith("#")} <= set(page.ids)
    assert "Addresses" not in to_html(behind_a_nat(tmp_path))


def test_a_hatch_is_of_another_colour_than_what_it_is_on(tmp_path: Path) -> None:
    """Who prints in black and white tells bars by it; in SVG, other than in PNG, both are made transparent together."""
    Recorder(home()).run(tmp_path, [])
    patterns = re.findall(r"<pattern .*?</pattern>", to_html(moving(tmp_path)), re.DOTALL)
    assert patterns
    for pattern in patterns:
        ground, stroke = re.findall(r'(?:fill="|stroke: )(#\w{6})', pattern)[:2]
        assert ground != stroke


def test_only_so_many_pictures_of_addresses_are_drawn_and_the_rest_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "MOST_TIMELINES", 1)
    Recorder(home()).run(tmp_path, [])
    html = to_html(moving(tmp_path))
    assert html.count('<section class="plot">') == 1
    assert "Addresses are drawn for 1 trials" in html


def test_where_a_report_cannot_be_written_is_said(tmp_path: Path) -> None:
    run = behind_a_nat(tmp_path)
    assert write(run) == tmp_path / "report.html"
    with pytest.raises(UsageError, match="No such file"):
        write(run, tmp_path / "nowhere" / "report.html")
