"""A laptop with a public IPv4 address gets IPv6 inside protocol 41.

    laptop --- internet --- broker --- server

The laptop asks for v6anyv4: "whatever fits". It writes its own IPv4 address into the request, and the broker
finds the same address on the packet: nothing between them rewrites addresses. So the broker offers v6v4
(RFC 5572 sections 2.1 and 5.4), and from then on each IPv6 packet travels as the payload of one IPv4 packet
of protocol 41 (RFC 4213). Port 3653 carried four questions and four answers, and is silent afterwards.

Try:  scripts/lab run direct_6in4
"""

from lab import Lab, Network, Run


def build(net: Network, delay_ms: float = 0) -> None:
    laptop = net.client("laptop")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, internet)
    net.link(internet, broker, delay_ms=delay_ms)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    await net["laptop"].connect_tunnel("broker", tunnel="v6anyv4", user="ann", password="secret")
    await net["laptop"].ping("server", count=3)


def check(run: Run) -> None:
    assert run.tunnel("laptop").type == "v6v4"
    assert run.ping("laptop", "server").received == 3
    wire = run.wire("laptop", "eth0")
    assert wire["protocol 41"] >= 6
    assert wire["v6udpv4 data"] == wire["icmp"] == 0
