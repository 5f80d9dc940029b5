"""Start a program in namespaces of its own, such that killing any process ends all of them and leaves nothing.

    python -P -S -m lab.engines.launch PARENT_PID REPORT_FD MODE PROGRAM [ARGUMENT...]

Three processes, each bound to the one before:

    caller -> launcher        The launcher watches a descriptor of the caller's *process*.  (The parent-death signal
                              would fire when the caller's starting *thread* ends, and is cleared by unshare.)
    launcher -> first         The first process of a new pid namespace.  It asks for SIGKILL on the death of the
                              launcher, which has one thread, and only then looks whether the launcher still holds the
                              write end of the lifeline: a launcher killed before the request is seen there.
    first -> program          When the first process of a pid namespace ends, the kernel kills all others in it.

The first process mounts /proc and a private /run, starts the program, reaps orphans and ends with the program's
status.  Mounts, links and namespaces exist only in these namespaces and go with the last process; the kernel takes
network namespaces apart in a thread of its own, some milliseconds later.

MODE is "batch" or "terminal".  A failure is one JSON object on REPORT_FD.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from lab.kernel import libc
from lab.kernel.enter import EnterError, isolate

EXIT_NOT_STARTED: Final = 125
"""The launcher could not set up the namespaces or the program; the report says why."""

GRACE_S: Final = 10.0
"""From the request to stop until the program is killed."""

_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def main(argv: Sequence[str]) -> int:
    """The launcher: the program's exit status, 128+N if signal N ended it, EXIT_NOT_STARTED if it never began."""
    parent, report, mode, *program = argv
    terminal = mode == "terminal"
    report_fd = int(report)
    os.set_inheritable(report_fd, False)
    try:
        watched = os.pidfd_open(int(parent))
    except ProcessLookupError:
        return EXIT_NOT_STARTED
    if os.getppid() != int(parent):  # it died before the descriptor was opened
        return EXIT_NOT_STARTED
    try:
        isolate()
        wakeup = _wake_on_signals(_STOP)
        lifeline, held = os.pipe()
        first = os.fork()
        if first == 0:
            _first_process(program, lifeline, held, report_fd, terminal=terminal)
    except EnterError as exc:
        _report(report_fd, exc)
        return EXIT_NOT_STARTED
    except OSError as exc:
        _report(report_fd, EnterError("start the first process", exc))
        return EXIT_NOT_STARTED
    os.close(lifeline)
    os.close(report_fd)
    return _watch(first, watched, wakeup, terminal=terminal)


def _wake_on_signals(numbers: Sequence[signal.Signals]) -> int:
    """A descriptor from which the number of each arriving signal can be read, as one byte."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in numbers:
        signal.signal(number, _noted)
    return reader


def _noted(number: int, frame: object) -> None:
    """A handler does nothing: the number has been written to the wake-up descriptor."""


def _watch(first: int, caller_fd: int, wakeup: int, *, terminal: bool) -> int:
    """Wait for the first process; end it when the caller is gone, or asks for it and the grace is over."""
    first_fd = os.pidfd_open(first)
    poll = select.poll()
    for fd in (first_fd, caller_fd, wakeup):
        poll.register(fd, select.POLLIN)
    timeout_ms: float | None = None
    while True:
        ready = {fd for fd, _ in poll.poll(timeout_ms)}
        if first_fd in ready:
            return _exit_status(os.waitpid(first, 0)[1])
        if caller_fd in ready or not ready:
            os.kill(first, signal.SIGKILL)
            poll.unregister(caller_fd)
            timeout_ms = None
        elif wakeup in ready:
            numbers = os.read(wakeup, 64)
            # From the keyboard they reach the whole foreground group: on a terminal only the program answers them.
            if not terminal or signal.SIGTERM in numbers or signal.SIGHUP in numbers:
                os.kill(first, signal.SIGTERM)
                timeout_ms = GRACE_S * 1000


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _first_process(program: Sequence[str], lifeline: int, held: int, report_fd: int, *, terminal: bool) -> NoReturn:
    """Process 1 of the pid namespace.  Never returns."""
    status = EXIT_NOT_STARTED
    try:
        libc.set_parent_death_signal(signal.SIGKILL)
        os.close(held)
        if _hung_up(lifeline):
            os._exit(EXIT_NOT_STARTED)
        _mount_own(program)
        wakeup = _wake_on_signals((*_STOP, signal.SIGCHLD))
        # A signal for the program that comes before it has handlers of its own waits until it has the default ones.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        main_child = os.fork()
        if main_child == 0:
            _execute(program, report_fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
        os.close(report_fd)
        status = _reap(main_child, lifeline, wakeup, terminal=terminal)
    except EnterError as exc:
        _report(report_fd, exc)
    except OSError as exc:
        _report(report_fd, EnterError("prepare the first process", exc))
    finally:
        os._exit(status)  # no clean-up of the launcher's copies; the kernel kills what is left in here


def _hung_up(lifeline: int) -> bool:
    poll = select.poll()
    poll.register(lifeline, 0)
    return bool(poll.poll(0))


def _mount_own(program: Sequence[str]) -> None:
    """/proc of this pid namespace, and an empty /run, where tools keep names and locks."""
    # A container may forbid a fresh /proc.  The old one works too: it only shows other processes as well.
    with suppress(PermissionError):
        libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    needed = [*program, os.getcwd(), sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("PATH", "").split(":")]
    kept = {path.split("/")[2] for path in map(os.path.abspath, needed) if path.startswith("/run/")}
    try:
        folders = {name: os.open(f"/run/{name}", os.O_PATH | os.O_DIRECTORY) for name in kept}
        libc.mount("lab", "/run", "tmpfs", libc.MS_NOSUID | libc.MS_NODEV, "mode=755")
        for name, fd in folders.items():
            os.mkdir(f"/run/{name}")
            libc.mount(f"/proc/self/fd/{fd}", f"/run/{name}", None, libc.MS_BIND | libc.MS_REC)
            os.close(fd)
    except OSError as exc:
        raise EnterError("mount a private /run", exc) from exc


def _execute(program: Sequence[str], report_fd: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    for number in (*_STOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    try:
        os.execvp(program[0], list(program))
    except OSError as exc:
        _report(report_fd, EnterError(f"start {program[0]}", exc))
    os._exit(EXIT_NOT_STARTED)


def _reap(main_child: int, lifeline: int, wakeup: int, *, terminal: bool) -> int:
    """Bury orphans until the program ends, or the launcher has gone; the program's exit status."""
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    poll.register(lifeline, 0)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if lifeline in ready:
            return EXIT_NOT_STARTED
        numbers = os.read(wakeup, 64)
        if signal.SIGTERM in numbers:
            if terminal:
                return 128 + signal.SIGTERM
            # Python's own answer to SIGINT unwinds the program: files are completed, results written.
            os.kill(main_child, signal.SIGINT)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == main_child:
                return _exit_status(status)
            if pid == 0:
                break


def _report(fd: int, failed: EnterError) -> None:
    text = json.dumps({"stage": failed.stage, "errno": failed.error.errno or 0})
    with suppress(OSError):
        os.write(fd, text.encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
