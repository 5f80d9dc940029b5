"""What became of a guest that ended: its agent's exit status, or the best explanation of why there is none."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Final, NoReturn

from lab.engines import guest
from lab.errors import RunFailed

CONSOLE: Final = "guest-console"
"""File in the run folder: what the kernel printed."""

_FULL_BELOW: Final = 1 << 16
"""Bytes free on a disk that is called full: too few for another batch of packets."""

_PANIC: Final = re.compile(r"Kernel panic - not syncing: (.*)")
_NO_MEMORY: Final = ("System is deadlocked on memory", "Out of memory")
_DISK: Final = (os.strerror(28), os.strerror(122))


def exit_status(run_dir: Path) -> int | None:
    """The exit status that the guest's agent left in the run folder, or None; takes its traces away if it did."""
    status = run_dir / guest.STATUS
    try:
        return int(status.read_text())
    except (FileNotFoundError, ValueError):  # an empty file: the disk was full
        return None
    finally:
        ended = status.exists()
        for name in (guest.STATUS, guest.ERRORS, CONSOLE):
            file = run_dir / name
            if file.exists() and (ended or file.stat().st_size == 0):
                file.unlink()


def explain(run_dir: Path, ended: int, seconds: float, memory_mb: int) -> NoReturn:
    """Raise RunFailed for a guest that ended, with the wait status `ended`, and left no exit status of its own."""
    console, errors = _lines(run_dir / CONSOLE), _lines(run_dir / guest.ERRORS)
    panic = next((found[1] for line in console if (found := _PANIC.search(line))), None)
    if panic is not None and any(sign in panic for sign in _NO_MEMORY):
        what = f"the guest ran out of memory (it has {memory_mb} MB)"
    elif panic is not None:
        what = f"the virtual kernel panicked: {panic}"
    elif shutil.disk_usage(run_dir).free < _FULL_BELOW or any(sign in line for line in errors for sign in _DISK):
        what = "the disk of the run folder is full"
    elif ended < 0:
        what = f"the process that watches the virtual kernel was killed ({signal.Signals(-ended).name})"
    elif ended > 128:
        what = f"the virtual kernel was killed ({signal.Signals(ended - 128).name})"
    elif errors:
        what = f"the guest ended without a result: {errors[-1]}"
    else:
        words = f": {console[-1]}" if console else ""
        what = f"the guest ended without a result, status {ended}{words}"
    raise RunFailed(f"{what}, after {seconds:.1f} s", folder=str(run_dir))


def _lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    return [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
