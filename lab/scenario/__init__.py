"""What a scenario sees: the nodes of a network that is up, and what can be done on each.

`scenario(net)` of a topology file gets a `Lab`; `net["laptop"]` is a `LabNode`.  Every action waits until it is
done, records what came of it (`lab.results`) and hands the record back.  An action that does not fit its node (a
tunnel on a firewall) is a `UsageError` that says what the node is.

    network.py   Lab: the nodes, the clock, what was recorded
    node.py      LabNode: all of the following
    place.py     a node's addresses, and where it is
    tunnels.py   a client's tunnels
    boxes.py     brokers and firewalls
    traffic.py   pings, datagrams, transfers, programs, and the story of one packet
"""

from __future__ import annotations

from lab.scenario.network import Lab
from lab.scenario.node import LabNode

__all__ = ["Lab", "LabNode"]
