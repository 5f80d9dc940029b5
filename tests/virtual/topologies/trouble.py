"""A run that goes wrong after its first tunnel, in the way it is told to.

laptop --- broker
"""

import asyncio
import os
import time
from pathlib import Path

from lab import Lab, Network, Run


def build(net: Network, how: str = "none") -> None:
    net.link(net.client("laptop"), net.broker("broker"))


async def scenario(net: Lab) -> None:
    await net["laptop"].connect_tunnel("broker")
    match net.parameters["how"]:
        case "init ends":
            os._exit(3)
        case "panic":
            Path("/proc/sysrq-trigger").write_text("c")  # noqa: ASYNC240
        case "memory":
            kept = []
            while True:
                kept.append(bytes(1 << 20))
        case "wait for ever":
            await asyncio.Event().wait()
        case "sleep without await":
            time.sleep(10_000)  # noqa: ASYNC251
        case "spin":
            while True:
                pass
        case "disk":
            await net["laptop"].transfer("broker", size=3_000_000, family=4)


def check(run: Run) -> None:
    assert run.tunnel("laptop").outcome == "ready"
