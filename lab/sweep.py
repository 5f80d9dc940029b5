"""Sweeps: a topology run over a grid of parameters, on one machine or many, into one table.

Every cell of the grid is one boot of the virtual kernel with all its trials in it.  With the virtual kernel equal
seeds give equal tables, whatever ran the cells and in whatever order they ended.  Results are kept as they come
(`lab.store`); the same call after a kill goes on where the first one was.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.cell import CellJob, Measure, Row, failed_rows, run_cell
from lab.errors import RunFailed, UsageError
from lab.grid import Cell, make_grid
from lab.measure import setup_rows
from lab.scratch import scratch_folder
from lab.store import Store, load

if TYPE_CHECKING:
    import pandas as pd

_TELLING: Final = ("topology", "source_sha256", "seed", "trials", "on", "capture", "paired", "measure", "lab", "fixed")
"""Facts in which two sweeps have to agree for their rows to belong to one table."""


_AWAKE_S: Final = 1.0
"""How long a sweep waits at most before it looks whether it was interrupted."""


@dataclass(frozen=True, slots=True, repr=False)
class Sweep:
    """A table of results and what it is about."""

    table: pd.DataFrame
    """A row for each set-up that was tried (or whatever `measure` gave), at least one for each trial.  Columns: cell,
    the parameters, seed, trial, engine, noisy, status, reason, and what was measured (`lab.measure.setup_rows`)."""
    facts: Mapping[str, Any]
    """topology, title, seed, trials, on, vary (values by parameter), cells, done, started, seconds, lab, kernel ..."""
    path: Path | None = None
    """The Parquet file; None when it was not asked for."""

    @classmethod
    def load(cls, path: Path | str) -> Sweep:
        """The sweep in the file `path`, or what there is of it so far; UsageError when there is none."""
        facts, rows = load(Path(path))
        return cls(_to_pandas(rows), facts, Path(path))

    @property
    def varied(self) -> list[str]:
        """The parameters with more than one value."""
        return [name for name, values in self.facts["vary"].items() if len(values) > 1]

    @property
    def missing(self) -> int:
        """Cells that are not done yet."""
        return int(len(self.facts["cells"]) - self.table["cell"].nunique())

    @property
    def failures(self) -> pd.DataFrame:
        """The rows of trials whose status is not ok, with the reason."""
        return self.table[self.table["status"] != "ok"]

    def rerun(self, cell: str) -> str:
        """The command that runs one cell again alone, with captures and a log."""
        rows = self.table[self.table["cell"] == cell]
        if rows.empty:
            raise UsageError(f"there is no cell {cell!r} in this sweep")
        parameters = self.facts["cells"][cell]
        words = ["scripts/lab", "run", self.facts["topology"]]
        for name, value in parameters.items():
            words += ["--set", f"{name}={value}"]
        words += ["--seed", str(rows["seed"].iloc[0]), "--trials", str(self.facts["trials"]), "--on", self.facts["on"]]
        return shlex.join(words)

    def __repr__(self) -> str:
        return f"<Sweep of {self}{'' if self.path is None else f', in {self.path}'}>"

    def __str__(self) -> str:
        rows = self.table
        trials = len(rows.drop_duplicates(["cell", "trial"])) if len(rows) else 0
        failed = len(self.failures.drop_duplicates(["cell", "trial"])) if len(rows) else 0
        parts = [f"{self.facts['topology']}: {rows['cell'].nunique()} of {len(self.facts['cells'])} cells"]
        parts += [f"{trials} trials", f"{failed} failed" if failed else "none failed"]
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        """What a notebook shows: the sentence, the summary and whatever failed."""
        from lab.html import sweep_html

        return sweep_html(self)


def sweep(
    name: str,
    vary: Mapping[str, Iterable[Any]],
    *,
    trials: int = 10,
    seed: int | None = None,
    on: str = "virtual",
    out: Path | str | None = None,
    executor: Executor | None = None,
    scheduler: str | None = None,
    jobs: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    paired: Sequence[str] = (),
    only: Mapping[str, Any] | None = None,
    measure: Measure = setup_rows,
    capture: bool = False,
    timeout_s: float | None = None,
    wall_timeout_s: float | None = None,
    retry_failed: bool = False,
    progress: bool | None = None,
) -> Sweep:
    """Run every combination of the values in `vary`, `trials` times each; the table of results.

    `parameters` are the same in every cell.  `out` is the Parquet file to fill: called again with the same arguments
    the sweep goes on where it was, and with other values or parameters' values the table grows; without `out` nothing
    is kept.  `only` runs no more than the cells with these values.

    The cells run on this machine, `jobs` at a time (default: one for each CPU, one alone on the host's kernel), on
    `executor` (any of `concurrent.futures`), or on the workers of the Dask scheduler at `scheduler`, where the lab and
    its kernel have to be installed.

    Seeds are derived from `seed` and the cell.  Cells that differ only in the parameters named in `paired` share
    theirs: see `lab.stats.compare`.  `measure` turns a trial into rows (of `lab.measure.setup_rows`, one for each
    set-up).  With `capture` packets are recorded, and the topology's check is asked about every trial; both are left
    out otherwise.  A trial that fails is a row with its reason; `retry_failed` runs cells with such rows again.

    Raises UsageError for names and values that do not fit, and when `out` holds something else; MissingFeature without
    the kernel; RunFailed when the executor broke down, with all finished cells kept.
    """
    from lab.engines import bundle
    from lab.engines.signals import interrupted_by_signals
    from lab.topology import catalog

    if trials < 1:
        raise UsageError(f"trials must be at least 1, not {trials}")
    if sum(choice is not None for choice in (executor, scheduler, jobs)) > 1:
        raise UsageError("take one of executor, scheduler and jobs")
    topology = catalog.load(name)
    source = topology.path.read_bytes()
    vary = {key: list(values) if not isinstance(values, str) else [values] for key, values in vary.items()}
    with _opened(out) as store:
        before = store.facts
        if seed is None:
            seed = before["seed"] if before else random.SystemRandom().randrange(2**32)
        grid = make_grid(topology, vary, parameters or {}, seed=seed, paired=paired, only=only)
        facts: dict[str, Any] = {
            "format": 1,
            "topology": name if topology.name == name else str(topology.path),
            "title": topology.title,
            "source_sha256": _sha256(source),
            "seed": seed,
            "trials": trials,
            "on": _engine(on),
            "capture": capture,
            "paired": sorted(paired),
            "measure": f"{measure.__module__}.{measure.__qualname__}",
            "fixed": dict(sorted((parameters or {}).items())),
            "lab": bundle.source_hash(),
            "vary": {key: list(dict.fromkeys(cell.parameters[key] for cell in grid)) for key in vary},
            "cells": {cell.key: dict(cell.parameters) for cell in grid},
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
        }
        if before is not None:
            _must_agree(before, facts, out)
            facts = _joined(before, facts)
        store.begin(facts)
        done = store.cells()
        if retry_failed:
            again = _failed(store, facts, done)
            store.forget(again)
            done -= again
        jobs_to_do = [
            CellJob(
                key=cell.key,
                parameters=cell.parameters,
                seed=cell.seed,
                trials=trials,
                topology=str(topology.path),
                source=source,
                lab=facts["lab"],
                on=facts["on"],
                capture=capture,
                timeout_s=timeout_s,
                wall_timeout_s=wall_timeout_s,
                measure=measure,
            )
            for cell in grid
            if cell.key not in done
        ]
        began = time.monotonic()
        try:
            if jobs_to_do:
                with interrupted_by_signals():
                    _carry_out(jobs_to_do, grid, store, executor, scheduler, jobs, progress)
        finally:
            facts["seconds"] += time.monotonic() - began
            if set(facts["cells"]) <= store.cells():
                store.finish(facts, list(facts["cells"]))
            else:
                store.begin(facts)
        order = [cell.key for cell in grid]
        rows = store.table(order if only is None and before is None else list(facts["cells"]))
        return Sweep(_to_pandas(rows), facts, None if out is None else Path(out))


def _engine(on: str) -> str:
    """The kernel that cells run on; `auto` is the virtual one: figures are what a sweep is for."""
    if on not in ("auto", "host", "virtual"):
        raise UsageError(f"there is no kernel {on!r}; choose from auto, host, virtual")
    return "host" if on == "host" else "virtual"


def _carry_out(
    jobs: list[CellJob],
    grid: list[Cell],
    store: Store,
    executor: Executor | None,
    scheduler: str | None,
    workers: int | None,
    progress: bool | None,
) -> None:
    """Run the cells and keep each one's rows as soon as it is done."""
    from lab.engines import bundle, virtual

    if jobs[0].on == "virtual" and scheduler is None and executor is None:
        virtual.capabilities()  # raises MissingFeature; and what is cached is made once, not by all at the same time
        bundle.compiled()
    bar = _bar(len(grid), len(grid) - len(jobs), progress)
    with bar, _executor(executor, scheduler, workers, jobs, store.scratch()) as (pool, stop):
        futures: dict[Future[list[Row]], CellJob] = {}
        failed = 0
        try:
            for job in jobs:
                with _workers_needed():
                    futures[pool.submit(run_cell, job)] = job
            for future in _as_they_end(futures):
                job = futures[future]
                with _workers_needed():
                    rows = _result(future, job)
                store.add(job.key, rows)
                failed += len({row["trial"] for row in rows if row["status"] != "ok"})
                bar.set_postfix_str(f"{failed} trials failed" if failed else "")
                bar.update()
        except BaseException:
            try:
                # Cells that are done come in any order: those that have not come yet are still to be kept.
                kept = store.cells()
                for future, job in futures.items():
                    if not future.cancel() and _went_well(future) and job.key not in kept:
                        store.add(job.key, future.result())
            finally:
                stop()
            raise


def _as_they_end(futures: Iterable[Future[list[Row]]]) -> Iterator[Future[list[Row]]]:
    """The futures, each when it is done.

    The main thread wakes up now and then: a Ctrl-C that the kernel hands to another thread, as it may when the process
    was stopped, is noticed only then.
    """
    left = set(futures)
    while left:
        done, left = wait(left, timeout=_AWAKE_S, return_when=FIRST_COMPLETED)
        yield from done


@contextmanager
def _workers_needed() -> Iterator[None]:
    """Tell in a sentence that an executor broke down: at a result, or already when a cell is handed to it."""
    try:
        yield
    except (BrokenExecutor, CancelledError) as exc:
        why = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        raise RunFailed(f"the workers are gone ({why}); finished cells are kept", folder="") from exc


def _went_well(future: Future[list[Row]]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _result(future: Future[list[Row]], job: CellJob) -> list[Row]:
    """The rows of a cell that ended, however it did; raises what concerns every cell alike."""
    try:
        return future.result()
    except Exception as exc:
        if type(exc).__name__ == "KilledWorker":  # of Dask: the cell was with every worker that died
            return failed_rows(job, f"the cell's worker died, again and again: {exc}")
        if isinstance(exc, ModuleNotFoundError):  # a LabError of the scenario's own is rows by now
            way_out = "start workers in a checkout, with scripts/lab dask worker ADDRESS"
            raise RunFailed(f"a worker has no module {exc.name!r}: {way_out}", folder="") from exc
        raise


@contextmanager
def _executor(
    executor: Executor | None, scheduler: str | None, workers: int | None, jobs: Sequence[CellJob], scratch: Path
) -> Iterator[tuple[Executor, Callable[[], None]]]:
    """(where cells run, what ends those that run)."""
    if executor is not None:
        yield executor, lambda: None
    elif scheduler is not None:
        with _dask(scheduler) as pool:
            yield pool, lambda: None
    else:
        # Threads are enough: the work is done by the kernels, each a process of its own.
        if workers is None:
            workers = 1 if jobs[0].on == "host" else len(os.sched_getaffinity(0))
        if workers < 1:
            raise UsageError(f"jobs must be at least 1, not {workers}")
        pool = _Local(workers, str(scratch))
        with pool:
            yield pool, pool.stop


class _Local(ThreadPoolExecutor):
    """Threads of this process, whose cells can be ended."""

    def __init__(self, workers: int, scratch: str) -> None:
        super().__init__(workers, thread_name_prefix="lab-cell")
        self._scratch = scratch
        self._futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a cell with its scratch folder in ours."""
        from dataclasses import replace

        if args and isinstance(args[0], CellJob):
            args = (replace(args[0], scratch=self._scratch), *args[1:])
        future = super().submit(fn, *args, **kwargs)
        self._futures.append(future)
        return future

    def stop(self) -> None:
        """End the cells that run; returns when they have."""
        while running := [future for future in self._futures if not future.done()]:
            for pid in _children_at_work_in(self._scratch):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            wait(running, timeout=0.2)


def _children_at_work_in(folder: str) -> Iterator[int]:
    """Our child processes that were started for a run folder under `folder`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            stat = (entry / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) != os.getpid():
                continue
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if folder in command or str((entry / "cwd").readlink()).startswith(folder):
                yield int(entry.name)


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler, as an executor."""
    from distributed import Client

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as exc:
        raise UsageError(f"there is no Dask scheduler at {address}: {exc}") from exc
    try:
        pool = _Packed(client.get_executor(retries=0))
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)
    finally:
        client.close()


class _Packed(Executor):
    """A Dask executor whose scheduler need not have the lab.

    A scheduler reads all that is submitted.  Here that is bytes, and a function which is of no module.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function on a worker."""
        from distributed.protocol import pickle

        def unpack_and_call(data: bytes) -> Any:
            from distributed.protocol import pickle

            function, positional, named = pickle.loads(data)
            return function(*positional, **named)

        return self._pool.submit(unpack_and_call, pickle.dumps((fn, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End it, without the workers."""
        self._pool.shutdown(wait=wait)


def _bar(total: int, done: int, progress: bool | None) -> Any:
    from tqdm import tqdm

    shown = progress if progress is not None else sys.stderr.isatty() or "ipykernel" in sys.modules
    # Smoothing 0: the time left is from the average of all cells, some of which take ten times as long as others.
    return tqdm(total=total, initial=done, unit="cell", smoothing=0, disable=not shown, dynamic_ncols=True)


@contextmanager
def _opened(out: Path | str | None) -> Iterator[Store]:
    with scratch_folder("sweep") as scratch:
        store = Store(scratch / "table.parquet" if out is None else Path(out))
        try:
            yield store
        finally:
            store.close()


def _must_agree(before: Mapping[str, Any], now: Mapping[str, Any], out: Path | str | None) -> None:
    """Raise UsageError when the file's rows and the new ones would not belong to one table."""
    for name in _TELLING:
        if before.get(name) != now[name]:
            if name in ("source_sha256", "lab"):
                what = "the topology's file" if name == "source_sha256" else "the lab"
                why = f"{what} has changed since"
            else:
                why = f"its {name} is {before.get(name)}, not {now[name]}"
            raise UsageError(f"{out} holds another sweep: {why}; name a new file")


def _joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a sweep to which values are added."""
    vary = {
        name: list(dict.fromkeys([*before["vary"].get(name, []), *now["vary"].get(name, [])]))
        for name in [*before["vary"], *(name for name in now["vary"] if name not in before["vary"])]
    }
    kept = {"started": before["started"], "seconds": before["seconds"]}
    return {**now, **kept, "vary": vary, "cells": {**before["cells"], **now["cells"]}}


def _failed(store: Store, facts: Mapping[str, Any], done: set[str]) -> set[str]:
    """The cells with a row that is not ok."""
    rows = store.table(list(facts["cells"]))
    if not done or rows.num_rows == 0:
        return set()
    pairs = zip(rows.column("cell").to_pylist(), rows.column("status").to_pylist(), strict=True)
    return {key for key, status in pairs if status != "ok"}


def _to_pandas(rows: Any) -> pd.DataFrame:
    table: pd.DataFrame = rows.to_pandas()
    return table


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
