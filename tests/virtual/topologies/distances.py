"""Clients at several distances from one broker, each setting a tunnel up in every way there is.

    rtt0 --- internet --- broker
    rtt10 --- internet
    rtt50 --- internet
    rtt200 --- internet
    rtt600 --- internet

A client is named after its round-trip time in milliseconds.
"""

from lab import Lab, Network, Run

WAYS = [(transport, mechanism) for transport in ("udp", "tcp") for mechanism in ("ANONYMOUS", "PLAIN", "DIGEST-MD5")]


def build(net: Network) -> None:
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    for rtt_ms in (0, 10, 50, 200, 600):
        net.link(net.client(f"rtt{rtt_ms}"), internet, delay_ms=rtt_ms / 2)
    net.link(internet, broker)


async def scenario(net: Lab) -> None:
    for node in net:
        if node.kind == "client":
            for transport, mechanism in WAYS:
                account = {} if mechanism == "ANONYMOUS" else {"user": "ann", "password": "secret"}
                await node.connect_tunnel("broker", transport=transport, tunnel="v6v4", mechanism=mechanism, **account)
                await node.disconnect_tunnel()


def check(run: Run) -> None:
    pass
