"""Child processes of the agent, for asyncio, without threads: a descriptor of the process tells when it ends.

Programs are started in the caller's thread, hence in the network namespace it has entered; see
`Namespace.run` and `Namespace.popen`, which are the ways in.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Final, Self

from lab.errors import KernelRefused, UsageError

Stream = int | IO[Any] | None

_TAIL: Final = 400
"""Characters of a failed program's own words that an error repeats."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended."""

    argv: tuple[str, ...]
    returncode: int
    """Exit status; -N if signal N ended it."""
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return self.stdout


class Process:
    """A running program in a node.  Everything it starts is in its process group and dies with `kill`."""

    def __init__(
        self, node: str, popen: subprocess.Popen[bytes], argv: Sequence[str], *, foreground: bool = False
    ) -> None:
        self.node = node
        self.argv = tuple(argv)
        self.pid = popen.pid
        self._popen = popen
        self._foreground = foreground
        self._ended: asyncio.Future[int] | None = None

    @classmethod
    def start(
        cls,
        node: str,
        argv: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        foreground: bool = False,
    ) -> Self:
        """Start `argv` in the namespace this thread is in.  Raises KernelRefused; UsageError for no list."""
        if isinstance(argv, str | bytes) or not argv:
            raise UsageError(f"a program is given as a list of words, such as ['ping', '-c', '3'], and not as {argv!r}")
        null = subprocess.DEVNULL
        try:
            if foreground:
                popen = subprocess.Popen(argv, env=env, process_group=0, preexec_fn=_take_terminal)
            else:
                popen = subprocess.Popen(
                    argv,
                    stdin=null if stdin is None else stdin,
                    stdout=null if stdout is None else stdout,
                    stderr=null if stderr is None else stderr,
                    env=env,
                    process_group=0,
                )
        except OSError as exc:
            # A folder of PATH that may not be entered hides behind it that there is no such program.
            missing = isinstance(exc, PermissionError) and shutil.which(argv[0]) is None
            number = errno.ENOENT if missing else exc.errno or 0
            raise KernelRefused(node, f"start {argv[0]}", number) from exc
        return cls(node, popen, argv, foreground=foreground)

    @classmethod
    def start_for_run(cls, node: str, argv: Sequence[str], *, wants_input: bool, env: Mapping[str, str] | None) -> Self:
        """As `start`, with pipes for what it reads and prints."""
        pipe = subprocess.PIPE
        return cls.start(node, argv, stdin=pipe if wants_input else None, stdout=pipe, stderr=pipe, env=env)

    @property
    def stdin(self) -> IO[bytes] | None:
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes] | None:
        return self._popen.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        return self._popen.stderr

    @property
    def returncode(self) -> int | None:
        """Exit status, -N for signal N, or None while it runs."""
        return self._popen.poll()

    async def wait(self) -> int:
        """The exit status (-N for signal N), once the program has ended.  Any number of tasks may wait."""
        if self._ended is None:
            if (status := self._popen.poll()) is not None:
                return status
            loop = asyncio.get_running_loop()
            ended = self._ended = loop.create_future()
            fd = os.pidfd_open(self.pid)

            def reap() -> None:
                loop.remove_reader(fd)
                os.close(fd)
                status = self._popen.wait()
                if self._foreground:
                    loop.remove_signal_handler(signal.SIGCHLD)
                if not ended.done():
                    ended.set_result(status)

            loop.add_reader(fd, reap)
            if self._foreground:
                loop.add_signal_handler(signal.SIGCHLD, self._resume)
                self._resume()  # it may have been stopped before the handler was there
        return await asyncio.shield(self._ended)

    def _resume(self) -> None:
        """Undo Ctrl-Z on a program that has the terminal and is no shell: nobody else could wake it again."""
        with suppress(ChildProcessError):
            if os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG) is not None:
                self.send_signal(signal.SIGCONT)

    def send_signal(self, number: int) -> None:
        """Send a signal to the program and all it started; nothing happens if it has ended."""
        if self._popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM to the program and all it started."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the program and all it started."""
        self.send_signal(signal.SIGKILL)


def _take_terminal() -> None:
    """In the child, leader of its own group: become the terminal's foreground group, as a shell would arrange.

    Then Ctrl-C reaches the program and not the lab.  SIGTTOU is what the kernel sends a background process that
    calls tcsetpgrp.
    """
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with suppress(OSError):  # no terminal: nothing to take
        os.tcsetpgrp(0, os.getpid())
    for number in (signal.SIGTTOU, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)


async def run_to_end(
    process: Process,
    *,
    input: str | bytes | None,
    timeout_s: float,
    check: bool,
) -> Completed:
    """Feed a program its input, gather what it prints, wait for its end; see `Namespace.run`."""
    data = input.encode() if isinstance(input, str) else input
    assert process.stdout is not None
    assert process.stderr is not None
    what = "run " + " ".join(process.argv)
    try:
        async with asyncio.timeout(timeout_s):
            out, err, _, status = await asyncio.gather(
                _read_all(process.stdout), _read_all(process.stderr), _feed(process.stdin, data), process.wait()
            )
    except TimeoutError as exc:
        raise KernelRefused(process.node, what, errno.ETIMEDOUT, f"no end within {timeout_s:g} s") from exc
    finally:
        if process.returncode is None:  # timed out or cancelled
            process.kill()
            await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:  # a cancelled task may not have got as far as taking it over
                pipe.close()
    done = Completed(process.argv, status, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and status != 0:
        words = (done.stderr or done.stdout).strip()[-_TAIL:]
        raise KernelRefused(process.node, what, 0, f"exit status {status}: {words}")
    return done


async def _read_all(pipe: IO[bytes]) -> bytes:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        return await reader.read()
    finally:
        transport.close()


async def _feed(pipe: IO[bytes] | None, data: bytes | None) -> None:
    if pipe is None:
        return
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    with suppress(BrokenPipeError, ConnectionResetError):  # it ended without reading all: its status tells
        writer.write(data or b"")
        await writer.drain()
    writer.close()
