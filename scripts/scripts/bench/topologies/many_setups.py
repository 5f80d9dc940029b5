"""One laptop behind a home NAT sets a tunnel up and takes it down, many times.

    laptop --- nat --- internet --- broker --- server

For benchmarks: each set-up is complete, with a tunnel device and the first IPv6 packet through it.
"""

from lab import Lab, Network, Run


def build(net: Network, delay_ms: float = 50, count: int = 1000) -> None:
    laptop = net.client("laptop")
    nat = net.nat("nat")
    internet = net.router("internet")
    broker = net.broker("broker")
    server = net.host("server", ipv6_only=True)
    net.link(laptop, nat)
    net.link(nat, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    for _ in range(net.parameters["count"]):
        await net["laptop"].connect_tunnel("broker", tunnel="v6anyv4")
        await net["laptop"].disconnect_tunnel()


def check(run: Run) -> None:
    assert len(run.tunnels("laptop")) == run.parameters["count"]
    assert all("first_packet" in setup.phases_s for setup in run.tunnels("laptop"))
