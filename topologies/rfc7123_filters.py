"""Which filter of RFC 7123 stops which way of carrying IPv6, and what does it stop besides?

    laptop --- firewall --- server

One packet of every mechanism is sent past the open firewall, then past each policy in turn; so is traffic that has
nothing to do with IPv6. Protocol 41 is five mechanisms at once, and the filters named after one of them have to look
inside. A port is not a mechanism: Teredo between peers and a broker that moved escape it, and port 3653 carries
control and data alike. What is rejected tells the sender, but for multicast, which no ICMP error may answer
(RFC 1122 section 3.2.2).

Try:  scripts/lab run rfc7123_filters --set policies=reject
      scripts/lab policies --plot filters.png
"""

from typing import Literal

from lab import Lab, Network, Run

TUNNELS_41 = {"6in4", "6over4", "6rd", "6to4", "isatap"}
OVER_UDP = {"teredo", "teredo_peer", "tsp_control_udp", "tsp_data", "ayiya_udp"}
OVER_TCP = {"tsp_control_tcp", "ayiya_tcp"}
INNOCENT_UDP = {"dns", "ntp", "stun", "quic", "dtls", "rtp"}
WEB = {"http", "https"}
EVERYTHING = {"native_ipv6"} | TUNNELS_41 | OVER_UDP | OVER_TCP | INNOCENT_UDP | WEB

STOPS = {
    "native_ipv6": {"native_ipv6"},
    "proto41": TUNNELS_41,
    "6in4": {"6in4"},
    "6over4": {"6over4"},
    "6rd": {"6rd"},
    "6to4": {"6to4"},
    "isatap": {"isatap"},
    "teredo": {"teredo"},
    "teredo_any_port": {"teredo", "teredo_peer"},
    "tsp": {"tsp_control_udp", "tsp_control_tcp", "tsp_data"} | TUNNELS_41,
    "tsp_control": {"tsp_control_udp", "tsp_control_tcp"},
    "tsp_data": {"tsp_data"},
    "udp_3653": {"tsp_control_udp", "tsp_data"},
    "tcp_3653": {"tsp_control_tcp"},
    "3653": {"tsp_control_udp", "tsp_control_tcp", "tsp_data"},
    "ayiya": {"ayiya_udp", "ayiya_tcp"},
    "udp": OVER_UDP | INNOCENT_UDP,
    "but_80_443": EVERYTHING - WEB,
    "by_default": EVERYTHING - WEB - {"dns", "ntp", "quic", "native_ipv6"},
    "all": EVERYTHING,
}


def build(net: Network, policies: Literal["all", "drop", "reject"] = "all") -> None:
    laptop = net.host("laptop")
    firewall = net.firewall("firewall", ipv6=True, outside="server")
    server = net.host("server")
    net.link(laptop, firewall, ipv4="192.0.2.0/24")
    net.link(firewall, server)


async def scenario(net: Lab) -> None:
    asked = net.parameters["policies"]
    actions = ["drop", "reject"] if asked == "all" else [asked]
    await net["firewall"].try_policies(
        ["allow", *(f"{action}_{name}" for action in actions for name in STOPS)], "laptop", "server"
    )


def check(run: Run) -> None:
    allowed, *crossings = run.crossings("firewall")
    sent = EVERYTHING if "6over4" in allowed.passed else EVERYTHING - {"6over4"}
    assert set(allowed.passed) == sent
    for crossing in crossings:
        action, _, name = crossing.policy.partition("_")
        stopped = STOPS[name] & sent
        assert {*crossing.dropped, *crossing.rejected} == stopped
        assert set(crossing.passed) == sent - stopped
        assert set(crossing.rejected) == (stopped - {"6over4"} if action == "reject" else set())
        assert crossing.counted >= len(stopped)
