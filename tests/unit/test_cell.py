"""One cell of a sweep: every trial is a row, however it ended, and what concerns all cells is raised."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.cell import CellJob, WorkerMismatch, run_cell
from lab.engines import bundle
from lab.errors import MissingFeature, RunFailed
from lab.run import Run
from lab.topology import catalog

SETUP = {
    "kind": "setup", "node": "laptop", "at_s": 0.1, "broker": "broker", "outcome": "ready", "transport": "udp",
    "requested": "v6anyv4", "type": "v6udpv4", "total_s": 0.05, "phases_s": {},
}  # fmt: skip


def job(**changes: Any) -> CellJob:
    path = catalog.load("home_nat").path
    options: dict[str, Any] = {
        "key": "c", "parameters": {"delay_ms": 5.0, "transport": "udp"}, "seed": 7, "trials": 3, "topology": str(path),
        "source": path.read_bytes(), "lab": bundle.source_hash(),
    }  # fmt: skip
    return CellJob(**{**options, **changes})


def in_place_of_run(
    monkeypatch: pytest.MonkeyPatch, trials: list[dict[str, Any]], error: Exception | None = None
) -> None:
    """Put a run that leaves these trials, and ends with this error, in the place of the real one."""

    def run(name: str, *, out: Path, parameters: dict[str, Any], **options: Any) -> Run:
        facts = {
            "topology": Path(name).stem, "status": "ok", "engine": "virtual", "kernel": {}, "seed": options["seed"],
            "parameters": parameters, "nodes": [{"name": "laptop", "kind": "client", "interfaces": []}],
            "trials": trials,
        }  # fmt: skip
        out.mkdir()
        (out / "run.json").write_text(json.dumps(facts))
        if error is not None:
            raise error
        return Run.load(out)

    monkeypatch.setattr(sys.modules["lab.cell"], "run", run)


def test_every_trial_is_a_row_with_what_became_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"status": "error", "error": {"message": "no answer"}, "records": []}
    in_place_of_run(monkeypatch, [{"status": "ok", "records": [SETUP]}, failed, {"status": "ok", "records": []}])
    rows = run_cell(job())
    assert [(row["trial"], row["status"], row["reason"]) for row in rows] == [
        (0, "ok", ""), (1, "error", "no answer"), (2, "ok", ""),
    ]  # fmt: skip
    assert (rows[0]["setup_s"], rows[0]["transport"], rows[0]["transport_measured"]) == (0.05, "udp", "udp")
    assert {row["seed"] for row in rows} == {7}
    assert not any(row["noisy"] for row in rows)


def test_a_run_that_breaks_down_keeps_the_trials_before(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"status": "interrupted", "records": [SETUP]}
    error = RunFailed("the guest ran out of memory", folder="x")
    in_place_of_run(monkeypatch, [{"status": "ok", "records": [SETUP]}, broken], error)
    rows = run_cell(job())
    assert [row["status"] for row in rows] == ["ok", "error", "error"]
    assert [row["reason"] for row in rows] == ["", *["the guest ran out of memory"] * 2]


def test_a_measure_that_raises_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_run(monkeypatch, [{"status": "ok", "records": []}])
    rows = run_cell(job(trials=1, measure=lambda trial: {"rtt_s": trial.ping("laptop", "moon").rtts_s[0]}))
    assert rows[0]["status"] == "error"
    assert rows[0]["reason"] == "measure: UsageError: laptop did not ping moon in this run"


def test_a_measure_may_give_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_run(monkeypatch, [{"status": "ok", "records": [SETUP]}])
    assert run_cell(job(trials=1, measure=lambda trial: {"tunnels": len(trial.records)}))[0]["tunnels"] == 1


def test_a_machine_without_a_kernel_is_an_error_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_run(monkeypatch, [], MissingFeature("the virtual kernel", instead="build it"))
    with pytest.raises(MissingFeature):
        run_cell(job())


def test_a_worker_with_another_lab_does_no_cell() -> None:
    with pytest.raises(WorkerMismatch, match="is not the version"):
        run_cell(job(lab="another"))


def test_a_topology_file_that_is_not_here_is_brought_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen: list[Path] = []
    in_place_of_run(monkeypatch, [{"status": "ok", "records": []}])
    fake = sys.modules["lab.cell"].run

    def run(name: str, **options: Any) -> Run:
        seen.append(Path(name))
        done: Run = fake(name, **options)
        return done

    monkeypatch.setattr(sys.modules["lab.cell"], "run", run)
    mine = job(trials=1, topology="/elsewhere/mine.py")
    assert run_cell(mine)[0]["status"] == "ok"
    assert (seen[0].name, seen[0].read_bytes()) == ("mine.py", mine.source)
