"""A NAT forgets tunnels that are silent for too long. How often does a client have to speak?

    every25  --- nat --- internet --- broker --- server
    every60  --- nat
    every110 --- nat
    every300 --- nat

Each laptop keeps a v6udpv4 tunnel for a day and sends nothing but keepalives, one every 25, 60, 110 or 300 seconds,
or up to a quarter less (RFC 5572 section 4.6). Once an hour, at the end of a silence, the server knocks: it pings the
laptop. As long as the NAT remembers the flow, the ping gets in. When it has forgotten, the tunnel is lost in one
direction, from outside, and nobody notices: the laptop's own keepalive makes the NAT learn the flow anew and is
answered. So it is with pings from the laptop, at the end of the day.

The NAT is a Linux one. It remembers a flow for 30 seconds; for 120 once packets have gone both ways for more than two
seconds, but a set-up takes less. The first keepalive decides: one within 30 seconds makes a flow that lives 120, a
later one finds the flow forgotten and begins another, good for 30. That is why 60 and 110 do not do, though both are
less than 120, and why they do if the laptop says one more word soon after its set-up (talk). A NAT that gives each
new flow another port (ports=random) makes it worse: the broker takes nothing from a port it does not know, so the
tunnel is lost in both directions. At least that is noticed: the keepalives are not answered.

A day passes in less than a minute of virtual time. SHORT is for a kernel whose time is real.

Try:  scripts/lab run nat_timeout --on virtual
      scripts/lab run nat_timeout --on virtual --set talk=yes
      scripts/lab run nat_timeout --on virtual --set ports=random
      scripts/lab run nat_timeout --on virtual --set timeout_s=300 --set stream_timeout_s=600 --set intervals=250,600
"""

import asyncio

from lab import Lab, Network, Run

TIMEOUT_S = 26 * 3600
SHORT = {"timeout_s": 2, "stream_timeout_s": 5, "intervals": "1,4", "hours": 0.003, "knocks": 2}


def build(
    net: Network,
    timeout_s: int = 30,
    stream_timeout_s: int = 120,
    intervals: str = "25,60,110,300",
    talk: bool = False,
    hours: float = 24,
    knocks: int = 24,
    ports: str = "preserve",
    delay_ms: float = 20,
) -> None:
    nat = net.nat("nat", ports=ports, udp_timeout_s=timeout_s, udp_stream_timeout_s=stream_timeout_s)
    internet = net.router("internet")
    broker = net.broker("broker", lifetime_min=2 * 24 * 60)
    server = net.host("server", ipv6_only=True)
    for interval_s in intervals.split(","):
        net.link(net.client(f"every{interval_s}"), nat)
    net.link(nat, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    await asyncio.gather(*(one_day(net, int(interval_s)) for interval_s in net.parameters["intervals"].split(",")))


async def one_day(net: Lab, interval_s: int) -> None:
    laptop, server = net[f"every{interval_s}"], net["server"]
    knocks, hours = net.parameters["knocks"], net.parameters["hours"]

    async def silence() -> None:
        await net.sleep(hours * 3600 / knocks)
        await laptop.until_keepalive()

    await laptop.connect_tunnel("broker", tunnel="v6udpv4", keepalive_interval_s=interval_s)
    if net.parameters["talk"]:
        await net.sleep(3)
        await laptop.ping("server", count=1)
    await server.ping(laptop, count=knocks, before=silence, timeout_s=1)
    await laptop.ping("server", count=1, timeout_s=1)
    await server.ping(laptop, count=1, timeout_s=1)


def check(run: Run) -> None:
    parameters = run.parameters
    for text in parameters["intervals"].split(","):
        laptop, longest_s = f"every{text}", int(text)
        knocked, afterwards = run.pings("server", laptop)
        (outward,) = run.pings(laptop, "server")[-1:]
        streams = parameters["talk"] or longest_s <= parameters["timeout_s"]
        remembered_s = parameters["stream_timeout_s"] if streams else parameters["timeout_s"]
        if longest_s <= remembered_s:
            assert knocked.received == knocked.sent
        elif 0.75 * longest_s - 1 > remembered_s:
            assert knocked.received == 0
        if parameters["ports"] == "preserve" or knocked.received:
            assert (outward.received, afterwards.received) == (1, 1)
        else:
            assert (outward.received, afterwards.received) == (0, 0)
