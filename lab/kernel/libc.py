"""The system calls Python 3.11 has no name for, through the C library.

Only calls: no policy, nothing of the lab is imported, so that the launcher can use it before anything else runs.
Every function raises OSError with the errno of the call.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

_PR_SET_PDEATHSIG: Final = 1
_RB_POWER_OFF: Final = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: Any, *arguments: Any) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags: int) -> None:
    """Move the calling thread (for CLONE_NEWPID: its future children) into new namespaces: unshare(2)."""
    _call(_libc.unshare, ctypes.c_int(flags))


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace that `fd` holds, of type `kind` (a CLONE_NEW* value): setns(2)."""
    _call(_libc.setns, ctypes.c_int(fd), ctypes.c_int(kind))


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _call(
        _libc.mount,
        source.encode(),
        target.encode(),
        None if fstype is None else fstype.encode(),
        ctypes.c_ulong(flags),
        None if data is None else data.encode(),
    )


def set_parent_death_signal(signal: int) -> None:
    """Have the kernel send `signal` to this process when the thread that forked it ends: prctl(2).

    Cleared by fork, by a change of credentials (unshare of a user namespace is one) and by executing a set-uid file.
    A parent that ended before the call sends nothing: the caller checks for that afterwards.
    """
    _call(_libc.prctl, ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal), 0, 0, 0)


def power_off() -> None:
    """Switch the machine off at once: reboot(2).  Only process 1 of the virtual kernel has a use for it."""
    _call(_libc.reboot, ctypes.c_int(_RB_POWER_OFF))
