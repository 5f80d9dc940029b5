"""Every topology of the lab as a Mininet Topo: `--topo tsp,home_nat` or, from Python, `TspTopo("home_nat")`."""

from __future__ import annotations

from typing import Any

from mininet.topo import Topo

from lab.mininet.links import CheckedLink
from lab.mininet.plans import PlanNode, link_parameters, steps_of, with_names_for_all
from lab.mininet.switches import LinuxBridge, default_switch
from lab.planned import planned
from lab.topology.plan import Plan


class PlanTopo(Topo):
    """The network of a plan.  Its brokers run from the moment the network is built, unless `serve` is false."""

    plan: Plan

    def build(self, plan: Plan, serve: bool = True) -> None:
        has_switches = any(node.kind == "switch" for node in plan.nodes)
        switch = default_switch() if has_switches else LinuxBridge
        # A bridge of Open vSwitch has its ports in the network of the machine, next to its own interfaces.
        self.plan = plan if switch is LinuxBridge else with_names_for_all(plan)
        for number, node in enumerate(self.plan.nodes, start=1):
            if node.kind == "switch":
                self.addSwitch(node.name, cls=switch, dpid=f"{number:x}")
            else:
                self.addHost(node.name, cls=PlanNode, plan=node, steps=steps_of(self.plan, node.name), serve=serve)
        for step, parameters in link_parameters(self.plan):
            self.addLink(step.a, step.b, cls=CheckedLink, **parameters)


class TspTopo(PlanTopo):
    """A topology of the lab by name or file, with its parameters: `TspTopo("home_nat", delay_ms=0)`."""

    def build(self, name: str = "home_nat", serve: bool = True, **parameters: Any) -> None:  # type: ignore[override]
        self.topology, self.parameters, plan = planned(name, {key: str(value) for key, value in parameters.items()})
        super().build(plan, serve)
