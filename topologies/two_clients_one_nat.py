"""Two laptops behind one NAT, one broker: why protocol 41 works only for the first, and UDP for both.

    ann --- nat --- internet --- broker --- server
    bob --- nat

A NAT tells the flows of its inside hosts apart by port. Protocol 41 has none: all that is left is the pair of
IPv4 addresses, and seen from outside ann and bob share both. Linux gives the pair to whoever spoke first (ann)
and drops bob's packets silently. The set-up itself succeeds for both, which makes it such a puzzling fault: bob
has an address, a route and no connectivity. This is why TSP has v6udpv4 (RFC 5572 section 4.5.2).

Try:  scripts/lab run two_clients_one_nat
"""

from lab import Lab, Network, Run


def build(net: Network, mapping: str = "EIM", delay_ms: float = 0) -> None:
    ann = net.client("ann")
    bob = net.client("bob")
    nat = net.nat("nat", mapping=mapping)
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret", "bob": "hidden"})
    server = net.host("server", ipv6_only=True)
    net.link(ann, nat)
    net.link(bob, nat)
    net.link(nat, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    for tunnel in ("v6v4", "v6udpv4"):
        await net["ann"].connect_tunnel("broker", tunnel=tunnel, user="ann", password="secret")
        await net["ann"].ping("server", count=2, timeout_s=1)
        await net["bob"].connect_tunnel("broker", tunnel=tunnel, user="bob", password="hidden")
        await net["bob"].ping("server", count=2, timeout_s=1)
        await net["ann"].ping("server", count=2, timeout_s=1)
        await net["ann"].disconnect_tunnel()
        await net["bob"].disconnect_tunnel()


def check(run: Run) -> None:
    assert [setup.type for setup in run.tunnels("bob")] == ["v6v4", "v6udpv4"]
    assert [ping.received for ping in run.pings("ann")] == [2, 2, 2, 2]
    assert [ping.received for ping in run.pings("bob")] == [0, 2]
