"""The virtual engine: user-mode Linux in virtual time.

The same agent carries out the same plan, as the first process of a Linux kernel that is an ordinary program of this
user.  Time there is virtual: it stands still while the guest works and jumps when everything in it waits.  With the
same seed, kernel, Python and packages two runs are equal to the last byte.  The guest has no network but its own and
can write to the run folder only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Final

import lab
from lab.engines import bundle, guest, uml, verdict
from lab.engines.signals import interrupted_by_signals, signals_put_off
from lab.errors import MissingFeature, RunFailed, UsageError
from lab.kernel.caps import Capabilities, Capability

_CHECKOUT: Final = Path(lab.__file__).resolve().parent.parent

MEMORY_MB: Final = 512
"""Of the guest; pages it does not touch cost nothing."""

START_TIME_S: Final = 1_767_225_600
"""The guest's clock at boot, seconds since the epoch: 2026-01-01 00:00 UTC."""

_SCRATCH: Final = ".uml"


def run_agent(
    run_dir: Path,
    *,
    seed: int,
    start_time_s: int = START_TIME_S,
    real_time: bool = False,
    timeout_s: float | None = None,
) -> int:
    """Run the agent on the job in `run_dir` inside the virtual kernel; its exit status.

    `timeout_s` is wall time, boot included.  KeyboardInterrupt (and SIGTERM or SIGHUP, in the main thread) ends the
    guest and is raised again.  Raises MissingFeature without a built kernel, and RunFailed with the reason when the
    guest panics, hangs or cannot write.
    """
    return _boot(
        run_dir.resolve(), "agent", seed=seed, start_time_s=start_time_s, real_time=real_time, timeout_s=timeout_s
    )


def _boot(
    run_dir: Path,
    task: str,
    *,
    seed: int,
    start_time_s: int = START_TIME_S,
    real_time: bool = False,
    timeout_s: float | None = None,
) -> int:
    """Boot, do one of the guest's tasks, power off; the task's exit status."""
    kernel = uml.require()
    scratch = run_dir / _SCRATCH
    try:
        scratch.mkdir()
    except OSError as exc:
        raise UsageError(f"cannot write the run folder {run_dir}: {exc.strerror}") from exc
    try:
        command = _command(kernel.path, task, seed, start_time_s, real_time)
        with (run_dir / verdict.CONSOLE).open("wb") as console, signals_put_off() as let_signals_come:
            began = time.monotonic()
            machine = subprocess.Popen(
                [sys.executable, "-P", "-S", "-m", "lab.engines.tether", str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=run_dir,
                env={
                    "PYTHONPATH": str(_CHECKOUT),
                    "PATH": "/usr/bin:/bin",
                    "TMPDIR": _memory_folder(),
                    "HOME": "/",
                },
                start_new_session=True,  # so that Ctrl-C reaches this process only
            )
            try:
                with interrupted_by_signals():
                    let_signals_come()
                    machine.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _end(machine)
                raise RunFailed(
                    f"the guest did not end within {timeout_s:g} s of wall time", folder=str(run_dir)
                ) from None
            except BaseException:
                _end(machine)
                raise
        seconds = time.monotonic() - began
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        status = verdict.exit_status(run_dir)
    if status is None:
        verdict.explain(run_dir, machine.returncode, seconds, MEMORY_MB)
    return status


@cache
def capabilities() -> Capabilities:
    """What the virtual kernel can do: found by trying, in the guest, once for each build of it."""
    kernel = uml.require()
    known = kernel.path.parent / "capabilities.json"
    if not known.exists():
        # A cache of somebody else, who lets others use it, cannot keep the answer.
        beside = kernel.path.parent if os.access(kernel.path.parent, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="probe-", dir=beside) as folder:
            _boot(Path(folder), "probe", seed=0, timeout_s=120)
            found = Path(folder) / guest.CAPABILITIES
            text = found.read_text()
            if beside is not None:
                found.replace(known)
    else:
        text = known.read_text()
    return Capabilities([Capability(**item) for item in json.loads(text)])


def _command(kernel: Path, task: str, seed: int, start_time_s: int, real_time: bool) -> list[str]:
    """The kernel's command line.

    The kernel mixes it into its random pool, so it holds the seed and nothing that differs between two runs: the run
    folder is the working directory of the kernel's own process.  (To walk a path costs the guest a different number
    of clock readings for each depth of folders, so the guest never walks the run folder's path.)
    """
    clock = [] if real_time else ["time-travel=inf-cpu", f"time-travel-start={start_time_s * 1_000_000_000}"]
    return [
        "setarch",
        "--addr-no-randomize",
        str(kernel),
        f"mem={MEMORY_MB}M",
        "rootfstype=hostfs",
        "ro",
        "quiet",
        "loglevel=1",
        "norandmaps",
        "panic=-1",
        "con=null",
        "con0=null,fd:1",
        f"uml_dir={_SCRATCH}/",
        "umid=lab",
        *clock,
        f"seed={seed}",
        _word("init", sys.executable),
        _word("PYTHONPATH", str(bundle.compiled())),
        _word(guest.PACKAGES, os.pathsep.join(site.getsitepackages())),
        "PYTHONHASHSEED=0",
        "PYTHONDONTWRITEBYTECODE=1",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/run",
        "LC_ALL=C.UTF-8",
        "--",
        "-S",  # what is installed may bring files that are carried out whenever Python starts
        "-m",
        "lab.engines.guest",
        task,
    ]


def _word(name: str, path: str) -> str:
    """`name=path` as the kernel reads it: quoted where it may hold blanks.  UsageError for a path it cannot be told."""
    if '"' in path or not path.isprintable():
        raise UsageError(f"the virtual kernel cannot be told the path {path!r}; use one without quotation marks")
    # To the kernel the second byte of some letters is a blank as well.
    return f"{name}={path}" if path.isascii() and " " not in path else f'{name}="{path}"'


def _memory_folder() -> str:
    """Where the guest's memory file goes: a tmpfs that allows execution, else the folder for temporary files.

    It has to have room for all of the memory: the guest would be killed at the first page that finds none.
    """
    for folder in ("/dev/shm", tempfile.gettempdir()):
        if os.access(folder, os.W_OK):
            about = os.statvfs(folder)
            if not about.f_flag & os.ST_NOEXEC and about.f_bavail * about.f_frsize >= MEMORY_MB << 20:
                return folder
    raise MissingFeature(
        f"a temporary folder that allows execution and has {MEMORY_MB} MB to spare", instead="set TMPDIR to one"
    )


def _end(machine: subprocess.Popen[bytes]) -> None:
    machine.send_signal(signal.SIGTERM)
    try:
        machine.wait(5)
    except subprocess.TimeoutExpired:
        machine.kill()
        machine.wait()
