"""A network that is up, as a scenario sees it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lab.errors import UsageError
from lab.results import Record, format_record
from lab.scenario.node import LabNode
from lab.topology.plan import Plan

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

_R = TypeVar("_R", bound=Record)


class Lab:
    """A network that is up.  Iterating gives its nodes; `lab["name"]` one of them."""

    parameters: Mapping[str, Any]
    """The parameters `build` was called with, defaults included."""

    def __init__(
        self,
        plan: Plan,
        namespaces: Mapping[str, Namespace],
        *,
        parameters: Mapping[str, Any],
        seed: str,
        on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
    ) -> None:
        """`on_record` is told of every record, as JSON, when it is made."""
        self.parameters = parameters
        self.plan = plan
        self.records: list[dict[str, Any]] = []
        self._on_record = on_record
        self.began = time.monotonic()
        self._seed = seed
        self._nodes = {node.name: LabNode(self, node, namespaces[node.name]) for node in plan.nodes}

    def __getitem__(self, name: str | LabNode) -> LabNode:
        if isinstance(name, LabNode):
            return name
        try:
            return self._nodes[name]
        except KeyError:
            raise UsageError(f"there is no node {name!r}; the nodes are {', '.join(self._nodes)}") from None

    def __iter__(self) -> Any:
        return iter(self._nodes.values())

    def rng(self, purpose: str) -> random.Random:
        """A random generator that depends on the run's seed and on `purpose` only."""
        return random.Random(f"{self._seed}/{purpose}")

    def now(self) -> float:
        """Seconds since the network was up."""
        return time.monotonic() - self.began

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of the lab's time pass."""
        await asyncio.sleep(seconds)

    def record(self, record: _R) -> _R:
        """Keep `record` for run.json and return it."""
        self.records.append(format_record(record))
        self._on_record(self.records[-1])
        return record

    async def start(self) -> None:
        """Put every client where it is at first, and start the programs that run before any scenario: the brokers."""
        for node in self:
            node.leave_other_places()
            if node.kind == "broker":
                await node.start_broker()

    async def stop(self) -> None:
        """Stop every program of every node; safe to call twice."""
        for node in self:
            await node.stop()
