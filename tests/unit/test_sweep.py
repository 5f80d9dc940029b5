"""Sweeps without a kernel: what is run, what is kept, and what a failure becomes."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab.cell import CellJob, Row, failed_rows
from lab.errors import RunFailed, UsageError
from lab.sweep import Sweep, sweep

VARY: dict[str, list[Any]] = {"delay_ms": [5, 20, 80], "transport": ["udp", "tcp"]}


class Cells(Executor):
    """Runs cells at once, in the place of a kernel; counts them and breaks down when told to."""

    def __init__(self, dies_at: int | None = None, fails: Callable[[CellJob], bool] = lambda job: False) -> None:
        self.ran: list[CellJob] = []
        self.dies_at = dies_at
        self.fails = fails

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job: CellJob = args[0]
        future: Future[list[Row]] = Future()
        if self.dies_at is not None and len(self.ran) == self.dies_at:
            future.set_exception(KeyboardInterrupt())
            return future
        self.ran.append(job)
        if self.fails(job):
            future.set_result(failed_rows(job, "the guest ran out of memory"))
        else:
            luck = random.Random(job.seed)
            future.set_result([{**row, "status": "ok", "setup_s": luck.random()} for row in failed_rows(job, "")])
        return future


def test_every_cell_is_run_with_all_its_trials_and_its_own_seed(tmp_path: Path) -> None:
    cells = Cells()
    done = sweep("setup_time", VARY, trials=4, seed=1, executor=cells, out=tmp_path / "t.parquet")
    assert len(cells.ran) == len({job.seed for job in cells.ran}) == 6
    assert len(done.table) == 24
    assert done.missing == 0
    assert str(done) == "setup_time: 6 of 6 cells, 24 trials, none failed"
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), done.table)


def test_an_interrupted_sweep_goes_on_without_repeating_or_losing_a_cell(tmp_path: Path) -> None:
    whole = sweep("setup_time", VARY, trials=2, seed=1, executor=Cells())
    first, second = Cells(dies_at=4), Cells()
    with pytest.raises(KeyboardInterrupt):
        sweep("setup_time", VARY, trials=2, seed=1, executor=first, out=tmp_path / "t.parquet")
    kept = Sweep.load(tmp_path / "t.parquet")
    assert 6 - kept.missing == 4
    done = sweep("setup_time", VARY, trials=2, executor=second, out=tmp_path / "t.parquet")
    assert len(second.ran) == kept.missing
    pd.testing.assert_frame_equal(done.table, whole.table)


def test_a_finished_sweep_runs_nothing_and_a_wider_one_only_what_is_new(tmp_path: Path) -> None:
    again, wider = Cells(), Cells()
    sweep("setup_time", {"delay_ms": [5, 20]}, trials=1, seed=1, executor=Cells(), out=tmp_path / "t.parquet")
    assert len(sweep("setup_time", {"delay_ms": [5]}, trials=1, executor=again, out=tmp_path / "t.parquet").table) == 2
    done = sweep("setup_time", {"delay_ms": [20, 50]}, trials=1, executor=wider, out=tmp_path / "t.parquet")
    assert (len(again.ran), len(wider.ran)) == (0, 1)
    assert list(done.table["delay_ms"]) == [5, 20, 50]
    assert done.facts["vary"]["delay_ms"] == [5, 20, 50]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": 2}, "its seed is 1, not 2"), ({"trials": 3}, "its trials is 1"), ({"on": "host"}, "its on is virtual")],
)
def test_rows_of_two_sweeps_are_not_mixed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"trials": 1, "seed": 1, "executor": Cells(), "out": tmp_path / "t.parquet"}
    sweep("setup_time", VARY, **asked)
    with pytest.raises(UsageError, match=f"holds another sweep: {message}"):
        sweep("setup_time", VARY, **{**asked, **options})


def test_a_failed_cell_is_rows_with_a_reason_and_can_be_tried_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"trials": 2, "seed": 1, "out": tmp_path / "t.parquet"}
    fails = Cells(fails=lambda job: job.parameters["delay_ms"] == 20 and job.parameters["transport"] == "tcp")
    done = sweep("setup_time", VARY, executor=fails, **options)
    assert len(done.table) == 12
    assert list(done.failures["reason"]) == ["the guest ran out of memory"] * 2
    [cell] = done.failures["cell"].unique()
    seed = done.failures["seed"].iloc[0]
    assert done.rerun(cell).startswith("scripts/lab run setup_time --set delay_ms=20.0")
    assert done.rerun(cell).endswith(f"--seed {seed} --trials 2 --on virtual")
    again = Cells()
    done = sweep("setup_time", VARY, executor=again, retry_failed=True, **options)
    assert [job.key for job in again.ran] == [cell]
    assert done.failures.empty
    assert len(done.table) == 12


def test_workers_that_are_gone_are_told_in_a_sentence(tmp_path: Path) -> None:
    pool = ThreadPoolExecutor(1, initializer=lambda: 1 / 0)
    with pytest.raises(RunFailed, match="the workers are gone"):
        sweep("setup_time", VARY, trials=1, executor=pool)
    with pytest.raises(RunFailed, match="the workers are gone"):  # now already when the first cell is handed over
        sweep("setup_time", VARY, trials=1, executor=pool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"jobs": 2}, "take one of"),
        ({"on": "moon"}, "no kernel 'moon'"),
        ({"parameters": {"delay": 1}}, "no parameter 'delay'"),
    ],
)
def test_what_cannot_be_swept_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sweep("setup_time", VARY, **{"executor": Cells(), **options})


class Interrupted(Executor):
    """Cells that never end, and a Ctrl-C that the kernel hands to another thread than the main one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def interrupt() -> None:
            time.sleep(0.3)  # by then the main thread waits; else it is interrupted all the more
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        return Future()


def test_ctrl_c_is_noticed_whichever_thread_gets_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep("setup_time", {"delay_ms": [5]}, trials=1, seed=1, executor=Interrupted())
