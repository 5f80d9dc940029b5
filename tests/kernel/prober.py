"""Questions to ask of a built network with plain sockets: who is seen by whom, does this arrive?

That a packet did not arrive is never concluded from time passed: the box in the way counts what it drops, and the
question is answered when either the packet or the count is there.  (What kind of NAT a box is tells
`lab.actors.nat_prober`.)
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from lab.kernel import nft
from lab.kernel.build import Fabric, build
from lab.kernel.namespace import Namespace
from lab.topology.network import Network
from lab.topology.plan import Plan
from lab.topology.planner import make_plan

Endpoint = tuple[str, int]
DEADLINE_S = 30.0
"""Of a wait that ends as soon as it may: for the slowest machine, which may also stand still for some seconds."""


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return when `condition` holds; AssertionError naming `what` when it does not within DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.002)


class Prober:
    """A built network and the sockets opened in it; a context manager that lets go of all of them."""

    def __init__(self, net: Network) -> None:
        self.plan: Plan = make_plan(net)
        self.fabric: Fabric = build(self.plan)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self.fabric.close()

    def namespace(self, node: str) -> Namespace:
        return self.fabric[node]

    def address(self, node: str) -> str:
        """The main IPv4 address of a node."""
        address = self.plan.node(node).ipv4
        assert address is not None
        return address

    def open(self, node: str, kind: int, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket:
        """A non-blocking socket that lives in the node."""
        with self.fabric[node].entered():
            made = self._open.enter_context(socket.socket(family, kind, protocol))
        made.setblocking(False)
        return made

    def udp(self, node: str, port: int = 0) -> socket.socket:
        """A UDP socket bound to a port of the node."""
        made = self.open(node, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", port))
        return made

    def tcp_listener(self, node: str, port: int) -> socket.socket:
        """A listening TCP socket."""
        made = self.open(node, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", port))
        made.listen()
        return made

    def dropped(self, node: str, rule: str) -> int:
        """Packets that the rules called `rule` have counted."""
        return nft.counters(self.fabric[node]).get(rule, (0, 0))[0]


def received(sock: socket.socket) -> tuple[bytes, Endpoint] | None:
    """What waits in the socket and whom it came from, or None."""
    try:
        data, peer = sock.recvfrom(2048)
    except BlockingIOError:
        return None
    return data, (peer[0], peer[1])


def deliver(sender: socket.socket, to: Endpoint, receiver: socket.socket) -> Endpoint:
    """Send a datagram that must arrive; the source that the receiver sees."""
    token = f"{time.monotonic_ns()}".encode()
    sender.sendto(token, to)
    seen: list[tuple[bytes, Endpoint]] = []

    def arrived() -> bool:
        while (got := received(receiver)) is not None:
            seen.append(got)
        return any(data == token for data, _ in seen)

    wait_for(arrived, f"a datagram to {to}")
    return next(source for data, source in seen if data == token)


def passes(prober: Prober, box: str, rule: str, sender: socket.socket, to: Endpoint, receiver: socket.socket) -> bool:
    """Whether a datagram gets through `box` to `receiver`; it does not when `rule` of the box counts it."""
    token = f"{time.monotonic_ns()}".encode()
    before = prober.dropped(box, rule)
    sender.sendto(token, to)
    arrived: list[bytes] = []

    def settled() -> bool:
        while (got := received(receiver)) is not None:
            arrived.append(got[0])
        return token in arrived or prober.dropped(box, rule) > before

    wait_for(settled, f"a datagram to {to} to arrive or be dropped by {box}")
    return token in arrived
