"""Send one packet from a node of a network that is up and collect all that is seen of it on every node."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Final

from lab.explain.evidence import Box, Evidence, Sighting
from lab.explain.probe import Probe
from lab.kernel.trace import Watch
from lab.topology.plan import NodePlan, Plan, Shape

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

_IPPROTO_RAW: Final = 255
_QUIET_S: Final = 0.2
"""Nothing more is waited for when nothing was seen for so long, beyond the delays of the links."""


async def observe(plan: Plan, namespaces: Mapping[str, Namespace], probe: Probe) -> Evidence:
    """Send the probe from its sender and watch it, and what answers it; the evidence for `lab.explain.story`.

    Raises KernelRefused where a node cannot be watched; that the sender cannot send is part of the evidence.
    """
    watched = {node.name: namespaces[node.name] for node in plan.nodes if node.kind != "switch"}
    error = ""
    with ExitStack() as stack:
        async with Watch(watched, probe.nft_matches(), lambda packet: probe.is_in(packet) is not None) as watch:
            try:
                send_probe(namespaces[probe.sender], probe, stack)
            except OSError as exc:
                error = _why(exc)
            await watch.quiet(_QUIET_S + 2 * _delays_s(plan.steps))
    began = min((seen.at_ns for seen in watch.sightings), default=0)
    return Evidence(
        probe=probe,
        boxes=tuple(_box(node) for node in plan.nodes),
        sightings=tuple(
            Sighting((seen.at_ns - began) / 1e9, seen.node, seen.iface, seen.outgoing, seen.packet)
            for seen in watch.sightings
        ),
        traces=watch.traces,
        flows=watch.flows,
        send_error=error,
    )


def send_probe(ns: Namespace, probe: Probe, stack: ExitStack) -> None:
    """Send the probe from a node, and answer for its source port until `stack` is closed.  Raises OSError."""
    header = probe.header
    family = socket.AF_INET if header.src.version == 4 else socket.AF_INET6
    if header.protocol == socket.IPPROTO_UDP:
        # Somebody has to be there for an answer, or the sender's kernel complains of it.
        ear = stack.enter_context(ns.socket(family, socket.SOCK_DGRAM))
        ear.bind((str(header.src), header.sport))
    with ns.socket(family, socket.SOCK_RAW, _IPPROTO_RAW) as raw:
        if header.dst.is_multicast and header.src.version == 4:
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, header.src.packed)
        raw.sendto(probe.packet, (str(header.dst), 0))


def _why(exc: OSError) -> str:
    if exc.errno is None:
        return str(exc)
    text = os.strerror(exc.errno)
    return f"{text[0].lower()}{text[1:]}"


def _delays_s(steps: Sequence[object]) -> float:
    """What a packet and its answer may spend on links, at most, in seconds: each impaired link has two ends."""
    return sum((step.delay_ms + step.jitter_ms) / 1000 for step in steps if isinstance(step, Shape))


def _box(node: NodePlan) -> Box:
    plugged = [interface for interface in node.interfaces if interface.plugged]
    addresses = [address for i in plugged for address in (i.ipv4, i.ipv6) if address]
    options = node.options
    return Box(
        name=node.name,
        kind=node.kind,
        peers={interface.name: interface.peer for interface in plugged},
        addresses=tuple(dict.fromkeys([*(a.split("/")[0] for a in addresses), *options.get("addresses", ())])),
        networks=tuple(str(ip_interface(address).network) for address in addresses),
        policy=str(options.get("policy", "")) if node.kind == "firewall" else "",
        behaviour=f"{options['mapping']} mapping" if node.kind == "nat" else "",
    )
