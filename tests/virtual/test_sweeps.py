"""Sweeps in virtual time: the same seed gives the same table, whoever ran the cells and whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest

from lab import stats
from lab.sweep import Sweep, sweep
from tests.virtual.machines import CHECKOUT, Process, descendants, wait_for

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(300)]

VARY: Final[dict[str, list[Any]]] = {"loss_pct": [0, 30], "transport": ["udp", "tcp"]}
OPTIONS: Final[dict[str, Any]] = {"trials": 3, "seed": 1, "parameters": {"delay_ms": 20}, "paired": ["transport"]}
COMMAND: Final = (
    "setup_time --vary loss_pct=0,30 --vary transport=udp,tcp --set delay_ms=20 --trials 3 --seed 1 --paired transport"
).split()


@pytest.fixture(scope="module")
def whole() -> Sweep:
    """The sweep on the default executor, without accidents."""
    return sweep("setup_time", VARY, **OPTIONS)


def command(*words: str) -> subprocess.Popen[bytes]:
    """A part of this project as a process of its own, in this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def at_work(pid: int) -> list[Process]:
    """The virtual kernels that come from a process."""
    return [process for process in descendants(pid) if "uml_dir=" in process.arguments]


def test_a_sweep_measures_what_was_asked(whole: Sweep) -> None:
    table = whole.table
    assert len(table) == 12
    assert whole.failures.empty
    calm = table[table["loss_pct"] == 0]
    assert calm["ready"].all()
    # Without a password four round trips of 40 ms, over either transport (RFC 5572 section 4.1).
    assert (calm["setup_s"] - 0.16).abs().max() < 0.001
    assert not table["noisy"].any()
    lossy = table[table["loss_pct"] == 30]
    # Eight packets that matter, each lost with 30 %: all six set-ups unhurt has odds of 1 in 20 million.
    assert not (lossy["setup_s"] < 0.161).all()
    assert stats.compare(whole, "transport", "udp", "tcp").pairs >= 3, "the pairs without loss"


def test_any_cell_alone_gives_the_rows_it_has_in_the_whole(whole: Sweep) -> None:
    alone = sweep("setup_time", VARY, only={"loss_pct": 30, "transport": "udp"}, **OPTIONS)
    chosen = whole.table[(whole.table["loss_pct"] == 30) & (whole.table["transport"] == "udp")]
    pd.testing.assert_frame_equal(alone.table, chosen.reset_index(drop=True)[alone.table.columns], check_dtype=False)


def test_processes_give_the_same_table(whole: Sweep) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = sweep("setup_time", VARY, executor=pool, **OPTIONS)
    pd.testing.assert_frame_equal(done.table, whole.table)


def test_a_sweep_that_is_killed_goes_on_where_it_was(whole: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    parts = tmp_path / "table.parquet.parts"
    with command("lab", "sweep", *COMMAND, "--jobs", "1", "--out", str(file)) as first:
        wait_for(lambda: len(list(parts.glob("*.parquet"))) == 2 and bool(at_work(first.pid)), "the third cell runs")
        kernels = at_work(first.pid)
        first.kill()
    wait_for(lambda: not any(kernel.alive for kernel in kernels), "no kernel is left")
    before = {part.name: part.stat().st_mtime_ns for part in parts.glob("*.parquet")}
    assert 2 <= len(before) < 4
    with command("lab", "sweep", *COMMAND, "--jobs", "1", "--out", str(file)) as second:
        wait_for(lambda: len(list(parts.glob("*.parquet"))) > len(before), "another cell is done")
        kept = {name: (parts / name).stat().st_mtime_ns for name in before if (parts / name).exists()}
        assert not kept or kept == before
    assert second.returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(file), whole.table)
    assert list(tmp_path.iterdir()) == [file]


def test_ctrl_c_ends_the_cells_that_run_and_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    long = [*COMMAND, "--trials", "300"]  # so that both are still at work when it is seen
    with command("lab", "sweep", *long, "--jobs", "2", "--out", str(file)) as process:
        wait_for(lambda: len({str(kernel.arguments) for kernel in at_work(process.pid)}) == 2, "two cells run")
        kernels = at_work(process.pid)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert not any(kernel.alive for kernel in kernels)
    assert Sweep.load(file).missing > 0
    assert not (tmp_path / "table.parquet.parts" / "work").exists()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """(address of a Dask scheduler, its three workers), each a process."""
    where = tmp_path / "scheduler.json"
    started = [
        command(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(where),
        )
    ]  # fmt: skip
    try:
        wait_for(where.exists, "the scheduler is up")
        for number in range(3):
            folder = str(tmp_path / f"worker-{number}")
            started.append(
                command(
                    "distributed.cli.dask_worker", "--scheduler-file", str(where), "--no-nanny", "--no-dashboard",
                    "--nthreads", "1", "--local-directory", folder,
                )
            )  # fmt: skip
        yield pd.read_json(where, typ="series")["address"], started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_table_though_a_worker_is_killed(
    whole: Sweep, cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = cluster
    file = tmp_path / "table.parquet"
    with command("lab", "sweep", *COMMAND, "--scheduler", address, "--out", str(file)) as process:
        wait_for(lambda: any(at_work(worker.pid) for worker in workers), "a worker is at a cell")
        victim = next(worker for worker in workers if at_work(worker.pid))
        kernels = at_work(victim.pid)
        victim.kill()
        wait_for(lambda: not any(kernel.alive for kernel in kernels), "no kernel is left")
    assert process.returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(file), whole.table)


def test_what_captures_cost_is_told() -> None:
    cost = stats.measuring_cost("setup_time", trials=3, parameters={"delay_ms": 5})
    assert list(cost["capture"]) == [False, True]
    assert abs(cost["change_s"].iloc[1]) < 0.001
    assert (cost["median_s"] - 0.04).abs().max() < 0.001
