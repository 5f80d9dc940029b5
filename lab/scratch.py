"""Folders for work that leaves nothing: removed at the end, and after a kill -9 by whoever needs the next one.

Each folder holds a file that its process keeps locked.  The kernel drops the lock with the process, however that
ended, so a folder whose lock is free belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "lab-scratch-"
_LOCK: Final = ".lock"


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A new folder in the folder for temporary files, for the block; `purpose` becomes part of its name."""
    parent = Path(tempfile.gettempdir())
    _clear_abandoned(parent)
    made = Path(tempfile.mkdtemp(prefix=".lab-", dir=parent))
    lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # It gets the name that others look for when it is locked already.
    folder = made.rename(parent / f"{_PREFIX}{purpose}{made.name.removeprefix('.lab')}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _clear_abandoned(parent: Path) -> None:
    """Remove this user's folders whose process is gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
