"""The host engine: this machine's own kernel, in namespaces that exist for one run.

The agent runs as `python -m lab.agent RUN_DIR`, started by `lab.engines.launch`.  Nothing is made in the machine's
own network namespace.  Whatever process of a run is killed, all the others end and nothing outside the run folder is
left; there is no clean-up command because there is nothing to clean.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import lab
from lab.engines.launch import EXIT_NOT_STARTED, GRACE_S
from lab.engines.signals import interrupted_by_signals, signals_put_off
from lab.errors import MissingFeature, RunFailed
from lab.kernel.enter import way_out

_CHECKOUT: Final = Path(lab.__file__).resolve().parent.parent


def run_agent(run_dir: Path, *, interactive: bool = False, timeout_s: float | None = None) -> int:
    """Run the agent on the job in `run_dir` to its end; its exit status, 128+N if signal N killed it.

    `interactive` gives the agent this terminal; otherwise its standard input is empty and what it prints goes to
    standard error.  KeyboardInterrupt (and SIGTERM or SIGHUP, in the main thread) asks the agent to finish its files,
    waits for that and is raised again.  Raises MissingFeature where namespaces are forbidden, and RunFailed when
    `timeout_s` is over.
    """
    return launch([sys.executable, "-P", "-m", "lab.agent", str(run_dir.resolve())], run_dir, interactive, timeout_s)


def launch(program: Sequence[str], run_dir: Path, interactive: bool, timeout_s: float | None) -> int:
    """Run any program the way `run_agent` runs the agent."""
    reader, writer = os.pipe()
    # -S: the launcher needs the standard library only, and starts in half the time.  -P: a folder that happens to be
    # the working directory may hold a json.py of its own.
    command = [sys.executable, "-P", "-S", "-m", "lab.engines.launch", str(os.getpid()), str(writer)]
    command += ["terminal" if interactive else "batch", *program]
    path = os.pathsep.join([str(_CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with os.fdopen(reader, "rb") as report, _terminal_kept(interactive), signals_put_off() as let_signals_come:
        try:
            launcher = subprocess.Popen(
                command,
                stdin=None if interactive else subprocess.DEVNULL,
                stdout=None if interactive else 2,
                pass_fds=[writer],
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=not interactive,  # so that Ctrl-C reaches this process only
            )
        finally:
            os.close(writer)
        with interrupted_by_signals():
            status = _wait(launcher, run_dir, timeout_s, let_signals_come)
        if said := report.read():
            failure = json.loads(said)
            _explain(str(failure["stage"]), int(failure["errno"]))
    if status == EXIT_NOT_STARTED:
        raise RunFailed("the launcher ended before the agent began", folder=str(run_dir))
    return status if status >= 0 else 128 - status


def _wait(
    launcher: subprocess.Popen[bytes], run_dir: Path, timeout_s: float | None, let_signals_come: Callable[[], None]
) -> int:
    try:
        let_signals_come()
        return launcher.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _stop(launcher)
        raise RunFailed(f"the run did not end within {timeout_s:g} s", folder=str(run_dir)) from None
    except BaseException:
        _stop(launcher)
        raise


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    """Ask the run to end; insist when the grace is over or the person is impatient.

    Raises only what the person's impatience does: that the grace was needed is not news.
    """
    try:
        launcher.terminate()
        launcher.wait(GRACE_S + 5)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()
    except BaseException:
        launcher.kill()  # with it goes all it started
        launcher.wait()
        raise


@contextmanager
def _terminal_kept(interactive: bool) -> Iterator[None]:
    """After the block this process group has the terminal again: a shell in the lab took it."""
    try:
        yield
    finally:
        if interactive and os.isatty(0):
            # A background process that calls tcsetpgrp is stopped by SIGTTOU unless it blocks it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            try:
                with suppress(OSError):
                    os.tcsetpgrp(0, os.getpgrp())
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _explain(stage: str, number: int) -> NoReturn:
    """Raise MissingFeature for a launcher that could not set up its namespaces."""
    if stage.startswith("start "):
        raise MissingFeature(stage.removeprefix("start "), instead="install it")
    raise MissingFeature(f"the right to {stage} ({os.strerror(number)})", instead=way_out(number))
