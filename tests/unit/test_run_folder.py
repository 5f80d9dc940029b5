"""A run folder is read back, and its accessors say what is missing instead of failing in the dark."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.errors import UsageError
from lab.results import PingRecord, SetupRecord
from lab.run import Run, _check, _run_folder


def facts(**changes: Any) -> dict[str, Any]:
    """run.json of a run with one trial."""
    setup = {
        "kind": "setup", "node": "laptop", "at_s": 0.1, "broker": "broker", "outcome": "ready", "transport": "udp",
        "requested": "v6anyv4", "type": "v6udpv4", "phases_s": {"version": 0.001}, "invented_later": 1,
    }  # fmt: skip
    ping = {
        "kind": "ping", "node": "laptop", "at_s": 0.2, "to": "server", "address": "2001:db8::1", "size": 104,
        "sent": 3, "received": 2, "rtts_s": [0.02, 0.03],
    }  # fmt: skip
    return {
        "topology": "home_nat",
        "title": "A laptop behind a home NAT.",
        "status": "ok",
        "parameters": {"delay_ms": 20},
        "nodes": [
            {"name": "laptop", "interfaces": [{"name": "eth0", "ipv4": "192.168.0.2/24", "ipv6": None}]},
            {"name": "server", "interfaces": [{"name": "eth0", "ipv4": None, "ipv6": "2001:db8::1/64"}]},
        ],
        "trials": [{"records": [setup, ping], "counters": {"nat": {"masquerade": 4}}, "captures": []}],
        **changes,
    }


def saved(folder: Path, value: dict[str, Any]) -> Run:
    (folder / "run.json").write_text(json.dumps(value))
    return Run.load(folder)


def test_records_come_back_with_their_types(tmp_path: Path) -> None:
    run = saved(tmp_path, facts())
    tunnel = run.tunnel("laptop")
    assert isinstance(tunnel, SetupRecord)
    assert (tunnel.type, tunnel.phases_s["version"], tunnel.code) == ("v6udpv4", 0.001, None)
    ping = run.ping("laptop", "server")
    assert isinstance(ping, PingRecord)
    assert (ping.received, ping.rtts_s) == (2, (0.02, 0.03))
    assert run.address("laptop", "eth0") == "192.168.0.2"
    assert run.address("server", "eth0") == "2001:db8::1"
    assert run.status == "ok"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (lambda run: run.tunnel("server"), "server tried no tunnel"),
        (lambda run: run.tunnels("laptpo"), "no node 'laptpo'.*laptop, server"),
        (lambda run: run.ping("laptop", "moon"), "laptop did not ping moon"),
        (lambda run: run.transfer("laptop", "server"), "transferred nothing"),
        (lambda run: run.capture("laptop", "eth0"), "no capture of laptop eth0; there are: none"),
        (lambda run: run.address("laptop", "eth1"), "no interface 'eth1'"),
    ],
)
def test_a_question_the_run_cannot_answer_says_why(tmp_path: Path, question: Any, answer: str) -> None:
    run = saved(tmp_path, facts())
    with pytest.raises(UsageError, match=answer):
        question(run)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json"):
        Run.load(tmp_path)


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        Run.load(tmp_path)


def test_trials_are_views_of_one_run(tmp_path: Path) -> None:
    two = facts()
    two["trials"].append({**two["trials"][0], "records": []})
    first, second = saved(tmp_path, two).trials
    assert len(first.records) == 2
    assert second.records == []


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, '{"status": "ok"}', "\ud800"])
def test_a_file_that_is_no_record_of_a_run_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError):
        Run.load(tmp_path)


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="no run folder"):
        Run.load(tmp_path / "file")


@pytest.mark.parametrize("out", ["file", "full", "x" * 300, "file/below"])
def test_a_folder_that_a_run_cannot_have_is_refused_in_a_sentence(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(UsageError, match="--out"):
        _run_folder("home_nat", tmp_path / out)


def test_a_check_that_wants_to_end_the_program_is_a_failed_check() -> None:
    def check(run: Run) -> None:
        raise SystemExit(9)

    told = facts()
    _check(SimpleNamespace(check=check, path=Path(__file__)), Run(Path("run"), told), told)
    assert told["status"] == "check failed"
    assert told["message"].endswith("SystemExit: 9")
