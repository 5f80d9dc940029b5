"""The first process of the virtual kernel: mounts what the agent needs, is the agent, and switches off.

One process from boot to power-off: a fork costs tens of milliseconds of wall time here, and every program less is a
program that cannot disturb a repeatable run.  The root file system is the host's, read-only; only the run folder,
mounted on /run/lab, can be written.  Nothing is ever printed on the console: a console write is an interrupt whose
time depends on the host.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Final

from lab.kernel import libc

RUN: Final = Path("/run/lab")
"""The run folder inside the guest."""

_RNDADDENTROPY: Final = 0x40085203

_RUN_OUTSIDE: Final = "/proc/self/cwd"
"""The run folder as the host names it: the working directory of the kernel's own process."""

STATUS: Final = "guest-status"
"""File in the run folder: the agent's exit status.  Its absence says that the guest did not end by itself."""

CAPABILITIES: Final = "capabilities.json"
"""File in the run folder: what the task "probe" found."""

ERRORS: Final = "guest-errors"
"""File in the run folder: what the guest's programs wrote to standard error."""

PACKAGES: Final = "LAB_PACKAGES"
"""Environment variable: the folders of installed packages, joined like a PATH."""


_SHARE_FOR_ONE: Final = 0.8
"""Of the guest's memory, what one program may have."""


def main(task: str) -> None:
    """Mount, do `task` ("agent" or "probe"), write its exit status, power off.  Does not return."""
    try:
        _mount()
        _seed()
        _redirect()
        sys.path += os.environ.get(PACKAGES, "").split(os.pathsep)
        status = _TASKS[task]()
        (RUN / STATUS).write_text(f"{status}\n")
    except BaseException:  # noqa: BLE001 - process 1 must not end any other way than by switching off
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os.sync()
        libc.power_off()


def _mount() -> None:
    nothing_risky = libc.MS_NOSUID | libc.MS_NODEV
    libc.mount("proc", "/proc", "proc", nothing_risky)
    libc.mount("sys", "/sys", "sysfs", nothing_risky)
    if not os.path.exists("/dev/null"):
        libc.mount("dev", "/dev", "devtmpfs", libc.MS_NOSUID)
    libc.mount("run", "/run", "tmpfs", nothing_risky, "mode=755")
    RUN.mkdir()
    libc.mount("lab", str(RUN), "hostfs", nothing_risky, _RUN_OUTSIDE)


def _seed() -> None:
    """Declare the random pool ready, on the strength of the run's seed.

    Nothing in here is secret.  Left alone, the kernel would stir its pool by spinning for a second of wall time as
    soon as somebody asks for randomness.
    """
    seed = os.environ.get("seed", "")  # noqa: SIM112 - a word of the kernel's command line
    digest = hashlib.sha256(f"lab seed {seed}".encode()).digest()
    pool = os.open("/dev/urandom", os.O_WRONLY)
    fcntl.ioctl(pool, _RNDADDENTROPY, struct.pack("=ii32s", 256, len(digest), digest))
    os.close(pool)


def _redirect() -> None:
    """Standard input from nowhere, output and errors to a file of the run folder."""
    nowhere = os.open("/dev/null", os.O_RDWR)
    errors = os.open(RUN / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for fd, target in ((nowhere, 0), (errors, 1), (errors, 2)):
        os.dup2(fd, target)
    for fd in {nowhere, errors} - {0, 1, 2}:
        os.close(fd)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _agent() -> int:
    os.environ["TMPDIR"] = "/run"
    _limit_memory()
    _import_asyncio_without_ssl()
    from lab import agent

    return agent.main([str(RUN)])


def _limit_memory() -> None:
    """A program that wants more memory than there is gets an error, before the kernel has to kill one.

    If that were process 1, the guest would be gone with all that the agent had yet to write.
    """
    import resource

    most = int(_SHARE_FOR_ONE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _import_asyncio_without_ssl() -> None:
    """asyncio does without ssl where there is none, and to import ssl costs a tenth of a second at every boot."""
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def _probe() -> int:
    from lab.kernel.caps import probe

    (RUN / CAPABILITIES).write_text(json.dumps([asdict(capability) for capability in probe()], indent=1))
    return 0


_TASKS: Final = {"agent": _agent, "probe": _probe}


if __name__ == "__main__":
    main(sys.argv[1])
