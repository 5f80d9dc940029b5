"""The tunnel serves a whole network: the client is a router with a delegated /64.

    tablet --- gateway --- internet --- broker --- server

The gateway asks for a prefix as well as a tunnel (RFC 5572 section 5.2) and gets a /64 that the broker routes to
it. It puts the prefix on its inside interface and announces it in router advertisements (RFC 4861); the tablet,
which knows nothing of tunnels and has no IPv4 at all, makes itself an address (RFC 4862) and reaches the server.

Try:  scripts/lab run routed_lan
"""

from ipaddress import ip_address, ip_network

from lab import Lab, Network, Run


def build(net: Network, delay_ms: float = 0) -> None:
    tablet = net.host("tablet", slaac=True)
    gateway = net.client("gateway")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(tablet, gateway)
    net.link(gateway, internet)
    net.link(internet, broker, delay_ms=delay_ms)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    await net["gateway"].connect_tunnel("broker", user="ann", password="secret", prefix_length=64, lan="tablet")
    await net["tablet"].wait_for_ipv6()
    await net["tablet"].ping("server", count=3)
    await net["server"].ping("tablet", count=3)


def check(run: Run) -> None:
    tunnel = run.tunnel("gateway")
    assert tunnel.type == "v6v4"
    assert ip_network(tunnel.prefix).prefixlen == 64
    assert ip_address(run.ping("server", "tablet").address) in ip_network(tunnel.prefix)
    assert run.ping("tablet", "server").received == 3
    assert run.ping("server", "tablet").received == 3
