"""What the network says of a tunnel's packets of protocol 41 is heard, whatever device sends them."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from ipaddress import IPv4Address

import pytest

from lab.actors.errorear import ErrorEar
from lab.encap import PROTOCOL_41
from lab.results import SetupRecord
from tests.kernel.test_explain import up

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "raw")]

SILENCE = "no echo came back through the tunnel in 1 s"


@pytest.mark.needs("tun_fallback")
@pytest.mark.parametrize(
    ("tunnel", "policy", "told"),
    [
        ("v6v4", "drop_proto41", SILENCE),
        ("v6v4", "reject_proto41", SILENCE + r", but \d ICMP errors? did"),
        ("v6udpv4", "drop_tsp_data", SILENCE),
        ("v6udpv4", "reject_tsp_data", SILENCE + r", but \d ICMP errors? did"),
    ],
)
def test_the_user_of_a_tunnel_that_carries_nothing_is_told_whether_that_was_said(
    tunnel: str, policy: str, told: str
) -> None:
    async def scenario() -> SetupRecord:
        async with up("firewall_3653") as lab:
            await lab["firewall"].set_policy(policy)
            return await lab["laptop"].attempt_tunnel("broker", tunnel=tunnel, first_packet_timeout_s=1)

    setup = asyncio.run(scenario())
    assert setup.outcome == "ready"
    assert re.fullmatch(told, setup.reason)


def test_what_the_peer_sends_is_not_kept_for_the_ear() -> None:
    async def scenario() -> None:
        async with up("firewall_3653") as lab:
            laptop, broker = lab["laptop"], lab["broker"]
            assert laptop.ipv4 is not None
            assert broker.ipv4 is not None
            counters: Counter[str] = Counter()
            ear = ErrorEar(laptop.namespace, IPv4Address(broker.ipv4), counters)
            with (
                laptop.namespace.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL_41) as plain,
                broker.namespace.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL_41) as sender,
            ):
                sender.sendto(b"a packet of protocol 41", (laptop.ipv4, 0))
                async with asyncio.timeout(10):
                    heard = await asyncio.get_running_loop().sock_recv(plain, 2048)
                assert heard.endswith(b"a packet of protocol 41")
                sockets = (await laptop.namespace.run(["cat", "/proc/net/raw"], check=True)).stdout
                waiting = [int(line.split()[4].split(":")[1], 16) for line in sockets.splitlines()[1:]]
            ear.close()
            ear.close()
            assert waiting
            assert not any(waiting)
            assert counters == {}

    asyncio.run(scenario())
