"""What does a client experience of a firewall: does it get a tunnel, does it keep one, and how soon does it know?

    ann --- lan --- firewall --- internet --- broker --- server
    bob --- lan
    carol --- lan
    dave --- lan

Four clients, four ways to ask: ann over UDP for v6udpv4, bob over UDP for v6v4, carol over TCP for v6v4, and dave
over TCP for v6udpv4, which no broker can give him (RFC 5572 section 4.4.1). First each policy is there before they
ask. Then ann and bob get their tunnels through the open firewall, and the policy is switched on while they use them.

A filter for port 3653 ends ann's tunnel and leaves bob's alone: his packets are protocol 41 and have no port. A
filter for protocol 41 is the other way round, and hides during bob's set-up: he gets a tunnel that carries nothing.
What is rejected is known at once, if it is a set-up; a tunnel that is up dies by its keepalives either way, as
RFC 5572 section 4.6 has no other sign of death.

Try:  scripts/lab run policy_matrix
      scripts/lab run policy_matrix --on virtual --set policies=all --set patience=real
"""

import asyncio
from typing import Any, Literal

from lab import Lab, LabNode, Network, Run
from lab.results import ExperienceRecord, SetupRecord
from lab.rules.catalogue import FILTERS

TIMEOUT_S = 3600

WAYS = {"ann": ("udp", "v6udpv4"), "bob": ("udp", "v6v4"), "carol": ("tcp", "v6v4"), "dave": ("tcp", "v6udpv4")}
FEW = ("3653", "proto41")
PATIENCE: dict[str, dict[str, Any]] = {
    "quick": {
        "initial_rto_s": 0.05,
        "min_rto_s": 0.05,
        "connect_timeout_s": 0.35,
        "first_packet_timeout_s": 0.35,
        "keepalive_interval_s": 1,
    },
    "real": {"keepalive_interval_s": 30},
}


def build(
    net: Network,
    policies: Literal["few", "all"] = "few",
    patience: Literal["quick", "real"] = "quick",
    delay_ms: float = 0,
) -> None:
    lan = net.switch("lan")
    firewall = net.firewall("firewall", policy="allow")
    internet = net.router("internet")
    broker = net.broker("broker", users={"ann": "secret"})
    server = net.host("server", ipv6_only=True)
    for name in WAYS:
        net.link(net.client(name), lan)
    net.link(lan, firewall)
    net.link(firewall, internet, delay_ms=delay_ms)
    net.link(internet, broker)
    net.link(broker, server)


async def scenario(net: Lab) -> None:
    names = FEW if net.parameters["policies"] == "few" else FILTERS
    for policy in ["allow", *(f"{action}_{name}" for name in names for action in ("drop", "reject"))]:
        await net["firewall"].set_policy(policy)
        await asyncio.gather(*(ask(net, net[name], policy) for name in WAYS))
        await net["firewall"].set_policy("allow")
        for name in ("ann", "bob"):
            await set_up(net, net[name])
        await net["firewall"].set_policy(policy)
        await asyncio.gather(*(use(net, net[name], policy) for name in ("ann", "bob")))


async def set_up(net: Lab, client: LabNode) -> SetupRecord:
    transport, tunnel = WAYS[client.name]
    options = PATIENCE[net.parameters["patience"]]
    return await client.attempt_tunnel("broker", transport=transport, tunnel=tunnel, **options)


async def ask(net: Lab, client: LabNode, policy: str) -> None:
    """Ask for a tunnel while the policy is there."""
    began = net.now()
    setup = await set_up(net, client)
    knows_s = net.now() - began
    outcome = setup.outcome
    if outcome == "ready":
        outcome = "works" if "first_packet" in setup.phases_s else "no data"
    tell(net, client, policy, "before", outcome, knows_s, setup.reason)
    await client.disconnect_tunnel()


async def use(net: Lab, client: LabNode, policy: str) -> None:
    """Use a tunnel that was up before the policy came."""
    began = net.now()
    if (await client.ping("server", count=2, timeout_s=0.3)).received:
        tell(net, client, policy, "after", "works", None, "")
    elif await client.wait_tunnel_lost(3 * PATIENCE[net.parameters["patience"]]["keepalive_interval_s"] + 10):
        errors = client.tunnel_counters().get("icmp_errors", 0)
        heard = f", {errors} ICMP errors on the way" if errors else ""
        tell(net, client, policy, "after", "dead", net.now() - began, f"3 keepalives in a row unanswered{heard}")
    else:
        tell(net, client, policy, "after", "no data", None, "")
    await client.disconnect_tunnel()


def tell(net: Lab, client: LabNode, policy: str, when: str, outcome: str, knows_s: float | None, told: str) -> None:
    transport, tunnel = WAYS[client.name]
    net.record(ExperienceRecord(client.name, net.now(), policy, when, transport, tunnel, outcome, knows_s, told))


SETS_UP_UDP = {"udp_3653", "3653", "tsp", "tsp_control", "udp", "but_80_443", "by_default", "all"}
SETS_UP_TCP = {"tcp_3653", "3653", "tsp", "tsp_control", "but_80_443", "by_default", "all"}
CARRIES_UDP = {"udp_3653", "3653", "tsp", "tsp_data", "udp", "but_80_443", "by_default", "all"}
CARRIES_41 = {"proto41", "6in4", "tsp", "but_80_443", "by_default", "all"}
"""Which filters stop a set-up, and which stop what a tunnel carries."""


def check(run: Run) -> None:
    for seen in run.experiences():
        action, _, name = seen.policy.partition("_")
        set_up = SETS_UP_UDP if seen.transport == "udp" else SETS_UP_TCP
        carries = CARRIES_UDP if seen.tunnel == "v6udpv4" else CARRIES_41
        if seen.when == "after":
            assert seen.outcome == ("dead" if name in carries else "works")
        elif name in set_up:
            assert seen.outcome == ("timeout" if action == "drop" else "unreachable")
        elif (seen.transport, seen.tunnel) == ("tcp", "v6udpv4"):
            assert seen.outcome == "refused"
        else:
            assert seen.outcome == ("no data" if name in carries else "works")
