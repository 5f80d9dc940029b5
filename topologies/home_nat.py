"""A laptop behind a home NAT gets IPv6 over UDP.

    laptop --- nat --- internet --- broker --- server

The laptop asks for v6anyv4 and writes its own address, 192.168.0.2, into the request. The broker sees the
packet come from the NAT's public address instead: somebody in between rewrites addresses. Protocol 41 has no
ports to rewrite, so the broker offers v6udpv4 (RFC 5572 sections 2.1 and 5.4): IPv6 packets as the payload of
the very UDP flow that the set-up used, because that is the one flow for which the NAT holds a mapping.

Try:  scripts/lab run home_nat --set delay_ms=0
      scripts/lab run home_nat --set delay_ms=0 --set mapping=APDM
"""

from lab import Lab, Network, Run


def build(net: Network, delay_ms: float = 20, mapping: str = "EIM", filtering: str = "APDF") -> None:
    laptop = net.client("laptop")
    nat = net.nat("nat", mapping=mapping, filtering=filtering)
    internet = net.router("internet")
    broker = net.broker("broker", pool="2001:db8:f000::/36", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, nat)
    net.link(nat, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    await net["laptop"].connect_tunnel("broker", tunnel="v6anyv4", user="ann", password="secret")
    await net["laptop"].ping("server", count=3)
    await net["laptop"].ping("server", count=3, size=1280)
    await net["laptop"].transfer("server", size=1_000_000)


def check(run: Run) -> None:
    assert run.tunnel("laptop").type == "v6udpv4"
    small, full = run.pings("laptop", "server")
    assert small.received == full.received == 3
    assert full.size == 1280
    assert run.transfer("laptop", "server").intact
    wire = run.wire("internet", "eth0")
    assert wire["v6udpv4 data"] >= 6
    assert wire["protocol 41"] == 0
