"""From the name of a topology to its plan, checked: what every command that builds or shows one begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lab.actors.settings import check_brokers
from lab.topology import catalog
from lab.topology.catalog import TopologyModule
from lab.topology.plan import Plan
from lab.topology.planner import make_plan


class Planned(NamedTuple):
    """A topology with the parameters it is built with."""

    topology: TopologyModule
    parameters: dict[str, Any]
    """Of its `build`, defaults included."""
    plan: Plan


def planned(name: str, parameters: Mapping[str, Any]) -> Planned:
    """The topology called `name`, or in the file of that name, with these parameters, as values or as text.

    Raises UsageError and TopologyError for what cannot be built, wherever the mistake is: in the name, a parameter,
    the network that the file describes, or the options of a broker.
    """
    topology = catalog.load(name)
    values = catalog.bind_parameters(topology, parameters)
    plan = make_plan(catalog.build_network(topology, values))
    check_brokers(plan)
    return Planned(topology, values, plan)
