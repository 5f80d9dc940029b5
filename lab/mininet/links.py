"""Links that do what they are asked to, or are an error.

Mininet's TCLink runs `tc` and, where the kernel refuses, writes a line to its log and goes on with a link that does
nothing.  `CheckedLink` is that TCLink with the answer read.  `check_links` measures what the links of any network do,
also those of Mininet's own classes.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from mininet.link import TCIntf, TCLink

from lab.errors import KernelRefused, MissingFeature, UsageError
from lab.kernel.namespace import Namespace
from lab.kernel.shaping import ETHERNET_BYTES, QUEUE_S, burst_bytes
from lab.kernel.verify import requested_of, verify
from lab.topology.plan import AddLink, Plan, Shape

_UNITS: Final = {"us": 0.001, "usec": 0.001, "usecs": 0.001, "ms": 1.0, "msec": 1.0, "msecs": 1.0}
_UNITS_OF_SECONDS: Final = {"s": 1000.0, "sec": 1000.0, "secs": 1000.0}
_KNOWN: Final = frozenset({"bw", "delay", "jitter", "loss", "duplicate", "reorder", "max_queue_size"})
_SHARES: Final = ("loss", "duplicate", "reorder")
_NETEM_PACKETS: Final = 20_000
"""Packets under way in a delayed link, as on the lab's other engines; `tc` would have 1,000 and lose the rest."""


class CheckedIntf(TCIntf):
    """One end of a CheckedLink: a TCIntf that raises what stock Mininet only logs.

    bw in Mbit/s, delay and jitter as "20ms", loss in per cent, mtu in bytes; and what a TCIntf cannot do, duplicate,
    per cent of packets sent twice, and reorder, per cent that skip the delay.  As of every TCIntf they hold for what
    leaves this end.  Raises UsageError, MissingFeature or KernelRefused.
    """

    def config(
        self, mtu: int = 1500, duplicate: float | None = None, reorder: float | None = None, **params: Any
    ) -> dict[str, Any]:
        self._mtu = mtu
        asked = {**params, "duplicate": duplicate, "reorder": reorder}
        _check_numbers(f"{self.node.name} {self.name}", asked)
        self._more = "".join(f" {name} {asked[name]:.5f}" for name in ("duplicate", "reorder") if asked[name])
        if self._more or any(params.get(name) for name in ("delay", "jitter", "loss")):
            params.setdefault("max_queue_size", _NETEM_PACKETS)
        if mtu != 1500:
            self._do(f"ip link set {self.name} mtu {mtu}")
        result: dict[str, Any] = super().config(**params) or {}
        for said in result.get("tcoutputs", ()):
            if said.strip():
                self._raise(said.strip(), asked)
        return result

    def delete(self) -> None:
        """Remove the interface; not by the node's shell, which may still be at a command."""
        self.node.pexec(f"ip link del {self.name}")  # refused when its other end went first
        self.node.delIntf(self)
        self.link = None

    def delayCmds(self, *args: Any, **options: Any) -> tuple[list[str], str]:  # noqa: N802 - Mininet's name
        """The command that adds netem, with what a TCIntf leaves out."""
        commands, parent = super().delayCmds(*args, **options)
        return [command + self._more for command in commands], str(parent)

    def bwCmds(self, bw: float | None = None, **options: Any) -> tuple[list[str], str]:  # noqa: N802 - Mininet's name
        """The commands that limit the rate, by tbf with a queue of 50 ms unless another kind is asked for."""
        if bw is None or any(options.get(name) for name in ("use_hfsc", "use_tbf", "enable_ecn", "enable_red")):
            commands, parent = super().bwCmds(bw=bw, **options)
            return list(commands), str(parent)
        burst = burst_bytes(bw, self._mtu)
        limit = max(burst + round(bw * 1e6 / 8 * QUEUE_S), 6 * (self._mtu + ETHERNET_BYTES))
        return [f"%s qdisc add dev %s root handle 5: tbf rate {bw:f}Mbit burst {burst} limit {limit}"], " parent 5:1 "

    def _do(self, command: str) -> None:
        _, said, status = self.node.pexec(command)
        if status != 0:
            raise KernelRefused(self.node.name, command, 0, said.strip())

    def _raise(self, said: str, params: Mapping[str, Any]) -> None:
        asked = ", ".join(f"{name}={params[name]}" for name in sorted(_KNOWN & params.keys()) if params[name])
        if "unknown" in said:
            kind = "netem" if any(params.get(name) for name in ("delay", "jitter", *_SHARES)) else "a rate limit"
            raise MissingFeature(
                f"{kind} in this kernel, which {self.node.name} {self.name} asks for ({asked})",
                instead="use a kernel that has the module (sch_netem), or leave the impairment out",
            )
        raise KernelRefused(self.node.name, f"impair {self.name} ({asked})", 0, said)


class CheckedLink(TCLink):
    """A TCLink whose ends are `CheckedIntf`: for `Mininet(link=CheckedLink)` and `net.addLink(cls=CheckedLink)`."""

    def __init__(self, *args: Any, **params: Any) -> None:
        params.setdefault("cls1", CheckedIntf)
        params.setdefault("cls2", CheckedIntf)
        super().__init__(*args, **params)


def _check_numbers(where: str, params: Mapping[str, Any]) -> None:
    """Raise UsageError for what stock Mininet would leave out with a line in its log."""
    bw = params.get("bw")
    if bw is not None and not 0 < bw <= TCIntf.bwParamMax:
        raise UsageError(f"{where}: bw={bw} is not between 0 and {TCIntf.bwParamMax} Mbit/s, all that a TCIntf sets")
    for name in _SHARES:
        if params.get(name) is not None and not 0 <= params[name] <= 100:
            raise UsageError(f"{where}: {name}={params[name]} is not a percentage")
    for name in ("delay", "jitter"):
        if params.get(name) is not None:
            milliseconds(params[name], where)
    if params.get("jitter") and not params.get("delay"):
        raise UsageError(f"{where}: jitter={params['jitter']} needs a delay to vary")
    if params.get("reorder") and not params.get("delay"):
        raise UsageError(f"{where}: reorder={params['reorder']} needs a delay for a packet to skip")


def milliseconds(text: str | float, where: str = "a link") -> float:
    """A time as `tc` reads it ("20ms", "1s", "500us"; a bare number is microseconds), in ms.  Raises UsageError."""
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", str(text).strip().lower())
    factor = {**_UNITS, **_UNITS_OF_SECONDS, "": 0.001}.get(match[2]) if match else None
    if match is None or factor is None:
        raise UsageError(f"{where}: {text!r} is no time; write it as in 20ms")
    return float(match[1]) * factor


def check_links(net: Any, *, measure: bool = True) -> list[dict[str, Any]]:
    """What each impaired way of each link of a started Mininet network was asked for and does.

    Rows as of `lab.kernel.verify.verify`; `achieved` is empty for a link that is down or unplugged.  Raises
    MissingFeature for an impairment that has no queueing discipline, ImpairmentError for one whose measured effect is
    another (`measure=False` only looks).  Of links that are not CheckedLinks the rate is not measured: how many packets
    pass unlimited at first is another matter there.
    """
    links: list[AddLink] = []
    shapes: list[Shape] = []
    down: list[dict[str, Any]] = []
    nodes: dict[str, Any] = {}
    for link in net.links:
        ends = (link.intf1, link.intf2)
        if any(end is None or end.node is None for end in ends):
            continue
        a, b = ends
        found = [_state(end) for end in ends]
        is_up, mtu = all(state.is_up for state in found), min(state.mtu for state in found)
        if is_up:
            links.append(AddLink(a.node.name, a.name, 0, found[0].mac, b.node.name, b.name, 0, found[1].mac, mtu=mtu))
        for end, far in (ends, ends[::-1]):
            nodes[end.node.name] = end.node
            if (shape := _shape(end)) is not None:
                _look(end, shape)
                if is_up:
                    shapes.append(shape)
            if not is_up and (shape is not None or mtu != 1500):
                down.append(_unmeasured(end, far, shape, mtu))
    if not measure:
        return []
    plan = Plan("network", (), (*links, *shapes))
    with ExitStack() as stack:
        spaces = {name: stack.enter_context(namespace_of(node)) for name, node in nodes.items()}
        return asyncio.run(verify(spaces, plan)) + down


def namespace_of(node: Any) -> Namespace:
    """A new handle on the network namespace of any Mininet node."""
    if not node.inNamespace:
        return Namespace.current(node.name)
    return Namespace(node.name, os.open(f"/proc/{node.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))


def _shape(end: Any) -> Shape | None:
    """What one end of a link was asked to do to packets; None: nothing."""
    asked = end.params
    where = f"{end.node.name} {end.name}"
    shape = Shape(
        end.node.name,
        end.name,
        0,
        delay_ms=milliseconds(asked["delay"], where) if asked.get("delay") else 0.0,
        jitter_ms=milliseconds(asked["jitter"], where) if asked.get("jitter") else 0.0,
        loss_pct=float(asked.get("loss") or 0),
        duplicate_pct=float(asked.get("duplicate") or 0),
        reorder_pct=float(asked.get("reorder") or 0),
        rate_mbit=float(asked.get("bw") or 0) if isinstance(end, CheckedIntf) else 0.0,
    )
    return shape if shape.needs_netem or shape.rate_mbit or asked.get("bw") else None


def _look(end: Any, shape: Shape) -> None:
    """Raise MissingFeature for an interface without the disciplines that its parameters need."""
    said, _, _ = end.node.pexec(f"tc qdisc show dev {end.name}")
    for needed, kinds in ((shape.needs_netem, ("netem",)), (end.params.get("bw"), ("tbf", "htb", "hfsc"))):
        if needed and not any(f"qdisc {kind} " in said for kind in kinds):
            asked = ", ".join(f"{name}={end.params[name]}" for name in sorted(_KNOWN) if end.params.get(name))
            raise MissingFeature(
                f"{' or '.join(kinds)} on {end.node.name} {end.name}, which was asked for {asked} and does nothing",
                instead="give the kernel the module, use TCLink or CheckedLink for this link, or ask for less",
            )


class _State(NamedTuple):
    mac: str
    mtu: int
    is_up: bool
    """Whether somebody has brought it up and not down again."""


def _state(end: Any) -> _State:
    """What `ip` says of one end of a link."""
    said = end.node.pexec(f"ip link show {end.name}")[0]
    mac, mtu = re.search(r"link/ether (\S+)", said), re.search(r" mtu (\d+)", said)
    if mac is None or mtu is None:
        raise KernelRefused(end.node.name, f"read the address of {end.name}", 0, "the interface is not there")
    return _State(mac[1], int(mtu[1]), re.search(r"<[^>]*\bUP\b", said) is not None)


def _unmeasured(end: Any, far: Any, shape: Shape | None, mtu: int) -> dict[str, Any]:
    """The row of a way along a link that is down."""
    return {
        "link": f"{end.node.name}:{end.name} - {far.node.name}:{far.name}",
        "direction": f"{end.node.name} -> {far.node.name}",
        "requested": requested_of(shape, mtu),
        "achieved": {},
        "down": True,
    }
