"""Run a program that must not outlive the process that asked for it.

    python -P -S -m lab.engines.tether PARENT_PID PROGRAM [ARGUMENT...]

Watches the parent process through a descriptor and the program through another, needs no privilege, and ends with the
program's exit status (128+N if signal N ended it).  When the parent is gone, or SIGTERM arrives, the program is killed.
When the tether itself is killed the program gets SIGKILL from the kernel: the tether has one thread, so the
parent-death signal means what it says.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence

from lab.kernel import libc


def main(argv: Sequence[str]) -> int:
    """Run `argv[1:]` until it ends or the process `argv[0]` does."""
    parent = int(argv[0])
    try:
        watched = os.pidfd_open(parent)
    except ProcessLookupError:
        return 1
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    me = os.getpid()
    child = os.fork()
    if child == 0:
        libc.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == me:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
