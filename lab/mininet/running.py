"""The brokers and clients of Mininet nodes: one event loop, in a thread beside Mininet's own.

A broker in a node is not a process there: its sockets are opened in the node's namespace and served from here, as in
every other run of the lab.  `Lab` is the same class a scenario sees.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from lab.kernel.namespace import Namespace
from lab.scenario import Lab, LabNode
from lab.topology.plan import NodePlan, Plan

_T = TypeVar("_T")


class GrowingLab(Lab):
    """A Lab whose nodes come one by one, as a script makes them."""

    def __init__(self, seed: str) -> None:
        super().__init__(Plan("mininet", (), ()), {}, parameters={}, seed=seed)

    def put(self, plan: NodePlan, namespace: Namespace) -> LabNode:
        """Take a node in; it replaces one of the same name."""
        self._nodes[plan.name] = node = LabNode(self, plan, namespace)
        return node

    def forget(self, node: LabNode) -> None:
        """Let a stopped node go."""
        if self._nodes.get(node.name) is node:
            del self._nodes[node.name]


class Running:
    """The loop, its thread, and the Lab of this process's Mininet nodes."""

    def __init__(self, seed: str) -> None:
        self.lab = GrowingLab(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab", daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have the loop do `work`; what comes of it.  Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while True:
                try:
                    return future.result(0.5)  # not for ever at once: a signal is noticed in between
                except NotYet:
                    if future.done():
                        raise
        except BaseException:
            future.cancel()
            raise


_running: Running | None = None


def running() -> Running:
    """This process's one; made when first asked for."""
    global _running
    if _running is None:
        import random

        _running = Running(str(random.SystemRandom().randrange(2**32)))
    return _running
