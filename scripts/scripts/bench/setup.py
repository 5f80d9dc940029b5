"""How long a TSP set-up takes on a link without delay: UDP, anonymous, from the first datagram to the reply to accept.

Client and broker run in this process, in two namespaces joined by a veth pair.  In the same run, between the same
namespaces and in turn with it, a bare asyncio program exchanges four datagrams of the same sizes each way: what the
machine needs for four round trips without any protocol.  Medians are printed, and their ratio.

    python scripts/bench/setup.py [--trials 200] [--json]         as root
    unshare -Urn python scripts/bench/setup.py                    as an ordinary user

Exit status 1 when the median is above the target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.actors.broker import TunnelBroker
from lab.actors.client import TunnelClient
from lab.kernel.build import build
from lab.kernel.namespace import Namespace
from lab.topology.network import Network
from lab.topology.planner import make_plan
from lab.tsp import ClientConfig, TunnelType

TARGET_MS: Final = 3.0
MOST_TRIALS: Final = 2000
SIZES: Final = ((23, 89), (32, 21), (231, 446), (63, 8))
"""Bytes of the client's and the broker's datagram in each round trip of a set-up."""
PHASES: Final = ("version", "auth", "create", "accept")
PING_PONG_PORT: Final = 7


class Pong(asyncio.DatagramProtocol):
    """Answers every datagram with one of the size that belongs to it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(bytes(dict(SIZES)[len(data)]), addr)


class Ping(asyncio.DatagramProtocol):
    """Four round trips, each begun when the one before it is answered."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[float] = self.loop.create_future()
        self.left = list(SIZES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.began = self.loop.time()
        self.transport.sendto(bytes(self.left.pop(0)[0]))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.left:
            self.transport.sendto(bytes(self.left.pop(0)[0]))
        else:
            self.done.set_result(self.loop.time() - self.began)


async def ping_pong(client: Namespace, server: str) -> float:
    """Seconds that four round trips take."""
    sock = client.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((server, PING_PONG_PORT))
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Ping, sock=sock)
    try:
        async with asyncio.timeout(5):
            return await protocol.done
    finally:
        transport.close()


async def measure(trials: int) -> dict[str, list[float]]:
    """Samples in seconds: `setup`, each phase, `first_packet`, `peer`."""
    net = Network("bench")
    net.client("client")
    net.broker("broker")
    net.link("client", "broker")
    plan = make_plan(net)
    fabric = build(plan)
    address, server = plan.node("client").ipv4, plan.node("broker").ipv4
    assert address is not None
    assert server is not None
    rng = random.Random(0)
    broker = TunnelBroker.from_options(fabric["broker"], plan.node("broker"), rng=rng)
    config = ClientConfig(client_address=IPv4Address(address), tunnel=TunnelType.V6UDPV4)
    samples: dict[str, list[float]] = {name: [] for name in ("setup", *PHASES, "first_packet", "peer")}
    try:
        await broker.start()
        pong = fabric["broker"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        pong.bind((server, PING_PONG_PORT))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Pong, sock=pong)
        for trial in range(-5, trials):  # the first five warm up
            samples["peer"].append(await ping_pong(fabric["client"], server))
            client = TunnelClient(fabric["client"], config, server, rng=rng)
            report = await client.connect()
            await client.close()
            if report.outcome != "ready" or report.retransmissions:
                raise SystemExit(f"a set-up went wrong: {report}")
            samples["setup"].append(sum(report.phases_s[phase] for phase in PHASES))
            for phase in (*PHASES, "first_packet"):
                samples[phase].append(report.phases_s[phase])
            if trial < 0:
                for values in samples.values():
                    values.clear()
        transport.close()
    finally:
        await broker.stop()
        fabric.close()
    return samples


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=200, help=f"1 to {MOST_TRIALS} (default: 200)")
    parser.add_argument("--json", action="store_true", help="print every sample")
    options = parser.parse_args(argv)
    if not 1 <= options.trials <= MOST_TRIALS:
        parser.error(f"--trials is 1 to {MOST_TRIALS}")
    samples = asyncio.run(measure(options.trials))
    median_ms = {name: statistics.median(values) * 1000 for name, values in samples.items()}
    ratio = median_ms["setup"] / median_ms["peer"]
    if options.json:
        print(json.dumps({"target_ms": TARGET_MS, "median_ms": median_ms, "ratio": ratio, "samples_s": samples}))
    else:
        load, cpus = os.getloadavg()[0], os.cpu_count()
        print(f"{options.trials} set-ups, UDP anonymous; Linux {platform.release()}, {cpus} CPUs, load {load:.1f}")
        for name, what in (("setup", "TSP set-up"), ("peer", "bare UDP, 4 round trips")):
            low, _, high = statistics.quantiles(samples[name], n=4) if options.trials > 1 else samples[name] * 3
            print(f"{what:<26} median {median_ms[name]:.2f} ms  (quartiles {low * 1000:.2f} to {high * 1000:.2f})")
        print(f"{'ratio':<26} {ratio:.1f}")
        print("phases, median ms          " + ", ".join(f"{phase} {median_ms[phase]:.2f}" for phase in PHASES))
        print(f"{'first echo reply after it':<26} median {median_ms['first_packet']:.2f} ms")
        met = "met" if median_ms["setup"] <= TARGET_MS else "MISSED"
        print(f"{'target':<26} {TARGET_MS:g} ms: {met}")
    return 0 if median_ms["setup"] <= TARGET_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())
