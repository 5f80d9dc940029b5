"""Broker and client as programs on a machine of their own: a signal ends them and nothing of theirs is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Network
from pathlib import Path
from typing import IO

import pytest

from lab.actors.ping import ping
from lab.kernel import links
from lab.kernel.build import Fabric, build
from lab.kernel.process import Process
from lab.topology.plan import Plan
from lab.topology.planner import make_plan
from tests.kernel.tunnels import assert_nothing_is_left, direct, until

pytestmark = [pytest.mark.kernel, pytest.mark.needs("tun_fallback", "raw"), pytest.mark.timeout(180)]

BROKER = """
import logging, sys
logging.disable()
from ipaddress import IPv6Network
from pathlib import Path
from lab.actors.standalone import run_broker
print_line = lambda text: print(text, flush=True)
sys.exit(run_broker(pool=IPv6Network("2001:db8:f000::/36"), users={"ann": "secret"}, database=Path(sys.argv[1]),
                    anonymous=False, say=print_line))
"""
CLIENT = """
import json, logging, sys
logging.disable()
from lab.actors.standalone import ClientWish, run_client
from lab.tsp import TunnelType
print_line = lambda text: print(text, flush=True)
options = json.loads(sys.argv[2])
options["tunnel"] = TunnelType(options.get("tunnel", "v6anyv4"))
wish = ClientWish(broker=sys.argv[1], **options)
sys.exit(run_client(wish, on_report=lambda report: print_line(json.dumps(report.to_json())), say=print_line))
"""


_machines: list[Machine] = []


@pytest.fixture(autouse=True)
def _machines_ended() -> Iterator[None]:
    """A test that failed half-way leaves no program to the next one."""
    yield
    while _machines:
        _machines.pop().discard()


class Machine:
    """A node with a program that prints lines."""

    def __init__(self, fabric: Fabric, node: str, source: str, *arguments: str) -> None:
        argv = [sys.executable, "-c", source, *arguments]
        self.process: Process = fabric[node].popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self.process.stdout is not None
        self._pipe: IO[bytes] = self.process.stdout
        _machines.append(self)

    def discard(self) -> None:
        """Kill the program unless it has ended; close the pipe."""
        self._pipe.close()
        if self.process.returncode is None:
            self.process.kill()
            asyncio.run(self.process.wait())

    async def line(self) -> str:
        """The next line it prints; AssertionError, with all it says, if it ends or has come to grief instead."""
        async with asyncio.timeout(20):
            line = (await asyncio.to_thread(self._pipe.readline)).decode()
            if line.startswith("Traceback"):
                line += (await asyncio.to_thread(self._pipe.read)).decode()
                raise AssertionError(line)
        assert line, "the program has ended"
        return line

    async def until_line(self, wanted: str, deadline_s: float = 30) -> None:
        """Wait for a line with `wanted`."""
        async with asyncio.timeout(deadline_s):
            while wanted not in await self.line():
                pass

    async def end(self, number: int) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()


def plan() -> Plan:
    return make_plan(direct())


def wish(**options: object) -> str:
    return json.dumps({"user": "ann", "password": "secret", "keepalive_interval_s": 1, **options})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_broker_and_client_and_removes_their_devices(number: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = plan()
        fabric = build(made)
        address, server = made.node("broker").ipv4, made.node("server").ipv6
        assert address is not None
        assert server is not None
        broker = Machine(fabric, "broker", BROKER, str(tmp_path / "broker.db"))
        try:
            assert f"serves 2001:db8:f000::/36 on {address} port 3653" in await broker.line()
            client = Machine(fabric, "client", CLIENT, f"{address}:3653", wish(lan="lo"))
            report = json.loads(await client.line())
            assert report["outcome"] == "ready"
            assert report["prefix"].endswith("/64")
            assert (await ping(fabric["client"], server, count=2)).received == 2
            assert await client.end(number) == 0
            assert_nothing_is_left(fabric["client"])
            assert await broker.end(number) == 0
            assert_nothing_is_left(fabric["broker"])
        finally:
            fabric.close()

    asyncio.run(scenario())


def test_a_client_sets_a_dead_tunnel_up_again_with_the_same_address(tmp_path: Path) -> None:
    async def scenario() -> None:
        made = plan()
        fabric = build(made)
        address = made.node("broker").ipv4
        assert address is not None
        try:
            broker = Machine(fabric, "broker", BROKER, str(tmp_path / "broker.db"))
            await broker.line()
            client = Machine(fabric, "client", CLIENT, address, wish(tunnel="v6udpv4"))
            first = json.loads(await client.line())
            broker.process.kill()  # no time to say good-bye, nor to close the database
            await broker.process.wait()
            assert "dead" in await client.line()
            broker = Machine(fabric, "broker", BROKER, str(tmp_path / "broker.db"))
            await broker.line()
            while (line := await client.line()).startswith("{"):
                again = json.loads(line)
                if again["outcome"] == "ready":
                    break
            assert again["client_ipv6"] == first["client_ipv6"]
            assert await client.end(signal.SIGTERM) == 0
            assert await broker.end(signal.SIGTERM) == 0
        finally:
            fabric.close()

    asyncio.run(scenario())


def test_a_killed_client_leaves_no_device() -> None:
    async def scenario() -> None:
        made = plan()
        fabric = build(made)
        address = made.node("broker").ipv4
        assert address is not None
        try:
            broker = Machine(fabric, "broker", BROKER, ":memory:")
            await broker.line()
            client = Machine(fabric, "client", CLIENT, address, wish(tunnel="v6udpv4"))
            await client.line()
            await client.end(signal.SIGKILL)

            def gone() -> bool:
                try:
                    assert_nothing_is_left(fabric["client"])
                except AssertionError:
                    return False
                return True

            await until(gone, "the device of the killed client going")
            await broker.end(signal.SIGTERM)
        finally:
            fabric.close()

    asyncio.run(scenario())


@pytest.mark.needs("tun")
def test_a_device_that_somebody_removes_is_noticed_at_once_by_client_and_broker(tmp_path: Path) -> None:
    async def scenario() -> None:
        made = plan()
        fabric = build(made)
        address = made.node("broker").ipv4
        assert address is not None
        try:
            broker = Machine(fabric, "broker", BROKER, str(tmp_path / "broker.db"))
            await broker.line()
            # Its keepalives would need more than a minute to find out.
            client = Machine(fabric, "client", CLIENT, address, wish(tunnel="v6udpv4", keepalive_interval_s=30))
            first = json.loads(await client.line())
            links.del_link(fabric["client"], "tsp0")
            assert "dead" in await client.line()
            again = json.loads(await client.line())
            assert (again["outcome"], again["client_ipv6"]) == ("ready", first["client_ipv6"])
            links.del_link(fabric["broker"], "tsp0")
            async with asyncio.timeout(20):
                assert await broker.process.wait() == 1
            assert await client.end(signal.SIGTERM) == 0
        finally:
            fabric.close()

    asyncio.run(scenario())


def test_a_lan_that_is_gone_for_a_while_does_not_end_the_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        made = plan()
        fabric = build(made)
        address = made.node("broker").ipv4
        assert address is not None

        async def add_lan() -> None:
            done = await fabric["client"].run(["ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan0peer"])
            assert done.returncode == 0, done.stderr
            links.link_up(fabric["client"], "lan0peer")
            links.link_up(fabric["client"], "lan0")

        try:
            broker = Machine(fabric, "broker", BROKER, str(tmp_path / "broker.db"))
            await broker.line()
            await add_lan()
            client = Machine(fabric, "client", CLIENT, address, wish(tunnel="v6udpv4", lan="lan0"))
            first = json.loads(await client.line())
            announces = f"announces {first['prefix']} on lan0"
            assert announces in await client.line()
            links.del_link(fabric["client"], "lan0")
            links.del_link(fabric["client"], "tsp0")
            assert "dead" in await client.line()
            assert json.loads(await client.line())["outcome"] == "ready"
            refused = await client.line()
            assert "lan0" in refused  # what could not be done
            assert announces not in refused
            await add_lan()
            await client.until_line(announces)
            assert fabric["client"].netlink.is_local(str(IPv6Network(first["prefix"])[1]))
            assert await client.end(signal.SIGTERM) == 0
            assert await broker.end(signal.SIGTERM) == 0
        finally:
            fabric.close()

    asyncio.run(scenario())


def test_a_broker_out_of_open_files_refuses_connections_in_good_order(tmp_path: Path) -> None:
    few = """
import resource
from lab.actors import standalone
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
standalone.raise_descriptor_limit = lambda: 256
"""

    async def scenario() -> None:
        made = plan()
        address = made.node("broker").ipv4
        assert address is not None
        with contextlib.closing(build(made)) as fabric, contextlib.ExitStack() as stack:
            broker = Machine(
                fabric, "broker", few + BROKER.replace("logging.disable()", ""), str(tmp_path / "broker.db")
            )
            assert "serves" in await broker.line()
            loop = asyncio.get_running_loop()
            iface = made.node("client").interfaces[0]
            mine = IPv4Interface(str(iface.ipv4))
            ends = []
            for number in range(300):
                source = mine.ip + 10 + number // 100  # each may have a number of connections only
                if number % 100 == 0:
                    links.add_address(fabric["client"], iface.name, f"{source}/{mine.network.prefixlen}")
                sock = stack.enter_context(fabric["client"].socket(socket.AF_INET, socket.SOCK_STREAM))
                sock.bind((str(source), 0))
                await loop.sock_connect(sock, (address, 3653))
                ends.append(asyncio.ensure_future(loop.sock_recv(sock, 1)))
            await until(lambda: sum(task.done() for task in ends) == 300 - 64, "all beyond the limit are closed")
            client = Machine(fabric, "client", CLIENT, address, wish())
            assert json.loads(await client.line())["outcome"] == "ready"
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)
            assert await client.end(signal.SIGTERM) == 0
            assert await broker.end(signal.SIGTERM) == 0
            assert "stopped" in (said := await broker.line()), said  # not the traceback of a listener without a file

    asyncio.run(scenario())


def test_a_first_set_up_that_fails_ends_the_client_with_status_1() -> None:
    async def scenario() -> None:
        made = plan()
        fabric = build(made)
        try:
            client = Machine(fabric, "client", CLIENT, str(made.node("broker").ipv4), wish(transport="udp"))
            report = json.loads(await client.line())
            assert report["outcome"] == "unreachable"
            async with asyncio.timeout(20):
                assert await client.process.wait() == 1
        finally:
            fabric.close()

    asyncio.run(scenario())
