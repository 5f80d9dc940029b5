"""The lab's own code as the guest of the virtual kernel imports it: compiled, and the same for every run.

Whether Python finds compiled files beside the sources depends on what was imported on this machine before, and to
compile one costs the guest clock readings: two equal runs would differ.  So the guest gets a copy of the package in
which everything is compiled and nothing else is there.  Its name is a hash of the sources and the Python version.
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from lab.engines.uml import cache_folder
from lab.errors import UsageError

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_KEPT_S: Final = 7 * 86400.0
"""How long a copy that nobody uses stays in the cache."""


@cache
def source_hash() -> str:
    """SHA-256 of the lab's sources, names included."""
    found = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        found.update(f"{file.relative_to(_PACKAGE)}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()


def compiled() -> Path:
    """The folder to put on the guest's Python path; made on first use.

    Raises UsageError when the cache cannot be written.
    """
    key = hashlib.sha256(f"{source_hash()} {sys.version}".encode()).hexdigest()[:16]
    shelf = cache_folder("guest")
    folder = shelf / key
    if folder.exists():
        with suppress(OSError):  # a cache of somebody else, who lets others use it
            os.utime(folder)
        return folder
    if not os.access(shelf, os.W_OK):
        raise UsageError(f"cannot write {shelf}; set XDG_CACHE_HOME to a folder of yours")
    with tempfile.TemporaryDirectory(prefix="making-", dir=shelf) as scratch:
        made = Path(scratch) / key
        for file in _PACKAGE.rglob("*.py"):
            name = file.relative_to(_PACKAGE.parent)
            # Tracebacks name the source in the checkout.  The hash says "do not look for the source".
            py_compile.compile(
                str(file),
                cfile=str((made / name).with_suffix(".pyc")),
                dfile=str(file),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    _drop_old(shelf)
    return folder


def _drop_old(shelf: Path) -> None:
    for folder in shelf.iterdir():
        with suppress(FileNotFoundError):  # another process drops it as well
            if folder.stat().st_mtime < time.time() - _KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)
