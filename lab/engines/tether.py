"""Run a program that must not outlive the process that asked for it.

    python -P -S -m lab.engines.tether PARENT_PID PROGRAM [ARGUMENT...]

Watches the parent process through a descriptor and the program through another, needs no privilege, and ends with the
program's exit status (128+N if signal N ended it).  When the parent is gone, or SIGTERM arrives, the program is killed.
When the tether itself is killed the program gets SIGKILL from the kernel: the tether has one thread, so the
parent-death signal means what it says.

The program and all that it starts stay on one CPU.  The parts of user-mode Linux hand over to each other all the time
and never work at the same time, and to wake a process on another CPU takes long, above all on a virtual machine: runs
took up to four times as long.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from lab.kernel import libc

_CPUS: Final = "/sys/devices/system/cpu"
_PROCESSOR: Final = 36
"""Of the fields of /proc/PID/stat that follow the name: the CPU (proc_pid_stat(5))."""


def main(argv: Sequence[str]) -> int:
    """Run `argv[1:]` until it ends or the process `argv[0]` does."""
    parent = int(argv[0])
    try:
        watched = os.pidfd_open(parent)
    except ProcessLookupError:
        return 1
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGTERM, _end)
    cpu, _claim = _claim_cpu()  # ours for as long as the descriptor is open
    me = os.getpid()
    child = os.fork()
    if child == 0:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == me:
            with suppress(OSError):  # the CPU is not ours any more: it will be slower
                os.sched_setaffinity(0, {cpu})
            os.execvp(argv[1], list(argv[1:]))
        os._exit(127)
    program = os.pidfd_open(child)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(program, select.POLLIN)
    try:
        ready = {fd for fd, _ in poll.poll()}
    except SystemExit:
        ready = {watched}
    if program not in ready:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def _end(number: int, frame: object) -> NoReturn:
    """End the wait, once: who asks again waits for the end of the program too."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _claim_cpu() -> tuple[int, int | None]:
    """A CPU of those this process may use on which no other tether runs a program, and the claim to it.

    A claim is a lock on the CPU's folder in /sys: a descriptor, known in all namespaces, and gone with the process.
    With more programs than CPUs, or without that folder, it is the CPU where this process is, without a claim.
    """
    with open("/proc/self/stat") as stat:
        here = int(stat.read().rpartition(")")[2].split()[_PROCESSOR])
    for cpu in sorted(os.sched_getaffinity(0), key=lambda cpu: cpu != here):
        try:
            claim = os.open(f"{_CPUS}/cpu{cpu}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(claim)
            continue
        return cpu, claim
    return here, None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
