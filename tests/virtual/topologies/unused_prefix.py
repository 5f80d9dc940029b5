"""A packet to an address of a delegated prefix that nobody has; the prefix is announced on a LAN, or not at all.

tablet --- gateway --- internet --- broker --- server
"""

from ipaddress import ip_network

from lab import Lab, Network, Run


def build(net: Network) -> None:
    gateway, internet = net.client("gateway"), net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    net.link(net.host("tablet", slaac=True), gateway)
    net.link(gateway, internet)
    net.link(internet, broker, delay_ms=5)
    net.link(broker, net.host("server", ipv6_only=True))


async def scenario(net: Lab) -> None:
    for length, lan in ((64, None), (56, "tablet")):
        tunnel = await net["gateway"].connect_tunnel(
            "broker", user="ann", password="secret", prefix_length=length, lan=lan
        )
        unused = ip_network(str(tunnel.prefix))[-1]
        await net["server"].explain(str(unused), icmp=True)
        if lan is not None:  # a device goes with its tunnel, also when somebody has been at its routes
            await net["gateway"].run(["ip", "-6", "route", "del", "unreachable", str(tunnel.prefix)])
        await net["gateway"].disconnect_tunnel()
        await net["gateway"].run(["ip", "-o", "link", "show", "type", "sit"])


def check(run: Run) -> None:
    pass
