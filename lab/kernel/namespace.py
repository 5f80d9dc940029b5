"""Network namespaces without a name: a node's network is a descriptor, and goes when the descriptor is closed.

A `Namespace` is made inside the calling thread (`unshare`, keep a descriptor, `setns` back).  Nothing is written to
/run/netns, so two labs never meet and a killed process leaves nothing.  A socket belongs for life to the namespace
it was opened in: that is how a coroutine works in a node without the process moving there.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

from lab.errors import KernelRefused
from lab.kernel import libc
from lab.kernel.netlink import Netlink
from lab.kernel.process import Completed, Process, Stream, run_to_end

_THIS_THREAD: Final = "/proc/thread-self/ns/net"


_thread = threading.local()


def _visited() -> list[int]:
    """The namespaces this thread is in, innermost last; the first is where it was when it first asked.

    Not before: the launcher leaves the machine's own namespace after this module was imported.
    """
    if not hasattr(_thread, "visited"):
        _thread.visited = [os.open(_THIS_THREAD, os.O_RDONLY | os.O_CLOEXEC)]
    visited: list[int] = _thread.visited
    return visited


class Namespace:
    """A network namespace, called `name` in messages, held by the descriptor `fd`."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self._netlink: Netlink | None = None

    def __repr__(self) -> str:
        return f"<Namespace {self.name} fd={self.fd}>"

    @classmethod
    def create(cls, name: str) -> Self:
        """A new, empty namespace (loopback down); the calling thread stays where it is.  Raises KernelRefused."""
        home = _visited()[-1]
        try:
            libc.unshare(libc.CLONE_NEWNET)
            try:
                made = cls(name, os.open(_THIS_THREAD, os.O_RDONLY | os.O_CLOEXEC))
                made._netlink = Netlink(name)  # opened while here: saves a second visit
            finally:
                libc.setns(home, libc.CLONE_NEWNET)
        except OSError as exc:
            raise KernelRefused(name, "make a network namespace", exc.errno or 0) from exc
        return made

    @classmethod
    def current(cls, name: str) -> Self:
        """The namespace the calling thread is in now."""
        return cls(name, os.open(_THIS_THREAD, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        """Let go of the namespace.  The kernel removes it, and its links, once no socket or process is left in it.

        The removal itself happens later, in a kernel thread.
        """
        self.close_netlink()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace inside the block; sockets opened and children started stay in it.

        May be nested.  Never `await` inside: everything else the event loop runs meanwhile would be in here too.
        Where the thread is here already nothing is done: `setns` would want CAP_SYS_ADMIN even for that.
        """
        stack = _visited()
        if os.path.sameopenfile(self.fd, stack[-1]):
            yield
            return
        libc.setns(self.fd, libc.CLONE_NEWNET)
        stack.append(self.fd)
        try:
            yield
        finally:
            stack.pop()
            libc.setns(stack[-1], libc.CLONE_NEWNET)

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """A non-blocking socket that lives in this namespace.  Raises OSError as socket.socket does."""
        with self.entered():
            return socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)

    @property
    def netlink(self) -> Netlink:
        """A route netlink socket in this namespace, opened on first use."""
        if self._netlink is None:
            with self.entered():
                self._netlink = Netlink(self.name)
        return self._netlink

    def close_netlink(self) -> None:
        """Close the route netlink socket; `netlink` opens another when it is needed."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def sysctl(self, key: str, value: str | None = None) -> str:
        """Write `value` to /proc/sys/`key` as this namespace sees it ("net/ipv4/ip_forward"), or read it.

        Comes back without the final newline.  Raises KernelRefused.
        """
        with self.entered():
            return self._sysctl_here(key, value)

    def sysctls(self, settings: Mapping[str, str]) -> None:
        """Write several sysctls in order, in one visit.  Raises KernelRefused."""
        with self.entered():
            for key, value in settings.items():
                self._sysctl_here(key, value)

    def _sysctl_here(self, key: str, value: str | None) -> str:
        try:
            fd = os.open(f"/proc/sys/{key}", (os.O_RDONLY if value is None else os.O_WRONLY) | os.O_CLOEXEC)
            try:
                if value is None:
                    return os.read(fd, 4096).decode().rstrip("\n")
                os.write(fd, value.encode())
                return value
            finally:
                os.close(fd)
        except OSError as exc:
            what = f"read sysctl {key}" if value is None else f"write sysctl {key}={value}"
            raise KernelRefused(self.name, what, exc.errno or 0) from exc

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        foreground: bool = False,
    ) -> Process:
        """Start a program in this namespace; needs a running event loop to wait for it.

        `stdin`, `stdout` and `stderr` are as in subprocess.Popen, but None means no terminal: /dev/null.
        `foreground` is for a shell: the three streams are the agent's own and the program gets the terminal.
        Raises KernelRefused if it cannot be started.
        """
        with self.entered():
            return Process.start(
                self.name, argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, foreground=foreground
            )

    async def run(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes | None = None,
        timeout_s: float = 60.0,
        check: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program in this namespace to its end and give back what it printed.

        Raises KernelRefused if it cannot start, does not end within `timeout_s` (it and its children are killed
        then), or, with `check`, ends with another status than 0.
        """
        with self.entered():
            process = Process.start_for_run(self.name, argv, wants_input=input is not None, env=env)
        return await run_to_end(process, input=input, timeout_s=timeout_s, check=check)


def raise_descriptor_limit(wanted: int = 65536) -> int:
    """Allow this process `wanted` open files, or as many as the system lets it have; the limit that now holds.

    A node costs a descriptor, each of its sockets another: the usual 1,024 are used up by some 300 nodes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with suppress(OSError, ValueError):  # only root may raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
