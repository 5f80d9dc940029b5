"""A subscriber of a carrier's NAT runs out of ports, and no new tunnel comes up.

    ann --- carrier --- internet --- broker --- server
    bob --- carrier

The carrier shares an address among its subscribers and gives each a block of ports, so that it need not log who had
which port when (RFC 7422; RFC 6888 REQ-4 asks for such limits). ann's block has 64. A program of hers opens 80 flows:
64 get a port, the others get nothing, not even an error, and neither does her tunnel client. The NAT counts what it
drops (nat_port_taken). bob, with a block of his own behind the same address, notices nothing.

Ports of TCP are other ports than those of UDP: a file still gets from ann to the broker.

Try:  scripts/lab run cgn_exhaustion
      scripts/lab run cgn_exhaustion --set block_size=128
"""

import asyncio

from lab import Lab, Network, Run


def build(net: Network, block_size: int = 64, flows: int = 80, delay_ms: float = 0) -> None:
    ann = net.client("ann")
    bob = net.client("bob")
    carrier = net.nat("carrier", ports="block", block_size=block_size)
    internet = net.router("internet")
    broker = net.broker("broker")
    server = net.host("server", ipv6_only=True)
    net.link(ann, carrier)
    net.link(bob, carrier)
    net.link(carrier, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    ports = range(20000, 20000 + net.parameters["flows"])
    await asyncio.gather(*(net["ann"].send_udp("broker", 4000, source_port=port) for port in ports))
    for name in ("ann", "bob"):
        await net[name].attempt_tunnel("broker", initial_rto_s=0.5, min_rto_s=0.5, first_transmissions=2)
    await net["ann"].transfer("broker", size=10_000, family=4)


def check(run: Run) -> None:
    flows, block_size = run.parameters["flows"], run.parameters["block_size"]
    seen = [datagram.seen_as for datagram in run.datagrams("ann", "broker") if datagram.seen_as]
    assert len(seen) == len(set(seen)) == min(flows, block_size)
    assert {1024 <= int(endpoint.split(":")[1]) < 1024 + block_size for endpoint in seen} == {True}
    assert run.tunnel("ann").outcome == ("ready" if flows < block_size else "timeout")
    assert run.tunnel("bob").outcome == "ready"
    refused = run.counter("carrier", "nat_port_taken")
    assert refused == 0 if flows < block_size else refused >= flows - block_size + 2
    assert run.transfer("ann", "broker").intact
