"""A run in the virtual kernel from a command line, and the processes it consists of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from lab import journal

CHECKOUT: Final = Path(__file__).parent.parent.parent
TROUBLE: Final = Path(__file__).parent / "topologies" / "trouble.py"
DEADLINE_S: Final = 100.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one with the same number by when it began."""

    pid: int
    parent: int
    began: int
    arguments: str

    @classmethod
    def look(cls, pid: int) -> Self | None:
        """The process with this number; None when there is none, or only what its parent has not yet taken away."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return None
        fields = status.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[1]), int(fields[19]), arguments)

    @property
    def alive(self) -> bool:
        now = Process.look(self.pid)
        return now is not None and now.began == self.began


def descendants(root: int) -> list[Process]:
    """The processes that come from `root`, parents before children."""
    looked = [Process.look(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    everyone = [process for process in looked if process is not None]
    family = [root]
    found: list[Process] = []
    for pid in family:  # grows meanwhile
        children = [process for process in everyone if process.parent == pid]
        found += children
        family += [child.pid for child in children]
    return found


def wait_for(condition: Callable[[], bool], what: str, seen: Callable[[], object] = lambda: "it was not so") -> None:
    """Return when `condition` holds; fails the test, with what is `seen` then, when it does not in time."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}: {seen()}"
        time.sleep(0.05)


def wait_until_gone(processes: Sequence[Process]) -> None:
    """Return when none of them is there any more."""

    def left() -> list[Process]:
        return [process for process in processes if process.alive]

    wait_for(lambda: not left(), "every process to end", left)


def address_in(file: Path) -> str:
    """The address of the Dask scheduler that writes this file, as soon as it is all there."""

    def written() -> str:
        try:
            return str(json.loads(file.read_text())["address"])
        except (FileNotFoundError, ValueError):  # a file that is there need not be complete
            return ""

    wait_for(lambda: bool(written()), f"a scheduler to write {file.name}", lambda: os.listdir(file.parent))
    return written()


class CommandLine:
    """`lab run` of the topology trouble, from a command line of its own; leave the block and all of it is gone."""

    def __init__(self, how: str, folder: Path, before: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        self.folder = folder
        command = [sys.executable, "-P", "-m", "lab", "run", str(TROUBLE), "--on", "virtual", "--seed", "1"]
        command += ["--set", f"how={how}", "--out", str(folder), *options]
        self._popen = subprocess.Popen(
            [*before, *command],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._popen.pid
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.communicate()
        for process in self.processes:
            if process.alive:
                os.kill(process.pid, signal.SIGKILL)

    def wait_until_under_way(self) -> None:
        """Wait for the first record of the scenario, and look who is there then."""
        file = self.folder / journal.FILE
        wait_for(lambda: file.exists() and b'"record"' in file.read_bytes(), "the first record", self._state)
        self.processes = descendants(self.pid)

    def find(self, name: str) -> Process:
        """The process called `tether`, `kernel` (the virtual one) or `stub` (where its programs run)."""
        tether = next(process for process in self.processes if "lab.engines.tether" in process.arguments)
        kernel = next(process for process in self.processes if process.parent == tether.pid)
        stub = next(process for process in self.processes if process.parent == kernel.pid)
        return {"tether": tether, "kernel": kernel, "stub": stub}[name]

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error, once the command has ended."""
        out, errors = self._popen.communicate(timeout=DEADLINE_S)
        return self._popen.returncode, out, errors

    def wait_until_nothing_is_left(self) -> None:
        """Wait until none of its processes is there any more."""
        assert len(self.processes) >= 3, self.processes
        wait_until_gone(self.processes)

    def _state(self) -> str:
        files = sorted(os.listdir(self.folder)) if self.folder.exists() else "no run folder"
        return f"exit status {self._popen.poll()}, {files}"
