"""What this kernel can do, found by doing it in a throwaway namespace; never by version.

`probe` runs this module as a child process, which leaves the machine's own namespaces first and so tries everything
with exactly the rights a run would have.  It takes some tens of milliseconds and leaves nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.kernel import enter, libc, netlink, nft, shaping, sit
from lab.kernel.namespace import Namespace
from lab.kernel.tun import PacketDevice
from lab.topology.plan import Shape

_PACKAGES: Final = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing a topology may need."""

    name: str
    ok: bool
    detail: str
    """What was tried, or why it failed."""
    instead: str
    """What to do where it is missing."""


class Capabilities(Sequence[Capability]):
    """All of them, in order; `caps["sit"]` and `caps.sit` find one by name."""

    def __init__(self, found: Sequence[Capability]) -> None:
        self._found = tuple(found)
        self._by_name = {capability.name: capability for capability in found}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Capability]:
        return iter(self._found)

    def __getitem__(self, key: int | str | slice) -> Capability:  # type: ignore[override]
        if isinstance(key, str):
            return self._by_name[key]
        assert isinstance(key, int)
        return self._found[key]

    def __getattr__(self, name: str) -> Capability:
        try:
            return self.__dict__["_by_name"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None


@cache
def probe() -> Capabilities:
    """What this kernel lets this user do; tried once per process.  Never raises for a missing capability."""
    path = os.pathsep.join([str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.run(
        [sys.executable, "-P", "-S", "-m", "lab.kernel.caps"],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        said = child.stderr.strip().splitlines()
        reason = said[-1] if said else f"it ended with status {child.returncode}"
        if child.returncode < 0:
            reason = f"it was killed ({signal.Signals(-child.returncode).name})"
        raise LabError(f"what this kernel can do was not found out: {reason}")
    return Capabilities([Capability(**item) for item in json.loads(child.stdout)])


Try = Callable[[Namespace], str]


def _veth(ns: Namespace) -> str:
    with Namespace.create("peer") as peer:
        ns.netlink.do(
            [netlink.add_veth("v0", 0, "02:00:00:00:00:01", ns.fd, "v1", 0, "02:00:00:00:00:02", peer.fd, 1500)]
        )
    return "a veth pair between two namespaces"


def _bridge(ns: Namespace) -> str:
    ns.netlink.do([netlink.add_bridge("br0", 0, "02:00:00:00:00:03")])
    return "a bridge"


def _tun(ns: Namespace) -> str:
    PacketDevice.open(ns, "t0", 1280, kind="tun").close()
    return "a TUN device"


def _tun_fallback(ns: Namespace) -> str:
    PacketDevice.open(ns, "t1", 1280, kind="veth").close()
    return "a veth pair read by a packet socket"


def _sit(ns: Namespace) -> str:
    ns.netlink.do([sit.add_sit("s0", IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), 1280, 64)])
    return "a 6in4 device"


def _netem(ns: Namespace) -> str:
    ns.netlink.do(
        [shaping.netem("lo", 1, shaping.TC_H_ROOT, Shape("lo", "lo", 1, delay_ms=1, jitter_ms=0.1, loss_pct=0.1))]
    )
    return "delay, jitter and loss on an interface"


def _tbf(ns: Namespace) -> str:
    ns.netlink.do([shaping.tbf("lo", 1, shaping.TC_H_ROOT, 10.0, 1500)])
    return "a rate limit on an interface"


def _rules(ns: Namespace, kind: str, rule: str) -> None:
    nft.load(ns, f"table ip probe {{\n chain c {{\n type {kind};\n {rule}\n }}\n}}\ndelete table ip probe\n")


def _nft(ns: Namespace) -> str:
    _rules(ns, "filter hook input priority 0", "counter")
    return "an nftables chain with a counter"


def _nft_nat(ns: Namespace) -> str:
    _rules(ns, "nat hook postrouting priority srcnat", "masquerade")
    return "an nftables masquerade rule"


def _conntrack(ns: Namespace) -> str:
    _rules(ns, "filter hook forward priority 0", "ct state established accept")
    return "a rule on connection state"


def _raw(ns: Namespace) -> str:
    ns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPV6).close()
    return "a raw socket for protocol 41"


def _packet(ns: Namespace) -> str:
    ns.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    return "a packet socket"


_VIRTUAL: Final = (
    "use the virtual kernel (scripts/lab kernel build) or one that has it (Debian's and Ubuntu's do: modprobe {})"
)
_INSTEAD_OF_TUN: Final = "the lab uses a veth pair and a packet socket in its place"
_TRIES: Final[tuple[tuple[str, Try, str], ...]] = (
    ("veth", _veth, "nothing can replace it: " + _VIRTUAL.format("veth")),
    ("bridge", _bridge, "do without switches, or " + _VIRTUAL.format("bridge")),
    ("tun", _tun, f"{_INSTEAD_OF_TUN}; with it: sudo modprobe tun && sudo chmod 666 /dev/net/tun"),
    ("tun_fallback", _tun_fallback, "needs veth, packet sockets and IPv6"),
    ("raw", _raw, "6in4 tunnels need it; v6udpv4 tunnels do not"),
    ("packet", _packet, "captures need it: " + _VIRTUAL.format("af_packet")),
    ("nft", _nft, "install nftables (apt-get install nftables); NATs and firewalls are made of it"),
    ("nft_nat", _nft_nat, "do without NATs, or " + _VIRTUAL.format("nft_masq")),
    ("conntrack", _conntrack, "do without NATs, or " + _VIRTUAL.format("nft_ct")),
    ("sit", _sit, "the lab uses a tunnel device and a raw protocol-41 socket in its place"),
    ("netem", _netem, _VIRTUAL.format("sch_netem")),
    ("tbf", _tbf, "do without rate_mbit, or " + _VIRTUAL.format("sch_tbf")),
)


def _user_namespaces() -> Capability:
    """Tried in a child of its own: as root the rest is tried without a user namespace."""
    pid = os.fork()
    if pid == 0:
        try:
            enter.isolate(user=True)
        except enter.EnterError as exc:
            os._exit(min(exc.error.errno or 1, 255))
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    detail = "a user namespace with others in it" if number == 0 else os.strerror(number)
    return Capability("user_namespaces", number == 0, detail, enter.way_out(number))


def _try_all() -> list[Capability]:
    with Namespace.create("probe") as ns:
        return [_try(ns, *attempt) for attempt in _TRIES]


def _try(ns: Namespace, name: str, attempt: Try, instead: str) -> Capability:
    try:
        return Capability(name, True, attempt(ns), instead)
    except LabError as exc:
        return Capability(name, False, str(exc).removeprefix("probe: "), instead)
    except OSError as exc:
        return Capability(name, False, exc.strerror or str(exc), instead)


def _print(found: Sequence[Capability]) -> None:
    sys.stdout.write(json.dumps([asdict(capability) for capability in found]))


def _main() -> int:
    """In the child: print every capability as JSON."""
    found = [_user_namespaces()]
    try:
        enter.isolate()
    except enter.EnterError as exc:
        why = enter.way_out(exc.error.errno or 0)
        found.append(Capability("namespaces", False, str(exc), why))
        found += [Capability(name, False, "not tried: no namespaces", instead) for name, _, instead in _TRIES]
        _print(found)
        return 0
    pid = os.fork()  # process 1 of the new pid namespace: only while it lives can nft be started
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    libc.set_parent_death_signal(9)
    found.append(Capability("namespaces", True, "network, mount, pid, ipc and uts namespaces", ""))
    found += _try_all()
    _print(found)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
