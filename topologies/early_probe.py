"""One packet that comes too early costs a NAT its endpoint-independent mapping.

    laptop --- nat --- internet --- one
                       internet --- two

Two peers want to talk to the laptop, and each sends first: that is how hole punching goes. Plain Linux masquerade
keeps the port, so both expect the laptop at port 5001 of the NAT. The packet of one arrives before the laptop has
spoken to it. A box that has nothing against packets for itself takes it, answers that the port is closed, and
remembers a flow between one and its own port 5001. When the laptop speaks to one, that port is taken for this very
peer, and the laptop gets another: to two it is at port 5001, to one at some other port that one has never heard of.
The mapping depends on the peer, and no setting has changed (RFC 4787 section 4.1).

The cure is a firewall rule that has nothing to do with address translation: drop what comes from outside for the box
itself (input_open=no). A NAT that writes its mappings down (ports=preserve) has no other port to give; there the flow
to one is blocked for as long as the box remembers the early packet.

Try:  scripts/lab run early_probe
      scripts/lab run early_probe --set input_open=no
      scripts/lab run early_probe --set ports=preserve
"""

from typing import Literal

from lab import Lab, Network, Run


def build(net: Network, input_open: bool = True, ports: Literal["overload", "preserve"] = "overload") -> None:
    laptop = net.client("laptop")
    nat = net.nat("nat", input_open=input_open, ports=ports)
    internet = net.router("internet")
    net.link(laptop, nat)
    net.link(nat, internet)
    for name in ("one", "two"):
        net.link(internet, net.host(name))


async def scenario(net: Lab) -> None:
    await net["one"].send_udp("nat", 5001, source_port=4000, listener="laptop", timeout_s=0.5)
    await net["laptop"].send_udp("two", 4000, source_port=5001)
    await net["laptop"].send_udp("one", 4000, source_port=5001)


def check(run: Run) -> None:
    same = f"{run.address('nat', 'wan0')}:5001"
    assert run.datagram("one", "nat").seen_as is None
    assert run.datagram("laptop", "two").seen_as == same
    to_one = run.datagram("laptop", "one").seen_as
    if not run.parameters["input_open"]:
        assert to_one == same
    elif run.parameters["ports"] == "overload":
        assert to_one not in (None, same)
    else:
        assert to_one is None
