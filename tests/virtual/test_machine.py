"""What a run in the virtual kernel can reach, when it takes place, and what is known about it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

import pytest

from lab.engines import uml
from lab.errors import UsageError
from lab.replay import replay
from lab.results import ExplainRecord
from lab.run import run
from lab.wire import read_pcap

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(300)]

TOPOLOGIES: Final = Path(__file__).parent / "topologies"
LOCKED_IN: Final = TOPOLOGIES / "locked_in.py"
UNUSED_PREFIX: Final = TOPOLOGIES / "unused_prefix.py"


def test_nothing_gets_out_but_into_the_run_folder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # it can be reached from here
        forbidden = tmp_path / "forbidden"
        done = run(
            str(LOCKED_IN),
            on="virtual",
            seed=1,
            out=tmp_path / "run",
            parameters={"forbidden": str(forbidden), "allowed": "/run/lab/allowed", "port": port},
        )
    assert done.status == "ok", done.message
    assert not forbidden.exists()
    assert (tmp_path / "run" / "allowed").read_text() == "from inside"


def test_a_run_takes_place_when_it_is_told_to(tmp_path: Path) -> None:
    done = run("direct_6in4", on="virtual", seed=1, out=tmp_path / "run", start_time_s=1_000_000_000)
    assert done.status == "ok", done.message
    first, *_ = read_pcap(done.capture("laptop", "eth0"))
    assert 1_000_000_000 < first[0] < 1_000_000_060
    assert done.facts["kernel"]["start_time_s"] == 1_000_000_000


def test_multicast_is_routed_there_so_that_6over4_is_tried_like_every_other_mechanism(tmp_path: Path) -> None:
    done = run("rfc7123_filters", on="virtual", seed=1, out=tmp_path / "run", parameters={"policies": "drop"})
    assert done.status == "ok", done.message
    crossings = {record.policy: record for record in done.crossings("firewall")}
    assert "6over4" in crossings["allow"].passed
    assert crossings["drop_6over4"].dropped == ("6over4",)


def test_the_bursts_of_slow_start_get_through_a_tunnel_without_loss(tmp_path: Path) -> None:
    """From 10 segments on, doubled each round trip, 1 MB takes 7 of them and half of one; a loss costs more."""
    done = run("home_nat", on="virtual", seed=1, out=tmp_path / "run", parameters={"delay_ms": 20})
    assert done.status == "ok", done.message
    moved = done.transfer("laptop", "server")
    assert moved.size == 1_000_000
    assert moved.seconds == pytest.approx(7.5 * 0.04, abs=0.02)


def test_a_packet_to_an_unused_part_of_a_delegated_prefix_is_refused_by_the_client_and_does_not_go_back(
    tmp_path: Path,
) -> None:
    done = run(str(UNUSED_PREFIX), on="virtual", seed=1, out=tmp_path / "run")
    assert done.status == "ok", done.message
    assert {setup.data_plane for setup in done.tunnels("gateway")} == {"sit"}
    *_, removed, last = done.commands("gateway")
    assert removed.returncode == 0, removed.stderr
    assert "tsp0" not in last.stdout
    stories = [record for record in done.records if isinstance(record, ExplainRecord)]
    assert len(stories) == 2
    for story in stories:
        assert (story.ended_at, story.fate, story.by) == ("gateway", "rejected", "routing")
        heard = [(answer["node"], answer["text"]) for answer in story.answers if answer["reached_sender"]]
        assert heard == [("gateway", "ICMPv6 no route (type 1 code 0)")]
        carried = done.tables.packets.query("node == 'gateway' and label == 'protocol 41'")
        to_nobody = carried[carried["inner_dst"] == story.to]
        assert list(to_nobody["src"]) == [done.address("broker", "eth0")]


def test_what_no_sample_can_tell_of_a_link_is_on_record_as_asked_and_not_as_achieved(tmp_path: Path) -> None:
    done = run(str(TOPOLOGIES / "untold.py"), on="virtual", seed=1, out=tmp_path / "run")
    assert done.status == "ok", done.message
    table = done.tables.impairments
    asked = {(row.direction, row.quantity): row.requested for row in table.itertuples()}
    for near, far in (("a", "b"), ("b", "a")):
        assert asked.pop((f"{near} -> {far}", "delay_ms")) == 1.5
        assert asked.pop((f"{near} -> {far}", "reorder_pct")) == 1.0
    for near, far in (("b", "c"), ("c", "b")):
        assert asked.pop((f"{near} -> {far}", "delay_ms")) == 50.0
        assert asked.pop((f"{near} -> {far}", "loss_pct")) == 95.0
        assert asked.pop((f"{near} -> {far}", "rate_mbit")) == 1.0
    assert not asked
    told = table.dropna(subset="achieved")
    assert set(told["quantity"]) == {"loss_pct"}
    assert len(told) == 2


def test_every_trial_of_a_boot_is_complete(tmp_path: Path) -> None:
    done = run("direct_6in4", on="virtual", seed=1, out=tmp_path / "run", trials=3)
    assert done.status == "ok", done.message
    assert len(done.trials) == 3
    for trial in done.trials:
        assert trial.tunnel("laptop").type == "v6v4"
        assert trial.wire("laptop", "eth0")["protocol 41"] >= 6


def test_the_same_kernel_keeps_to_real_time_when_asked_and_is_then_not_repeated(tmp_path: Path) -> None:
    done = run("direct_6in4", on="virtual", seed=1, out=tmp_path / "run", real_time=True)
    assert done.status == "ok", done.message
    assert "digest" not in done.facts
    with pytest.raises(UsageError, match="kept to real time"):
        replay(done.path)


def test_a_run_says_what_its_digest_depends_on(tmp_path: Path) -> None:
    done = run("direct_6in4", on="virtual", seed=7, out=tmp_path / "run")
    kernel = uml.require()
    depends_on = json.loads((done.path / "run.json").read_text())["digest"]["depends_on"]
    assert depends_on["kernel"] == kernel.sha256 == done.facts["kernel"]["sha256"]
    assert depends_on["seed"] == 7
    assert depends_on["packages"].keys() == {"defusedxml"}
    assert {
        "topology",
        "lab",
        "python",
        "python_path",
        "library_path",
        "lab_path",
        "parameters",
        "start_time_s",
    } <= depends_on.keys()
