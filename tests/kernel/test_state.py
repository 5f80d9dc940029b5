"""What a plan asked for is what the kernel has, as read back by pyroute2."""

from __future__ import annotations

import asyncio

import pytest

from lab.kernel.build import Fabric, build
from lab.kernel.state import snapshot
from lab.topology import catalog
from lab.topology.plan import AddLink, AddRoute, Plan, SetUp
from lab.topology.planner import make_plan

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft")]


def planned(name: str) -> Plan:
    """The plan of a topology, without delay."""
    topology = catalog.load(name)
    delay = {"delay_ms": 0} if "delay_ms" in topology.parameters else {}
    return make_plan(catalog.build_network(topology, catalog.bind_parameters(topology, delay)))


@pytest.mark.parametrize("name", [info.name for info in catalog.list_topologies()])
def test_the_kernel_has_the_links_addresses_and_routes_of_the_plan(name: str) -> None:
    plan = planned(name)
    with build(plan) as fabric:
        seen = {node: snapshot(fabric[node]) for node in fabric}
    for node in plan.nodes:
        addresses = {(row["iface"], row["address"]) for row in seen[node.name]["addresses"]}
        for iface in node.interfaces:
            for address in filter(None, (iface.ipv4, iface.ipv6)):
                assert (iface.name, address) in addresses
    for step in plan.steps:
        if isinstance(step, AddLink):
            for end, name_of_end, mac in ((step.a, step.a_iface, step.a_mac), (step.b, step.b_iface, step.b_mac)):
                (link,) = [row for row in seen[end]["links"] if row["name"] == name_of_end]
                assert (link["kind"], link["mac"], link["mtu"]) == ("veth", mac, step.mtu)
        elif isinstance(step, SetUp):
            assert step.iface in {row["name"] for row in seen[step.node]["links"] if row["up"]}
        elif isinstance(step, AddRoute):
            dst = "default" if step.dst in ("0.0.0.0/0", "::/0") else step.dst
            assert {"dst": dst, "via": step.via, "iface": step.iface} in seen[step.node]["routes"]


def test_a_snapshot_can_be_taken_while_an_event_loop_runs() -> None:
    async def take(fabric: Fabric) -> list[str]:
        state = await asyncio.to_thread(snapshot, fabric["laptop"])
        return [link["name"] for link in state["links"]]

    with build(planned("direct_6in4")) as fabric:
        assert asyncio.run(take(fabric)) == ["lo", "eth0"]
