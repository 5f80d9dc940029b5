"""What clients experienced of policies is told as one table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.results import ExperienceRecord, PolicyRecord
from lab.run import Run
from lab.summary import summarise

SEEN = [
    ExperienceRecord("ann", 1.0, "drop_3653", "before", "udp", "v6udpv4", "timeout", 7.0021, "no answer"),
    ExperienceRecord("bob", 9.0, "drop_3653", "after", "udp", "v6v4", "works", None, ""),
]


def folder(tmp_path: Path) -> Run:
    """A run folder with these records and a change of policy."""
    records: list[dict[str, Any]] = [{"kind": "policy", **asdict(PolicyRecord("firewall", 0.0, "drop_3653"))}]
    records += [{"kind": "experience", **asdict(record)} for record in SEEN]
    facts = {
        "topology": "policy_matrix",
        "title": "A lesson",
        "status": "ok",
        "message": "",
        "parameters": {},
        "nodes": [{"name": "firewall", "interfaces": []}],
        "trials": [{"records": records, "counters": {}, "captures": []}],
    }
    (tmp_path / "run.json").write_text(json.dumps(facts))
    return Run.load(tmp_path)


def test_experiences_survive_being_written_and_read(tmp_path: Path) -> None:
    assert folder(tmp_path).experiences() == SEEN


def test_the_table_has_a_line_for_each_and_the_steps_that_led_there_have_none(tmp_path: Path) -> None:
    told = summarise(folder(tmp_path))
    assert told[1:4] == [
        "  policy     was there      over  tunnel   outcome  known after  the user is told",
        "  drop_3653  before tunnel  udp   v6udpv4  timeout  7.002 s      no answer",
        "  drop_3653  after tunnel   udp   v6v4     works",
    ]
    assert not any(line.startswith("  firewall") for line in told)
