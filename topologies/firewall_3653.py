"""A firewall is told to stop port 3653. What does the client see, and how long until it knows?

    laptop --- firewall --- internet --- broker --- server

With the firewall open, a tunnel comes up over UDP (v6udpv4) and over TCP (v6v4). Then the policy is switched
on and the same two set-ups are tried again. A dropped packet tells the client nothing: it resends, waits twice
as long each time (RFC 6298) and gives up after seconds. A rejected one is answered at once, by ICMP or by a TCP
reset. And a filter for port 3653 is not a filter for tunnels: v6v4 traffic is protocol 41 and has no port, which
is why RFC 7123 section 3.7 names three filters, not one.

Try:  scripts/lab run firewall_3653 --set policy=reject_3653
      scripts/lab run firewall_3653 --set policy=drop_proto41
"""

from lab import Lab, Network, Run

BLOCKS_UDP = ("drop_udp_3653", "reject_udp_3653", "drop_3653", "reject_3653", "drop_all", "reject_all")
BLOCKS_TCP = ("drop_tcp_3653", "reject_tcp_3653", "drop_3653", "reject_3653", "drop_all", "reject_all")
BLOCKS_PROTOCOL_41 = ("drop_proto41", "reject_proto41", "drop_all", "reject_all")


def build(net: Network, policy: str = "drop_3653", delay_ms: float = 0) -> None:
    laptop = net.client("laptop")
    firewall = net.firewall("firewall", policy="allow")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, firewall)
    net.link(firewall, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    for policy in ("allow", net.parameters["policy"]):
        await net["firewall"].set_policy(policy)
        for transport, tunnel in (("udp", "v6udpv4"), ("tcp", "v6v4")):
            setup = await net["laptop"].attempt_tunnel("broker", transport=transport, tunnel=tunnel)
            if setup.outcome == "ready":
                await net["laptop"].ping("server", count=3, timeout_s=1)
            await net["laptop"].disconnect_tunnel()


def check(run: Run) -> None:
    policy = run.parameters["policy"]
    udp_open, tcp_open, udp, tcp = run.tunnels("laptop")
    assert udp_open.outcome == tcp_open.outcome == "ready"
    assert all(ping.received == 3 for ping in run.pings("laptop")[:2])

    blocked = "timeout" if policy.startswith("drop") else "unreachable"
    assert udp.outcome == (blocked if policy in BLOCKS_UDP else "ready")
    assert tcp.outcome == (blocked if policy in BLOCKS_TCP else "ready")
    if tcp.outcome == "ready":
        assert run.pings("laptop")[-1].received == (0 if policy in BLOCKS_PROTOCOL_41 else 3)
    if policy != "allow":
        assert run.counter("firewall", policy) > 0
