"""A firewall is told to stop port 3653. What does the client see, and how long until it knows?

    laptop --- firewall --- internet --- broker --- server

With the firewall open, a tunnel comes up over UDP (v6udpv4) and over TCP (v6v4). Then the policy is switched
on and the same two set-ups are tried again. A dropped packet tells the client nothing: it resends, waits twice
as long each time (RFC 6298) and gives up after seconds. A rejected one is answered at once, by ICMP or by a TCP
reset. And a filter for port 3653 is not a filter for tunnels: v6v4 traffic is protocol 41 and has no port, which
is why RFC 7123 section 3.7 names three filters, not one.

Try:  scripts/lab run firewall_3653 --set policy=reject_3653
      scripts/lab run firewall_3653 --set policy=drop_proto41+reject_tsp_control
      scripts/lab policies
"""

from lab import Lab, Network, PolicyName, Run

EVERYTHING = {"but_80_443", "by_default", "all"}
BLOCKS_UDP = {"udp_3653", "3653", "tsp", "tsp_control", "udp", *EVERYTHING}
BLOCKS_TCP = {"tcp_3653", "3653", "tsp", "tsp_control", *EVERYTHING}
BLOCKS_PROTOCOL_41 = {"proto41", "6in4", "tsp", *EVERYTHING}


def build(net: Network, policy: PolicyName = "drop_3653", delay_ms: float = 0) -> None:
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

    assert udp.outcome == expected(policy, BLOCKS_UDP)
    assert tcp.outcome == expected(policy, BLOCKS_TCP)
    if tcp.outcome == "ready":
        carries = expected(policy, BLOCKS_PROTOCOL_41) == "ready"
        assert run.pings("laptop")[-1].received == (3 if carries else 0)
    if "ready" not in (udp.outcome, tcp.outcome):
        assert sum(run.counter("firewall", part) for part in policy.split("+")) > 0


def expected(policy: str, filters: set[str]) -> str:
    """What becomes of a set-up when the first of these filters in the policy stops it."""
    for part in policy.split("+"):
        action, _, name = part.partition("_")
        if name in filters:
            return "timeout" if action == "drop" else "unreachable"
    return "ready"
