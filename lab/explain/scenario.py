"""The scenario of `lab explain`, in place of a topology's own: one probe, watched.

The agent loads this file as it loads a topology file; what is asked is in the parameter `explain`.
"""

from typing import Any


async def scenario(net: Any) -> None:
    """Set the policy, let others send the same before, then send the probe and record its story."""
    wish = net.parameters["explain"]
    for node in net:
        if node.kind == "firewall" and wish["policy"]:
            await node.set_policy(wish["policy"])
    for sender in (*wish["after"], wish["sender"]):
        await net[sender].explain(wish["receiver"], source_port=wish["source_port"], **wish["kind"])
