"""Sweeps in virtual time: the same seed gives the same table, whoever ran the cells and whoever was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest

from lab import stats
from lab.engines import uml
from lab.sweep import Sweep, sweep
from lab.topology import catalog
from tests.virtual.machines import CHECKOUT, Process, address_in, descendants, wait_for, wait_until_gone

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(600)]

VARY: Final[dict[str, list[Any]]] = {"loss_pct": [0, 30], "transport": ["udp", "tcp"]}
OPTIONS: Final[dict[str, Any]] = {"trials": 3, "seed": 1, "parameters": {"delay_ms": 20}, "paired": ["transport"]}
COMMAND: Final = (
    "--vary loss_pct=0,30 --vary transport=udp,tcp --set delay_ms=20 --trials 3 --seed 1 --paired transport"
).split()
ENDS_WITHIN_S: Final = 200
CELLS: Final = ("0-udp", "0-tcp", "30-udp", "30-tcp")

HELD: Final = """

_set_up = scenario
_trials = []


async def scenario(net):
    from pathlib import Path

    await _set_up(net)
    _trials.append(net)
    hold = Path(__file__).with_name(f"hold-{net.parameters['loss_pct']:g}-{net.parameters['transport']}")
    while len(_trials) == 3 and hold.exists():  # all that the table holds is known by now
        pass
"""
"""What keeps a cell of setup_time at work for as long as there is a file beside the topology's."""


@pytest.fixture(scope="module")
def setup_time(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The topology setup_time with cells that can be held; its times are a microsecond off those of the original."""
    path = tmp_path_factory.mktemp("held") / "setup_time.py"
    path.write_text(catalog.load("setup_time").path.read_text() + HELD)
    return path


class Held:
    """Which cells of a topology that can be held are."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self, *cells: str) -> None:
        """These cells, as "30-udp", do not end before they are let go."""
        for cell in cells:
            self._path.with_name(f"hold-{cell}").touch()

    def let_go(self, *cells: str) -> None:
        for cell in cells:
            self._path.with_name(f"hold-{cell}").unlink(missing_ok=True)


@pytest.fixture
def held(setup_time: Path) -> Iterator[Held]:
    """What a test holds is let go at its end."""
    held = Held(setup_time)
    yield held
    held.let_go(*CELLS)


@pytest.fixture(scope="module")
def whole(setup_time: Path) -> Sweep:
    """The sweep on the default executor, without accidents."""
    return sweep(str(setup_time), VARY, **OPTIONS)


def command(*words: str) -> subprocess.Popen[bytes]:
    """A part of this project as a process of its own, in this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@contextmanager
def finished(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The same, and the end of it is waited for; it is killed when something goes wrong in the block."""
    process = command(*words)
    try:
        yield process
        process.wait(ENDS_WITHIN_S)
    finally:
        process.kill()
        process.wait()


def at_work(pid: int) -> list[Process]:
    """The processes of virtual kernels, and those that watch them, that come from a process."""
    return [process for process in descendants(pid) if "uml_dir=" in process.arguments]


def cells_at_work(pid: int) -> int:
    """How many virtual kernels come from a process; each has several processes, the first one below its tether."""
    kernel = str(uml.require().path)
    found = at_work(pid)
    tethers = {process.pid for process in found if "lab.engines.tether" in process.arguments}
    return sum(process.parent in tethers and process.arguments.startswith(kernel) for process in found)


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


def test_any_cell_alone_gives_the_rows_it_has_in_the_whole(whole: Sweep, setup_time: Path) -> None:
    alone = sweep(str(setup_time), VARY, only={"loss_pct": 30, "transport": "udp"}, **OPTIONS)
    chosen = whole.table[(whole.table["loss_pct"] == 30) & (whole.table["transport"] == "udp")]
    pd.testing.assert_frame_equal(alone.table, chosen.reset_index(drop=True)[alone.table.columns], check_dtype=False)


def test_processes_give_the_same_table(whole: Sweep, setup_time: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = sweep(str(setup_time), VARY, executor=pool, **OPTIONS)
    pd.testing.assert_frame_equal(done.table, whole.table)


def test_a_sweep_that_is_killed_goes_on_where_it_was(
    whole: Sweep, setup_time: Path, held: Held, tmp_path: Path
) -> None:
    file = tmp_path / "table.parquet"
    parts = tmp_path / "table.parquet.parts"
    words = ("lab", "sweep", str(setup_time), *COMMAND, "--jobs", "1", "--out", str(file))

    def written() -> dict[str, int]:
        """The cells that are kept, and when each was."""
        return {part.name: part.stat().st_mtime_ns for part in parts.glob("*.parquet")}

    held.hold("30-udp", "30-tcp")
    with finished(*words) as first:
        wait_for(lambda: len(written()) == 2 and cells_at_work(first.pid) == 1, "the third cell to run", written)
        kernels = at_work(first.pid)
        first.kill()
    wait_until_gone(kernels)
    before = written()
    assert len(before) == 2
    held.let_go("30-udp")
    with finished(*words) as second:
        wait_for(lambda: len(written()) == 3, "the third cell to be kept", written)
        assert before.items() < written().items(), "the first two were not run again"
        held.let_go("30-tcp")
    assert second.returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(file), whole.table)
    assert list(tmp_path.iterdir()) == [file]


def test_ctrl_c_ends_the_cells_that_run_and_keeps_the_others(setup_time: Path, held: Held, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    held.hold("0-tcp", "30-udp")
    with finished("lab", "sweep", str(setup_time), *COMMAND, "--jobs", "2", "--out", str(file)) as process:
        parts = tmp_path / "table.parquet.parts"
        wait_for(
            lambda: len(list(parts.glob("*.parquet"))) == 1 and cells_at_work(process.pid) == 2,
            "the second and the third cell to run",
            lambda: at_work(process.pid),
        )
        kernels = at_work(process.pid)
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    wait_until_gone(kernels)
    assert Sweep.load(file).missing == 3
    assert not (parts / "work").exists()


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
        address = address_in(where)
        for number in range(3):
            folder = str(tmp_path / f"worker-{number}")
            started.append(
                command(
                    "distributed.cli.dask_worker", "--scheduler-file", str(where), "--no-nanny", "--no-dashboard",
                    "--nthreads", "1", "--local-directory", folder,
                )
            )  # fmt: skip
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cluster_gives_the_same_table_though_a_worker_is_killed(
    whole: Sweep, setup_time: Path, held: Held, cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = cluster
    file = tmp_path / "table.parquet"
    held.hold(*CELLS)
    words = ("lab", "sweep", str(setup_time), *COMMAND, "--scheduler", address, "--out", str(file))
    with finished(*words) as process:
        wait_for(
            lambda: any(cells_at_work(worker.pid) for worker in workers),
            "a worker to be at a cell",
            lambda: (process.poll(), [worker.poll() for worker in workers]),
        )
        victim = next(worker for worker in workers if cells_at_work(worker.pid))
        kernels = at_work(victim.pid)
        victim.kill()
        wait_until_gone(kernels)
        held.let_go(*CELLS)
    assert process.returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(file), whole.table)


def test_what_captures_cost_is_told() -> None:
    cost = stats.measuring_cost("setup_time", trials=3, parameters={"delay_ms": 5})
    assert list(cost["capture"]) == [False, True]
    assert abs(cost["change_s"].iloc[1]) < 0.001
    assert (cost["median_s"] - 0.04).abs().max() < 0.001
