"""A laptop behind a NAT and a rough link, over UDP and over TCP.

    laptop --- nat --- internet --- broker --- server

The link between the NAT and the Internet delays, jitters and loses.
"""

from lab import Lab, Network, Run


def build(net: Network, delay_ms: float = 20) -> None:
    nat, internet, broker = net.nat("nat"), net.router("internet"), net.broker("broker", users={"ann": "secret"})
    net.link(net.client("laptop"), nat)
    net.link(nat, internet, delay_ms=delay_ms, jitter_ms=5, loss_pct=5)
    net.link(internet, broker)
    net.link(broker, net.host("server", ipv6_only=True))


async def scenario(net: Lab) -> None:
    laptop = net["laptop"]
    for transport, tunnel in (("udp", "v6udpv4"), ("tcp", "v6v4")):
        # So patient that losses end no set-up: six or eight packets in a row would have to be lost.
        await laptop.connect_tunnel(
            "broker",
            transport=transport,
            tunnel=tunnel,
            user="ann",
            password="secret",
            first_transmissions=8,
            connect_timeout_s=63,
        )
        await laptop.ping("server", count=5, timeout_s=1)
        await laptop.transfer("server", size=150_000)


def check(run: Run) -> None:
    assert [setup.transport for setup in run.tunnels("laptop")] == ["udp", "tcp"]
