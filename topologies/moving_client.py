"""A laptop goes from home to a cafe and on to a campus. Its IPv4 address changes; does its IPv6 address stay?

    laptop --- home --- internet --- broker --- server
    laptop --- cafe --- internet
    laptop --- campus --- internet

At home and in the cafe there is a NAT, on the campus a public address. With each move the tunnel is cut off: it ends at
an address that the laptop has left. Nobody tells anybody. The laptop's packets get nowhere, the broker goes on sending
to the old place, and only the silence after three keepalives tells the laptop (RFC 5572 section 4.6). With one at least
every 30 seconds IPv6 is gone for one minute to one and a half. A client that watches its own address (notices=address)
sets up anew at once and loses a second.

With each set-up the user gets the same IPv6 address again, whatever the IPv4 address and the kind of tunnel (section
2.3), which on the campus is another: without a NAT the broker offers protocol 41. So who pings the laptop is answered
again, and a TCP connection stands still and then goes on; not at once, for meanwhile it has been trying ever more
rarely. A client that is nobody (anonymous=yes) is promised nothing. It gets another address each time: who pings the
old one is never answered again, and a TCP connection from there gives up after a quarter of an hour.

Try:  scripts/lab run moving_client
      scripts/lab run moving_client --set notices=address
      scripts/lab run moving_client --set anonymous=yes
"""

import asyncio
from typing import Literal

from lab import Lab, Network, Run

TIMEOUT_S = 3 * 3600
SHORT = {"stay_min": 0.03, "keepalive_s": 1, "ping_s": 0.2}


def build(
    net: Network,
    notices: Literal["keepalives", "address"] = "keepalives",
    anonymous: bool = False,
    keepalive_s: int = 30,
    stay_min: float = 5,
    ping_s: float = 2,
    delay_ms: float = 20,
) -> None:
    laptop = net.client("laptop")
    home, cafe, campus = net.nat("home"), net.nat("cafe"), net.router("campus")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    net.link(laptop, home)
    net.link(laptop, cafe, plugged=False)
    net.link(laptop, campus, plugged=False)
    for place in (home, cafe, campus):
        net.link(place, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    stay_s, ping_s = 60 * net.parameters["stay_min"], net.parameters["ping_s"]
    longest_s = 3 * stay_s + 2 * 4 * net.parameters["keepalive_s"]
    laptop, server = net["laptop"], net["server"]
    await set_up(net)
    await asyncio.gather(
        travel(net, stay_s),
        server.ping(laptop.ipv6, count=round(longest_s / ping_s), interval_s=ping_s),
        laptop.transfer("server", over_s=longest_s - stay_s, timeout_s=2 * longest_s, may_fail=True),
    )


async def travel(net: Lab, stay_s: float) -> None:
    for place in ("cafe", "campus"):
        await net.sleep(stay_s)
        await net["laptop"].move_to(place)
        if net.parameters["notices"] == "keepalives":
            await net["laptop"].wait_tunnel_lost(timeout_s=4 * net.parameters["keepalive_s"])
        await set_up(net)
    await net.sleep(stay_s)


async def set_up(net: Lab) -> None:
    who = {} if net.parameters["anonymous"] else {"user": "ann", "password": "secret"}
    await net["laptop"].connect_tunnel("broker", keepalive_interval_s=net.parameters["keepalive_s"], **who)


def check(run: Run) -> None:
    tunnels, moves = run.tunnels("laptop"), run.moves("laptop")
    assert [tunnel.type for tunnel in tunnels] == ["v6udpv4", "v6udpv4", "v6v4"]
    public = [run.address("home", "wan0"), run.address("cafe", "wan0"), moves[-1].address]
    assert [tunnel.seen_by_broker for tunnel in tunnels] == public
    if run.parameters["notices"] == "keepalives":
        for move, tunnel in zip(moves, tunnels[1:], strict=True):
            assert tunnel.at_s - move.at_s > 2 * 0.75 * run.parameters["keepalive_s"]
    (pinged,) = run.pings("server")
    answered = [second for number, second in enumerate(pinged.sent_s) if number not in pinged.lost]
    arrived = [move.at_s - pinged.at_s for move in moves]
    afterwards = [any(second > arrival for second in answered) for arrival in arrived]
    if run.parameters["anonymous"]:
        assert len({tunnel.client_ipv6 for tunnel in tunnels}) == 3
        assert afterwards == [False, False]
        assert not run.transfer("laptop", "server").intact
    else:
        assert len({tunnel.client_ipv6 for tunnel in tunnels}) == 1
        assert afterwards == [True, True]
        assert run.transfer("laptop", "server").intact
