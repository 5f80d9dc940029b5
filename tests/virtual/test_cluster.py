"""A sweep on a cluster that somebody else runs: its scheduler has no lab, and a worker without one is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from lab.errors import RunFailed
from lab.sweep import sweep
from tests.virtual.machines import CHECKOUT, address_in

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(600)]


@contextmanager
def dask(folder: Path, *words: str, lab: bool) -> Iterator[None]:
    """A part of a cluster as a process, with the lab on its path or without."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dask", *words, "--no-dashboard"],
        env={**environment, "PYTHONPATH": str(CHECKOUT)} if lab else environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """(its file, its address) of a scheduler without the lab."""
    file = tmp_path / "scheduler.json"
    words = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
    with dask(tmp_path, *words, lab=False):
        yield file, address_in(file)


WORKER = ("--no-nanny", "--nthreads", "1")


def test_a_scheduler_need_not_have_the_lab(scheduler: tuple[Path, str], tmp_path: Path) -> None:
    file, address = scheduler
    with dask(tmp_path, "worker", "--scheduler-file", str(file), *WORKER, lab=True):
        done = sweep("setup_time", {"loss_pct": [0]}, trials=2, seed=1, scheduler=address)
    pd.testing.assert_frame_equal(done.table, sweep("setup_time", {"loss_pct": [0]}, trials=2, seed=1).table)


def test_a_worker_without_the_lab_is_told_with_the_way_out(scheduler: tuple[Path, str], tmp_path: Path) -> None:
    file, address = scheduler
    with (
        dask(tmp_path, "worker", "--scheduler-file", str(file), *WORKER, lab=False),
        pytest.raises(RunFailed, match="no module 'lab': start workers in a checkout, with scripts/lab dask worker"),
    ):
        sweep("setup_time", {"loss_pct": [0]}, trials=2, seed=1, scheduler=address)
