"""Two laptops use one port of a NAT, and each spoils the other's mapping.

    ann --- nat --- internet --- one
    bob --- nat
            internet --- two

Both laptops run a program that sends from port 7000. ann speaks to one and bob to two: Linux masquerade gives both
port 7000 of the NAT, because the peers tell the flows apart. That is port overloading, and RFC 4787 REQ-3 forbids it:
when bob then speaks to one, port 7000 is ann's there, and bob gets another. bob's NAT was endpoint-independent until
a neighbour happened to choose the same port. A test for NATs that bob runs before says one thing, after another.

A NAT that keeps books of its ports (ports=preserve) gives 7000 to who comes first, and another port to the other, to
every peer the same one. A block of ports for each host (ports=block, RFC 7422) makes sure that they never meet.

Try:  scripts/lab run port_overloading
      scripts/lab run port_overloading --set ports=preserve
      scripts/lab run port_overloading --set ports=block
"""

from lab import Lab, Network, Run


def build(net: Network, ports: str = "overload") -> None:
    nat = net.nat("nat", ports=ports)
    internet = net.router("internet")
    for name in ("ann", "bob"):
        net.link(net.client(name), nat)
    net.link(nat, internet)
    for name in ("one", "two"):
        net.link(internet, net.host(name))


async def scenario(net: Lab) -> None:
    for sender, receiver in (("ann", "one"), ("bob", "two"), ("bob", "one"), ("ann", "two")):
        await net[sender].send_udp(receiver, 4000, source_port=7000)


def check(run: Run) -> None:
    seen = {(who, whom): run.datagram(who, whom).seen_as for who in ("ann", "bob") for whom in ("one", "two")}
    assert None not in seen.values()
    if run.parameters["ports"] == "overload":
        assert seen["ann", "one"] == seen["bob", "two"] == f"{run.address('nat', 'wan0')}:7000"
        assert seen["bob", "one"] != seen["bob", "two"]
    else:
        assert seen["ann", "one"] == seen["ann", "two"]
        assert seen["bob", "one"] == seen["bob", "two"]
        assert seen["ann", "one"] != seen["bob", "one"]
