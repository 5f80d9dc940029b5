"""What a stock Mininet that was killed has left on this machine, and the command that removes each thing.

The lab's own runs leave nothing, with Mininet's nodes too.  A Mininet outside them lives in the machine's own process
and network namespaces: when it is killed its nodes' shells hang up, but programs that survive that (those of `popen`,
nohup, daemons) go on and hold their node's network, and switches stay.  `mn -c` would remove much of it too, together
with every program of certain names and everybody's /tmp/*.log.

Only what can be told from a running Mininet's is reported: a node in use has its shell, "mininet:NAME".  A program is
Mininet's if its network has interfaces as Mininet names them, or if it has the prompt of Mininet's shells.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.kernel import open_vswitch

_INTERFACE: Final = re.compile(r"[\w.-]+-eth\d+")
_SWITCH: Final = re.compile(r"s\d+")
_PROMPT: Final = b"PS1=\x7f"
"""In the environment of whatever a node's shell has started."""
_SHELL: Final = re.compile(r"-is mininet:(\S+)")


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing, and how to be rid of it."""

    what: str
    remove: str
    """A command, for root."""


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    words: str
    network: str
    """Of its network namespace, as /proc tells it."""
    interfaces: tuple[str, ...]
    has_prompt: bool


def find() -> list[Leftover]:
    """What is there now, of what this user may see; nothing is changed."""
    processes = list(_processes())
    shells = {process for process in processes if _SHELL.search(process.words)}
    in_use = {shell.network for shell in shells if shell.parent != 1}
    here = _network("self")
    found = []
    for process in processes:
        nodes = {name.rpartition("-eth")[0] for name in process.interfaces if _INTERFACE.fullmatch(name)}
        orphaned = process in shells and process.parent == 1
        apart = process.network != here and process.network not in in_use
        if orphaned or (apart and (nodes or process.has_prompt)):
            node = ", ".join(sorted(nodes)) or "a node that is gone"
            found.append(Leftover(f"process {process.pid} on {node}: {process.words[:60]}", f"kill -9 {process.pid}"))
    if not in_use:  # else they may be those of the Mininet that is running
        found += _links()
        found += _open_vswitch()
    return found


def _processes() -> Iterator[_Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError, ValueError, IndexError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                lines = (entry / "net" / "dev").read_text().splitlines()[2:]
                names = tuple(line.partition(":")[0].strip() for line in lines)
                yield _Process(int(entry.name), parent, words, _network(entry.name), names, _has_prompt(entry))


def _has_prompt(entry: Path) -> bool:
    try:
        return _PROMPT in (entry / "environ").read_bytes().split(b"\0")
    except OSError:  # somebody else's
        return False


def _network(pid: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def _links() -> Iterator[Leftover]:
    for name in _names():
        if _INTERFACE.fullmatch(name):
            yield Leftover(f"interface {name}", f"ip link delete {name}")
    for name in _names("type", "bridge"):
        if _SWITCH.fullmatch(name):
            yield Leftover(f"bridge {name}", f"ip link delete {name}")


def _names(*which: str) -> list[str]:
    """The interfaces of this namespace.  (/sys/class/net may be another's.)"""
    if shutil.which("ip") is None:
        return []
    asked = subprocess.run(["ip", "-oneline", "link", "show", *which], capture_output=True, text=True, check=False)
    return re.findall(r"^\d+: ([^:@]+)", asked.stdout, re.MULTILINE)


def _open_vswitch() -> Iterator[Leftover]:
    for name in open_vswitch.left_bridges():
        yield Leftover(f"Open vSwitch bridge {name}", f"ovs-vsctl --if-exists del-br {name}")
