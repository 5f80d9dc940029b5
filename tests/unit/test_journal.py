"""What a run had found when it was cut short is kept."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from lab import journal
from lab.journal import Journal


def test_a_trial_that_did_not_end_keeps_its_records(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as writing:
        writing.facts(0, {"impairments": [{"link": "a"}]})
        writing.record(0, {"kind": "ping", "node": "laptop"})
        writing.facts(0, {"status": "ok", "seconds": 1.5})
        writing.record(1, {"kind": "ping", "node": "tablet"})
        first, second = journal.read(tmp_path)  # before it is closed: every line is in the file at once
    assert first["status"] == "ok"
    assert first["seconds"] == 1.5
    assert first["impairments"] == [{"link": "a"}]
    assert second["status"] == "interrupted"
    assert [record["node"] for record in second["records"]] == ["tablet"]
    assert second["captures"] == []


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as writing:
        writing.record(0, {"kind": "ping"})
        writing.record(0, {"kind": "setup"})
    file = tmp_path / journal.FILE
    file.write_bytes(file.read_bytes()[:-10])
    assert [record["kind"] for record in journal.read(tmp_path)[0]["records"]] == ["ping"]


def test_a_folder_without_a_journal_has_no_trials(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == []
