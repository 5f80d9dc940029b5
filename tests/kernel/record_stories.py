"""Write tests/data/explain anew: what is seen of one packet in real networks, for the unit tests of its story.

scripts/test does not run this; it is `unshare --net --mount python -m tests.kernel.record_stories`
"""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from lab.actors.probing import observe
from lab.explain.evidence import Evidence
from lab.explain.probe import Kind, make_probe
from lab.scenario import Lab
from tests.kernel.test_explain import up

FOLDER: Final = Path(__file__).parent.parent / "data" / "explain"

CASES: Final[dict[str, tuple[str, str, str, str, dict[str, Any]]]] = {
    "passed": ("firewall_3653", "laptop", "broker", "allow", {"udp": 3653}),
    "dropped": ("firewall_3653", "laptop", "broker", "drop_3653", {"udp": 3653}),
    "rejected_udp": ("firewall_3653", "laptop", "broker", "reject_3653", {"udp": 3653}),
    "rejected_tcp": ("firewall_3653", "laptop", "broker", "reject_3653", {"tcp": 3653}),
    "rejected_proto41": ("firewall_3653", "laptop", "broker", "reject_proto41", {"proto": 41}),
    "unsolicited": ("home_nat", "broker", "nat", "", {"udp": 40_000}),
    "two_nats": ("carrier_nat", "laptop", "broker", "", {"udp": 3653}),
    "second_client": ("two_clients_one_nat", "bob", "broker", "", {"proto": 41}),
    "no_hops": ("firewall_3653", "laptop", "broker", "", {"udp": 3653, "ttl": 2}),
    "no_route": ("home_nat", "broker", "laptop", "", {"icmp": True}),
}
"""Topology, sender, receiver, policy and packet."""


async def evidence(lab: Lab, sender: str, receiver: str, packet: dict[str, Any], token: bytes) -> Evidence:
    """What is seen of one packet."""
    src, dst = lab[sender].ipv4, lab[receiver].ipv4
    assert src is not None
    assert dst is not None
    probe = make_probe(Kind(**packet), sender, receiver, ip_address(src), ip_address(dst), token, source_port=50_001)
    return await observe(lab.plan, {node.name: node.namespace for node in lab}, probe)


async def record(name: str) -> None:
    """Write one file."""
    topology, sender, receiver, policy, packet = CASES[name]
    async with up(topology) as lab:
        if policy:
            await lab["firewall"].set_policy(policy)
        if name == "second_client":
            await evidence(lab, "ann", receiver, packet, b"zzzz")
        found = await evidence(lab, sender, receiver, packet, b"lbpk")
    (FOLDER / f"{name}.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in CASES:
        asyncio.run(record(each))
