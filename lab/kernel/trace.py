"""Watch one packet cross several nodes: packets on every interface, nft's trace where there are rules, flows.

    async with Watch(namespaces, ["udp dport 3653 @th,64,32 0x61626364"], lambda packet: b"abcd" in packet) as watch:
        ...send it...
        await watch.quiet(0.3)
    watch.sightings, watch.traces, watch.flows

The trace is switched on for packets that match and for no others, by a table of its own in front of all others,
which is gone afterwards; whoever sends a matching packet meanwhile is traced as well.  Blocks for some milliseconds
per node with rules.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lab.errors import KernelRefused, LabError
from lab.explain.nft_trace import TRACE_TABLE
from lab.kernel import nft
from lab.kernel.namespace import Namespace
from lab.kernel.process import Process

_ETH_P_ALL: Final = 3
_SO_TIMESTAMPNS: Final = 35
_PACKET_OUTGOING: Final = 4
_SNAPLEN: Final = 65_536
_IP: Final = (0x0800, 0x86DD)
_BEFORE_EVERYTHING: Final = -450
"""Priority of the chains that switch the trace on: before defragmentation (-400) and connection tracking (-200)."""
_NETLINK_NETFILTER: Final = 12
_TRACE_GROUP: Final = 1 << 8
"""The multicast group of traces (NFNLGRP_NFTRACE, 9) in a mask of groups."""
_WITHIN_S: Final = 10.0

_timespec: Final = struct.Struct("=qq")


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet that passed an interface, from its IP header on."""

    at_ns: int
    """By the kernel's clock, nanoseconds since 1970; of the first packets, when they were read.

    The kernel begins to take times a while after it was asked to, so they do not give the order of packets.
    """
    node: str
    iface: str
    outgoing: bool
    packet: bytes


class _Tap:
    """All IP packets of all interfaces of one node but the loopback."""

    def __init__(self, ns: Namespace, seen: list[Seen]) -> None:
        self._ns = ns
        self._seen = seen
        self._loop = asyncio.get_running_loop()
        try:
            # Cooked: whatever the interface, what is read begins with the IP header.  With a protocol from the
            # beginning it hears all interfaces.
            self._socket = ns.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        except OSError as exc:
            raise KernelRefused(ns.name, "listen on all interfaces", exc.errno or 0) from exc
        self._loop.add_reader(self._socket, self.take)

    def take(self) -> None:
        """Keep what is waiting."""
        while True:
            try:
                packet, control, _, (iface, ethertype, direction, _, _) = self._socket.recvmsg(_SNAPLEN, 64)
            except BlockingIOError:
                return
            except OSError:  # an interface went away: said once
                continue
            if ethertype in _IP and iface != "lo":
                # The first packet may have come before times were asked for.
                seconds, nanoseconds = _timespec.unpack(control[0][2]) if control else (0, 0)
                outgoing = direction == _PACKET_OUTGOING
                self._seen.append(Seen(seconds * 1_000_000_000 + nanoseconds, self._ns.name, iface, outgoing, packet))

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()


class _Monitor:
    """`nft monitor trace` on one node."""

    def __init__(self, ns: Namespace) -> None:
        self.ns = ns
        self._process: Process | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()

    async def start(self, matches: Sequence[str]) -> None:
        """Switch the trace on, and return when it would be heard."""
        rules = "".join(f"\t\t{match} meta nftrace set 1\n" for match in matches)
        kind = f"type filter hook {{}} priority {_BEFORE_EVERYTHING}; policy accept;"
        chains = "".join(
            f"\tchain {hook} {{\n\t\t{kind.format(hook)}\n{rules}\t}}\n" for hook in ("prerouting", "output")
        )
        # The monitor knows the rules of its first moment: the table has to be there before it.
        nft.load(self.ns, f"table inet {TRACE_TABLE} {{\n{chains}}}\n")
        self._process = self.ns.popen(["nft", "monitor", "trace"], stdout=self._output)
        deadline = time.monotonic() + _WITHIN_S
        while not self._listens():
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise LabError(f"{self.ns.name}: nft monitor trace did not begin to listen")
            await asyncio.sleep(0.002)

    def _listens(self) -> bool:
        return bool(self._unread())

    def _unread(self) -> list[int]:
        """Of its sockets that hear traces: the bytes that it has not taken yet."""
        assert self._process is not None
        found = []
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/net/netlink").read_text().splitlines()[1:]:
                words = line.split()
                if int(words[1]) == _NETLINK_NETFILTER and int(words[3], 16) & _TRACE_GROUP:
                    found.append(int(words[4]))
        return found

    def has_said_all(self) -> bool:
        """Whether it waits for more, or has ended.

        The kernel queues a trace while the packet passes.  Who has taken it sleeps again only when it is written down.
        """
        assert self._process is not None
        if self._process.returncode is not None:
            return True
        return not any(self._unread()) and self._sleeps()

    def _sleeps(self) -> bool:
        assert self._process is not None
        with suppress(OSError):
            return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        return False

    def text(self) -> str:
        """What it has said so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    async def stop(self) -> None:
        """End it and take the table away."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            with suppress(KernelRefused):  # somebody may have flushed the whole ruleset meanwhile
                nft.load(self.ns, f"delete table inet {TRACE_TABLE}\n")
        self._output.close()


class Watch:
    """Everything that can be seen of packets of interest on some nodes, between enter and exit."""

    def __init__(
        self, namespaces: Mapping[str, Namespace], matches: Sequence[str], is_wanted: Callable[[bytes], bool]
    ) -> None:
        """`matches` are nftables matches of the packets to trace, `is_wanted` says the same of a packet's bytes."""
        self._namespaces = namespaces
        self._matches = matches
        self._is_wanted = is_wanted
        self.sightings: list[Seen] = []
        """Every packet, wanted or not; those of one node in their order."""
        self.traces: dict[str, str] = {}
        """The text of nft's trace, by node; nodes without rules are absent."""
        self.flows: dict[str, str] = {}
        """The flows that a node's connection tracking knows, as /proc/net/nf_conntrack has them."""
        self._taps: list[_Tap] = []
        self._monitors: list[_Monitor] = []

    async def __aenter__(self) -> Self:
        try:
            self._monitors = [_Monitor(ns) for ns in self._namespaces.values() if nft.list_ruleset(ns).strip()]
            await asyncio.gather(*(monitor.start(self._matches) for monitor in self._monitors))
            self._taps = [_Tap(ns, self.sightings) for ns in self._namespaces.values()]
        except BaseException:
            await self._close()
            raise
        return self

    async def quiet(self, seconds: float) -> None:
        """Return when no packet has been seen for `seconds`, and nft has said what it had to say."""
        count = -1
        while count != len(self.sightings):
            count = len(self.sightings)
            await asyncio.sleep(seconds)
        passed = {seen.node for seen in self.sightings if self._is_wanted(seen.packet)}
        deadline = time.monotonic() + _WITHIN_S
        for monitor in self._monitors:
            while time.monotonic() < deadline:
                if monitor.has_said_all() and (monitor.ns.name not in passed or monitor.text()):
                    break
                await asyncio.sleep(0.01)  # another process writes a file

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tap in self._taps:
            tap.take()
        self.traces = {monitor.ns.name: monitor.text() for monitor in self._monitors}
        self.flows = {name: text for name, ns in self._namespaces.items() if (text := flows(ns))}
        await self._close()

    async def _close(self) -> None:
        for tap in self._taps:
            tap.close()
        self._taps = []
        await asyncio.gather(*(monitor.stop() for monitor in self._monitors))
        self._monitors = []


def flows(ns: Namespace) -> str:
    """What connection tracking remembers in a node, a flow a line as in /proc/net/nf_conntrack; "" without any."""
    with ns.entered():
        try:
            return Path("/proc/thread-self/net/nf_conntrack").read_text()
        except OSError:  # no connection tracking, or a kernel without this file
            return ""
