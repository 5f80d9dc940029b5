"""The program that a tether holds is bound to one CPU, each to its own while there are enough."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lab.engines import tether

TELL_CPUS = "import os, sys; print(*sorted(os.sched_getaffinity(0)), flush=True); sys.stdin.read(); sys.exit(7)"
TETHER = "import sys; from lab.engines import tether; tether._CPUS = sys.argv[1]; sys.exit(tether.main(sys.argv[2:]))"


@pytest.fixture
def cpus(tmp_path: Path) -> Path:
    """What is like /sys/devices/system/cpu: the real one may be locked by virtual kernels of other tests."""
    for cpu in os.sched_getaffinity(0):
        (tmp_path / f"cpu{cpu}").mkdir()
    return tmp_path


def tethered(stack: ExitStack, cpus: Path) -> subprocess.Popen[str]:
    """A program that tells which CPUs it may use and waits until its input is closed."""
    command = [sys.executable, "-c", TETHER, str(cpus), str(os.getpid()), sys.executable, "-c", TELL_CPUS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return stack.enter_context(process)


def cpus_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def test_a_program_stays_on_one_cpu_and_the_next_one_may_have_it_again(cpus: Path) -> None:
    ours = os.sched_getaffinity(0)
    for _ in range(len(ours) + 1):  # claims that were not given back would be used up
        with ExitStack() as stack:
            process = tethered(stack, cpus)
            (cpu,) = cpus_of(process)
            assert cpu in ours
            process.communicate()
            assert process.returncode == 7


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_programs_at_the_same_time_have_a_cpu_each_and_one_too_many_shares(cpus: Path) -> None:
    ours = os.sched_getaffinity(0)
    with ExitStack() as stack:
        processes = [tethered(stack, cpus) for _ in range(len(ours) + 1)]
        taken = [cpus_of(process)[0] for process in processes]
        assert set(taken) == ours
        for process in processes:
            process.communicate()


def test_without_a_folder_to_lock_a_program_still_stays_on_one_cpu(tmp_path: Path) -> None:
    with ExitStack() as stack:
        process = tethered(stack, tmp_path / "absent")
        (cpu,) = cpus_of(process)
        assert cpu in os.sched_getaffinity(0)
        process.communicate()
        assert process.returncode == 7


def test_the_cpus_of_this_machine_can_be_locked() -> None:
    for cpu in os.sched_getaffinity(0):
        claim = os.open(f"{tether._CPUS}/cpu{cpu}", os.O_RDONLY | os.O_DIRECTORY)
        with suppress(BlockingIOError):  # a virtual kernel has it just now
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(claim)
