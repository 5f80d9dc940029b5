"""One cell of a sweep, carried out wherever an executor puts it: another thread, process or machine.

`run_cell` needs no privilege with the virtual kernel and leaves nothing but what it returns.  What a cell's own
scenario, network or kernel fails at becomes rows with a reason.  What would fail for every cell alike (no kernel,
another version of the lab) is raised.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import LabError, MissingFeature, UsageError
from lab.measure import named_apart, setup_rows
from lab.run import Run, run

if TYPE_CHECKING:
    from lab.topology.catalog import TopologyModule

Measure = Callable[[Run], Iterable[Mapping[str, Any]] | Mapping[str, Any]]
"""From one trial to the rows, or the row, that a sweep keeps of it: plain values by column."""

Row = dict[str, Any]

FIXED_COLUMNS: Final = ("cell", "seed", "trial", "engine", "noisy", "status", "reason")
"""The columns that every table of a sweep has, besides the parameters and what was measured."""


class WorkerMismatch(LabError):
    """A worker has another version of the lab; its figures would not belong to the same table."""


@dataclass(frozen=True, slots=True)
class CellJob:
    """All that a worker needs to know; can be pickled when `measure` can."""

    key: str
    parameters: Mapping[str, Any]
    seed: int
    trials: int
    topology: str
    """The path of its file on the machine that asks."""
    source: bytes
    """The content of that file."""
    lab: str
    """`lab.engines.bundle.source_hash` there."""
    on: str = "virtual"
    capture: bool = False
    timeout_s: float | None = None
    wall_timeout_s: float | None = None
    measure: Measure = setup_rows
    scratch: str | None = None
    """A folder for run folders; None: the system's."""


def run_cell(job: CellJob) -> list[Row]:
    """Run all trials of a cell, in one boot; the rows in order of trial, at least one for each.

    Raises MissingFeature when the kernel is not there, WorkerMismatch when the lab here is another one.
    """
    from lab.engines import bundle
    from lab.topology import catalog

    if bundle.source_hash() != job.lab:
        raise WorkerMismatch(f"the lab on {os.uname().nodename} is not the version that the sweep was started with")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="lab-cell-", dir=job.scratch) as scratch:
        folder = Path(scratch) / "run"
        done, failure = None, ""
        topology = None
        try:
            topology = catalog.load(_topology_file(job))
            done = run(
                str(topology.path),
                on=job.on,
                seed=job.seed,
                trials=job.trials,
                out=folder,
                parameters=job.parameters,
                timeout_s=job.timeout_s,
                wall_timeout_s=job.wall_timeout_s,
                capture=job.capture,
                check=False,
                keep_going=True,
            )
        except MissingFeature:
            raise
        except LabError as exc:
            failure = str(exc).replace(f"{scratch}/", "")
            if (folder / "run.json").exists():
                done = Run.load(folder)
        trials = done.trials if done is not None else []
        engine = str(done.facts["engine"]) if done is not None else job.on
        noisy = done.noisy if done is not None else engine != "virtual"
        for number in range(job.trials):
            fixed = {"cell": job.key, "seed": job.seed, "trial": number, "engine": engine, "noisy": noisy}
            if number < len(trials) and topology is not None:
                status, reason, measured = _look_at(trials[number], topology, job, failure)
            else:
                status, reason, measured = "error", failure or "the run ended before this trial", []
            for row in measured or [{}]:
                rows.append(_row(job.parameters, {**fixed, "status": status, "reason": reason}, row))
    return rows


def failed_rows(job: CellJob, reason: str) -> list[Row]:
    """The rows of a cell of which nothing came back."""
    fixed = {"cell": job.key, "seed": job.seed, "engine": job.on, "noisy": job.on != "virtual"}
    return [
        _row(job.parameters, {**fixed, "trial": number, "status": "error", "reason": reason}, {})
        for number in range(job.trials)
    ]


def _look_at(
    trial: Run, topology: TopologyModule, job: CellJob, failure: str
) -> tuple[str, str, list[Mapping[str, Any]]]:
    """(status, reason, measured rows) of one trial."""
    from lab.sources import error_in_file, explain_assertion

    status, reason = trial.trial_status, trial.trial_message
    if status == "interrupted" and failure:
        status, reason = "error", failure
    try:
        found = job.measure(trial)
        measured = [found] if isinstance(found, Mapping) else list(found)
    except Exception as exc:  # noqa: BLE001 - whatever a person's function raises
        return "error", f"measure: {type(exc).__name__}: {exc}", []
    if status == "ok" and job.capture:  # without captures a check may not find what it looks for
        try:
            topology.check(trial)
        except AssertionError as exc:
            status, reason = "check failed", explain_assertion(exc, topology.path)
        except Exception as exc:  # noqa: BLE001 - whatever a person's check raises
            told = str(exc) if isinstance(exc, LabError) else error_in_file(exc, topology.path)
            status, reason = "check failed", told
    return status, reason, measured


def _row(parameters: Mapping[str, Any], fixed: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    row: Row = {"cell": fixed["cell"], **named_apart(parameters, FIXED_COLUMNS, "parameter_{}")}
    row |= {name: fixed[name] for name in FIXED_COLUMNS}
    return row | {name: _plain(value) for name, value in named_apart(measured, list(row), "{}_measured").items()}


def _plain(value: Any) -> Any:
    """A value that a Parquet file can hold; numpy's numbers as Python's, not-a-number as nothing."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 0) == 0:
        value = item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value)


def _topology_file(job: CellJob) -> Path:
    """The topology's file here: the same path when it holds the same, else a copy that is made once."""
    from lab.engines.uml import cache_folder

    path = Path(job.topology)
    if path.exists() and path.read_bytes() == job.source:
        return path
    digest = hashlib.sha256(job.source).hexdigest()[:16]
    copy = cache_folder("topologies") / digest / path.name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(dir=copy.parent, delete=False) as part:
                part.write(job.source)
            Path(part.name).replace(copy)
        except OSError as exc:
            raise UsageError(f"cannot write {copy}: {exc.strerror}") from exc
    return copy
