"""The tunnel is set up over TCP, and its traffic flows over protocol 41.

    laptop --- internet --- broker --- server

TSP speaks the same text over UDP and TCP (RFC 5572 section 4.4.1). Over UDP the client needs its own sequence
numbers and resends; over TCP the stream does that, for one more round trip to connect. What TCP cannot do is
carry v6udpv4: there is no UDP flow to put the traffic in. So the set-up is one TCP connection to port 3653 and
the tunnel is v6v4, and closing the connection afterwards does not disturb the tunnel.

Try:  scripts/lab run tcp_setup
      scripts/lab run tcp_setup --set mechanism=PLAIN
"""

from lab import Lab, Network, Run


def build(net: Network, delay_ms: float = 0, mechanism: str = "DIGEST-MD5") -> None:
    laptop = net.client("laptop")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, internet)
    net.link(internet, broker, delay_ms=delay_ms)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    mechanism = net.parameters["mechanism"]
    await net["laptop"].connect_tunnel(
        "broker", transport="tcp", tunnel="v6v4", user="ann", password="secret", mechanism=mechanism
    )
    await net["laptop"].ping("server", count=3)
    # A tunnel that v6udpv4 would need cannot be had over TCP; the broker says so instead of offering it.
    await net["laptop"].attempt_tunnel("broker", transport="tcp", tunnel="v6udpv4", user="ann", password="secret")


def check(run: Run) -> None:
    first, second = run.tunnels("laptop")
    assert (first.transport, first.type) == ("tcp", "v6v4")
    assert first.mechanism == run.parameters["mechanism"]
    assert run.ping("laptop", "server").received == 3
    wire = run.wire("laptop", "eth0")
    assert wire["tcp 3653"] > 0
    assert wire["udp 3653 signalling"] == 0
    assert wire["protocol 41"] >= 6
    assert (second.outcome, second.code) == ("refused", 303)
