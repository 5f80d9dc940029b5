"""A run as tables: what is in them, and that an empty one has its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.html import inline_svg
from lab.measure import setup_rows
from lab.run import Run
from lab.topology import catalog
from lab.topology.planner import make_plan
from tests.unit.ladders import Recorder, home, signalling

SETUP = {
    "kind": "setup", "node": "laptop", "at_s": 0.1, "broker": "broker", "outcome": "ready", "transport": "udp",
    "requested": "v6anyv4", "type": "v6udpv4", "mechanism": "PLAIN", "total_s": 0.05, "round_trips": 4,
    "phases_s": {"version": 0.01, "auth": 0.02, "create": 0.01, "accept": 0.01, "first_packet": 0.01},
}  # fmt: skip
FAILED = {**SETUP, "at_s": 2.0, "outcome": "timeout", "total_s": 9.0, "phases_s": {"version": 9.0}}
PING = {
    "kind": "ping", "node": "laptop", "at_s": 0.2, "to": "server", "address": "2001:db8::1", "size": 104, "sent": 3,
    "received": 2, "rtts_s": [0.02, 0.04],
}  # fmt: skip
PING4 = {**PING, "at_s": 0.0, "to": "broker", "address": "192.0.2.1", "rtts_s": [0.01, 0.01, 0.03]}


def trial(*records: Any, **changes: Any) -> dict[str, Any]:
    link = {"link": "a - b", "direction": "a -> b", "requested": {"delay_ms": 20.0}, "achieved": {"delay_ms": 20.01}}
    return {
        "status": "ok", "records": list(records), "impairments": [link], "captures": [], "build_s": 0.1,
        "scenario_s": 3.0, "counters": {"nat": {"nat_outbound": 4, "nat_unsolicited": 2}, "broker": {"sessions": 1}},
        **changes,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    plan = make_plan(catalog.build_network(catalog.load("home_nat"), {}))
    error = {"type": "LabError", "message": "no tunnel"}
    facts = {
        "topology": "home_nat", "title": "A <laptop>.", "status": "ok", "message": "", "engine": "virtual",
        "kernel": {}, "seed": 3, "parameters": {"delay_ms": 20, "transport": "udp"}, "nodes": plan.to_json()["nodes"],
        "trials": [trial(PING4, SETUP, PING, FAILED), trial(SETUP, status="error", error=error)],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "plan.json").write_text(plan.dumps())
    return Run.load(tmp_path)


def test_every_trial_has_a_row_with_what_became_of_it(run: Run) -> None:
    table = run.tables.trials
    assert list(table["status"]) == ["ok", "error"]
    assert list(table["reason"]) == ["", "no tunnel"]
    assert list(table["delay_ms"]) == [20, 20]
    assert not table["noisy"].any()


def test_every_attempt_has_a_row_and_no_time_without_a_tunnel(run: Run) -> None:
    table = run.tables.setups
    assert list(table["attempt"]) == [1, 2, 1]
    assert list(table["setup_s"].fillna(-1)) == [0.05, -1, 0.05]
    assert list(table["total_s"]) == [0.05, 9.0, 0.05]
    assert list(table["pings_received"]) == [2, 0, 0]
    assert list(table["tunnel_rtt_s"].fillna(-1)) == [0.03, -1, -1]
    assert list(table["rtt_s"].fillna(-1)) == [0.01, 0.01, -1]


def test_a_measured_column_makes_way_for_a_parameter_of_its_name(run: Run) -> None:
    assert {"transport", "transport_measured"} <= set(run.tables.setups.columns)


def test_phases_are_in_their_order_and_those_not_reached_are_absent(run: Run) -> None:
    table = run.tables.phases
    assert list(table["phase"])[:6] == ["version", "auth", "create", "accept", "first_packet", "version"]
    assert table["phase"].cat.ordered
    assert len(table) == 11


def test_what_stopped_packets_is_told_apart_from_what_let_them_pass(run: Run) -> None:
    drops = run.tables.drops[["trial", "node", "rule", "verdict", "packets"]].to_numpy().tolist()
    assert drops == [[0, "nat", "nat_unsolicited", "drop", 2], [1, "nat", "nat_unsolicited", "drop", 2]]


def test_what_links_were_asked_for_stands_beside_what_they_do(run: Run) -> None:
    first = run.tables.impairments.iloc[0]
    assert (first["quantity"], first["requested"], first["achieved"]) == ("delay_ms", 20.0, 20.01)


FAR = {**SETUP, "at_s": 50.0, "client_ipv6": "2001:db8:f000:1::1", "seen_by_broker": "192.0.2.9"}
MOVE = {"kind": "move", "node": "laptop", "at_s": 20.0, "place": "cafe", "iface": "eth1", "address": "192.168.1.2"}
OUTSIDE = {
    "kind": "ping", "node": "server", "at_s": 10.0, "to": "laptop", "address": "2001:db8:f000:1::1", "size": 104,
    "sent": 4, "received": 2, "rtts_s": [0.02, 0.04], "sent_s": [0.0, 5.0, 25.0, 50.0], "lost": [1, 2],
}  # fmt: skip


def moving(path: Path) -> Run:
    """A laptop that sets up, is pinged, moves to a cafe and sets up again."""
    first = {**FAR, "at_s": 1.0, "seen_by_broker": "192.0.2.8", "keepalive_interval_s": 30}
    facts = json.loads((path / "run.json").read_text())
    facts["trials"] = [trial(first, OUTSIDE, MOVE, FAR, scenario_s=80.0), trial(first, MOVE, scenario_s=40.0)]
    (path / "run.json").write_text(json.dumps(facts))
    return Run.load(path)


def test_every_echo_request_has_a_row_with_its_own_time_and_answer(run: Run) -> None:
    table = moving(run.path).tables.echoes
    assert list(table["at_s"]) == [10.0, 15.0, 35.0, 60.0]
    assert list(table["answered"]) == [True, False, False, True]
    assert list(table["rtt_s"].fillna(-1)) == [0.02, -1, -1, 0.04]
    assert run.tables.echoes.empty  # its records are of an older lab


def test_a_moving_client_has_addresses_by_place_and_by_tunnel(run: Run) -> None:
    table = moving(run.path).tables.addresses
    spans = {
        (row.trial, row.what, row.address, row.event): (row.from_s, row.until_s)
        for row in table.itertuples(index=False)
    }
    assert spans == {
        (0, "IPv4", "192.168.0.2", "at nat"): (0.0, 20.0),
        (0, "IPv4", "192.168.1.2", "at cafe"): (20.0, 80.0),
        (0, "IPv4 at the broker", "192.0.2.8", "tunnel 1"): (1.05, 20.0),
        (0, "IPv6", "2001:db8:f000:1::1", "tunnel 1"): (1.05, 20.0),
        (0, "IPv4 at the broker", "192.0.2.9", "tunnel 2"): (50.05, 80.0),
        (0, "IPv6", "2001:db8:f000:1::1", "tunnel 2"): (50.05, 80.0),
        (1, "IPv4", "192.168.0.2", "at nat"): (0.0, 20.0),
        (1, "IPv4", "192.168.1.2", "at cafe"): (20.0, 40.0),
        (1, "IPv4 at the broker", "192.0.2.8", "tunnel 1"): (1.05, 20.0),
        (1, "IPv6", "2001:db8:f000:1::1", "tunnel 1"): (1.05, 20.0),
    }
    assert set(table["family"][table["what"] == "IPv6"]) == {6}


def test_a_tunnel_lives_until_the_last_answer_before_the_first_silence(run: Run) -> None:
    table = moving(run.path).tables.lifetimes
    assert list(table["attempt"]) == [1, 2]  # of the second trial nobody asked
    assert list(table["keepalive_s"].fillna(-1)) == [30, -1]
    assert list(table["alive_s"]) == pytest.approx([10 - 1.05, 60 - 50.05])
    assert list(table["ended"]) == [True, False]


def test_a_run_draws_its_own_timeline(run: Run) -> None:
    from matplotlib import pyplot as plt

    from lab import plots

    view = moving(run.path).trials[0]
    ax = plots.timeline(view, plt.figure().add_subplot())
    written = {text.get_text() for text in ax.texts}
    assert {"192.168.1.2\nat cafe", "2001:db8:f000:1::1\ntunnel 2"} <= written
    legend = ax.get_legend()
    assert legend is not None
    told = [text.get_text() for text in legend.get_texts()]
    assert told == ["2 answered (above)", "2 not answered (below)"]
    assert sum(len(bar.patches) for bar in ax.containers if hasattr(bar, "patches")) == 6
    plt.close("all")


@pytest.mark.parametrize("name", ["packets", "mappings", "transfers", "captures", "moves", "echoes"])
def test_a_table_of_nothing_has_its_columns(run: Run, name: str) -> None:
    table = getattr(run.tables, name)
    assert len(table) == 0
    assert {"trial", "node"} <= set(table.columns)


def test_packets_and_mappings_are_timed_from_when_the_network_was_up(tmp_path: Path) -> None:
    wire = Recorder(home())
    there = ["laptop", "nat", "internet", "broker"]
    wire.send(2500.0, there, signalling(240, b"VERSION=2.0.0\r\n"), nat={"nat": ("192.0.2.2", 50_000)})
    tables = wire.run(tmp_path, []).tables
    assert tables.packets["time_s"].min() == pytest.approx(2.5, abs=1e-6)
    assert tables.mappings["first_s"].iloc[0] == pytest.approx(2.5, abs=1e-4)


def test_a_run_is_printed_in_a_line(run: Run) -> None:
    assert repr(run) == f"<Run of home_nat: ok, 2 trials, in {run.path}>"


def test_a_notebook_shows_drawing_verdict_and_outcome(run: Run) -> None:
    html = run._repr_html_()
    assert html.count("<svg") == html.count("</svg>") == 1
    assert "<?xml" not in html
    assert "A &lt;laptop&gt;." in html
    assert "v6udpv4 over udp in 50.0 ms" in html
    assert "seed 3" in html


def test_two_drawings_on_a_page_share_no_id() -> None:
    svg = '<?xml version="1.0"?><svg><g id="a"><use href="#a" fill="url(#b)"/></g></svg>'
    one, two = (inline_svg(svg, prefix=prefix) for prefix in ("x", "y z"))
    assert 'id="x-a"' in one
    assert 'href="#x-a"' in one
    assert "url(#y-z-b)" in two


def test_setup_rows_tell_one_trial(run: Run) -> None:
    assert [row["outcome"] for row in setup_rows(run.trials[0])] == ["ready", "timeout"]
