"""The program that a tether holds is bound to one CPU, each to its own while there are enough."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

TELL_CPUS = "import os, sys; print(*sorted(os.sched_getaffinity(0)), flush=True); sys.stdin.read(); sys.exit(7)"


def tethered(stack: ExitStack) -> subprocess.Popen[str]:
    """A program that tells which CPUs it may use and waits until its input is closed."""
    command = [sys.executable, "-P", "-m", "lab.engines.tether", str(os.getpid()), sys.executable, "-c", TELL_CPUS]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return stack.enter_context(process)


def cpus_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def test_a_program_stays_on_one_cpu_and_the_next_one_may_have_it_again() -> None:
    ours = os.sched_getaffinity(0)
    for _ in range(len(ours) + 1):  # claims that were not given back would be used up
        with ExitStack() as stack:
            process = tethered(stack)
            (cpu,) = cpus_of(process)
            assert cpu in ours
            process.communicate()
            assert process.returncode == 7


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_programs_at_the_same_time_have_a_cpu_each_and_one_too_many_shares() -> None:
    ours = os.sched_getaffinity(0)
    with ExitStack() as stack:
        processes = [tethered(stack) for _ in range(len(ours) + 1)]
        taken = [cpus_of(process)[0] for process in processes]
        assert set(taken) == ours
        for process in processes:
            process.communicate()
