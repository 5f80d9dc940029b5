"""Two NATs in a row: a home router behind a carrier's NAT (NAT444).

    laptop --- home --- carrier --- internet --- broker --- server

The carrier ran out of public addresses, so the home router's outside address is itself private, from
100.64.0.0/10 (RFC 6598). The broker sees the carrier's address, offers v6udpv4, and the tunnel works through
both: each NAT holds a mapping of its own for the one UDP flow, and the shorter of their timeouts decides how
often the client has to speak (RFC 4787 section 4.3).

Try:  scripts/lab run carrier_nat
      scripts/lab run carrier_nat --set carrier_mapping=EIM
"""

from ipaddress import ip_address, ip_network

from lab import Lab, Network, Run


def build(net: Network, carrier_mapping: str = "APDM", delay_ms: float = 0) -> None:
    laptop = net.client("laptop")
    home = net.nat("home", mapping="EIM")
    carrier = net.nat("carrier", mapping=carrier_mapping)
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, home)
    net.link(home, carrier)
    net.link(carrier, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    await net["laptop"].connect_tunnel("broker", tunnel="v6anyv4", user="ann", password="secret")
    await net["laptop"].ping("server", count=3)


def check(run: Run) -> None:
    assert ip_address(run.address("home", "wan0")) in ip_network("100.64.0.0/10")
    tunnel = run.tunnel("laptop")
    assert tunnel.type == "v6udpv4"
    assert tunnel.seen_by_broker == run.address("carrier", "wan0")
    assert run.ping("laptop", "server").received == 3
