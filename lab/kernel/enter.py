"""Leave the machine's own namespaces: for the launcher of a run and for the capability probe.

As root plain namespaces are enough, and leave root able to read everybody's files.  An ordinary user, or root without
the capability, gets a user namespace first, in which it is root over what it makes there and nothing else.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from lab.kernel import libc

SPACES: Final = libc.CLONE_NEWNET | libc.CLONE_NEWNS | libc.CLONE_NEWPID | libc.CLONE_NEWIPC | libc.CLONE_NEWUTS

_SWITCHES: Final = (
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("user/max_user_namespaces", "0", "10000"),
)
"""Sysctls that forbid user namespaces: (key, the value that forbids, a value that allows)."""


class EnterError(Exception):
    """`stage` did not work, for the reason `error`."""

    def __init__(self, stage: str, error: OSError) -> None:
        super().__init__(f"{stage}: {error.strerror}")
        self.stage = stage
        self.error = error


def isolate(*, user: bool | None = None) -> None:
    """Move this process, which must have one thread, to namespaces of its own; its next child is process 1 there.

    `user` says whether to begin with a user namespace; None means: where plain ones are refused.  Nothing mounted
    afterwards is seen outside.  Raises EnterError.
    """
    if user is None:
        user = os.geteuid() != 0 or not _plain()
    elif not user:
        _unshare(SPACES, "make network, mount and pid namespaces")
    if user:
        _become_root_of_own()
        _unshare(SPACES, "make network, mount and pid namespaces")
    try:
        libc.mount("none", "/", None, libc.MS_REC | libc.MS_PRIVATE)
    except OSError as exc:
        raise EnterError("make the mounts private", exc) from exc


def _plain() -> bool:
    try:
        libc.unshare(SPACES)
    except PermissionError:
        return False
    return True


def _unshare(flags: int, stage: str) -> None:
    try:
        libc.unshare(flags)
    except OSError as exc:
        raise EnterError(stage, exc) from exc


def _become_root_of_own() -> None:
    """A user namespace where this user is root (user_namespaces(7))."""
    uid, gid = os.geteuid(), os.getegid()
    _unshare(libc.CLONE_NEWUSER, "make a user namespace")
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", name).write_text(text)
    except OSError as exc:
        raise EnterError("map this user into a user namespace", exc) from exc


def way_out(number: int) -> str:
    """What a person can do where `isolate` failed with errno `number`."""
    for key, forbids, allows in _SWITCHES:
        with suppress(OSError):
            if Path("/proc/sys", key).read_text().strip() == forbids:
                return f"run as root, or allow it: sudo sysctl -w {key.replace('/', '.')}={allows}"
    if number in (errno.ENOSPC, errno.EUSERS):
        return "too many namespaces exist: end some, or raise user.max_user_namespaces and user.max_net_namespaces"
    return "run as root; a container needs CAP_SYS_ADMIN and a seccomp profile that allows unshare and mount"
