"""Whether Open vSwitch can be the switches of a Mininet network here, found by making a bridge of it.

Its daemons make bridges in the network namespace that they are in themselves, the machine's own as a rule: a network in
namespaces of the lab is out of their reach, though they answer there.  The kernel's datapath is the fast one; where the
kernel has no module `openvswitch`, ovs-vswitchd switches packets itself ("user").
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

PROBE: Final = "labprobe"
"""What bridges of the probe are called, followed by the number of its process."""

_DATAPATHS: Final = {"kernel": "system", "user": "netdev"}
_PATIENCE_S: Final = 5
_LOCAL_PORT: Final = "65534"
"""Number of a bridge's own port (OpenFlow 1.0, OFPP_LOCAL)."""


@dataclass(frozen=True, slots=True)
class OpenVSwitch:
    """What was found."""

    datapath: str | None
    """"kernel" or "user", as of Mininet's OVSSwitch; None: it cannot be used."""
    why: str
    """What was tried, or why it cannot."""
    installed: bool = True


@cache
def find() -> OpenVSwitch:
    """Whether Open vSwitch can be used by this process, on which datapath; tried once, in some tenths of a second.

    A bridge is made and removed where the daemons are, and only if they are in this process's network namespace.
    """
    if not _installed():
        return OpenVSwitch(None, "Open vSwitch is not installed (Debian's package openvswitch-switch)", False)
    if (why_not := _out_of_reach()) is not None:
        return OpenVSwitch(None, why_not)
    refused = []
    try:
        for datapath in _DATAPATHS:
            why_not = _try(datapath)
            if why_not is None:
                return OpenVSwitch(datapath, f"Open vSwitch made a bridge on its {datapath} datapath")
            refused.append(f"{datapath} datapath: {why_not}")
    except TimeoutError as exc:
        return OpenVSwitch(None, f"Open vSwitch does not answer: {exc}")
    return OpenVSwitch(None, "Open vSwitch makes no bridge; " + "; ".join(refused))


def leave_others_alone() -> None:
    """Keep this process, and what it will start, from daemons that are in another network namespace.

    They answer there, and would make and delete bridges in the machine's network.
    """
    if _installed() and _out_of_reach() is not None:
        find()  # while it can still tell why
        os.environ["OVS_RUNDIR"] = "/nonexistent"


def left_bridges() -> list[str]:
    """The bridges here that a Mininet made, which may use them still, or a probe that was killed."""
    if not _installed() or _out_of_reach() is not None:
        return []
    try:
        asked = vsctl("--format=json", "--columns=name,other_config", "list", "bridge")
    except TimeoutError:
        return []
    rows = json.loads(asked.stdout)["data"] if asked.returncode == 0 else []
    # ["lan", ["map", [["dp-desc", "lan"], ...]]]: Mininet describes each datapath by the name of its switch.
    return [name for name, (_, pairs) in rows if ["dp-desc", name] in pairs or _is_of_a_dead_probe(name)]


def _is_of_a_dead_probe(name: str) -> bool:
    return bool(re.fullmatch(rf"{PROBE}\d+", name)) and not Path("/proc", name.removeprefix(PROBE)).exists()


def _installed() -> bool:
    return shutil.which("ovs-vsctl") is not None


def _out_of_reach() -> str | None:
    """Why the daemons cannot make anything in this network namespace, or None."""
    database = Path(os.environ.get("OVS_RUNDIR") or "/var/run/openvswitch", "db.sock")
    try:
        daemon = _listener(database)
    except OSError as exc:
        return f"Open vSwitch does not answer at {database}: {exc.strerror}"
    return None if _is_here(daemon) else "Open vSwitch runs in another network namespace than this"


def _listener(path: Path) -> int:
    """The process that listens on a socket; 0: one that this process cannot see.  Raises OSError."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.connect(str(path))
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])


def _is_here(pid: int) -> bool:
    """Whether a process is in this network namespace."""
    with suppress(OSError):
        return pid > 0 and os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    return False


def _try(datapath: str) -> str | None:
    """Make a bridge and look whether it is there; why it is not, or None.  Raises TimeoutError."""
    name = f"{PROBE}{os.getpid()}"
    try:
        made = vsctl("add-br", name, "--", "set", "bridge", name, f"datapath_type={_DATAPATHS[datapath]}")
        port = vsctl("get", "interface", name, "ofport").stdout.strip()
        if made.returncode == 0 and port == _LOCAL_PORT and interface_exists(name):
            return None
        return (made.stderr.strip().splitlines() or ["the bridge is not there"])[0].removeprefix("ovs-vsctl: ")
    finally:
        _remove(name)


def _remove(bridge: str) -> None:
    try:
        vsctl("--if-exists", "del-br", bridge)
    except TimeoutError:
        with suppress(TimeoutError):
            vsctl("--no-wait", "--if-exists", "del-br", bridge)  # of a daemon that carries nothing out


def interface_exists(iface: str) -> bool:
    """Whether the network namespace of this thread has an interface of that name."""
    return iface in [name for _, name in socket.if_nameindex()]


def vsctl(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ovs-vsctl, with its default of waiting until it is done.  Raises TimeoutError after some seconds."""
    command = ["ovs-vsctl", f"--timeout={_PATIENCE_S}", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGALRM:
        raise TimeoutError(f"no end of 'ovs-vsctl {' '.join(words[:2])}' in {_PATIENCE_S} s")
    return done
