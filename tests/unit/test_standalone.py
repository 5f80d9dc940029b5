"""What `lab broker` and `lab client` refuse before they touch anything."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Network

import pytest

from lab.actors import standalone
from lab.actors.client import TunnelClient
from lab.actors.settings import Limits
from lab.actors.standalone import ClientWish, limits_for, lost_within, resolve, run_broker, run_client
from lab.errors import UsageError
from lab.tsp import BrokerConfig


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".example", "", ":", "192.0.2.1:0", "192.0.2.1:65536", "::1"])
def test_what_cannot_be_a_broker_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        resolve(name)


def test_a_broker_is_an_address_with_or_without_a_port() -> None:
    assert resolve("192.0.2.1") == (IPv4Address("192.0.2.1"), 3653)
    assert resolve("192.0.2.1:99") == (IPv4Address("192.0.2.1"), 99)


@pytest.mark.parametrize("device", ["", "a/b", "..", "two words", "x" * 16])
def test_what_cannot_be_a_device_is_named(device: str) -> None:
    with pytest.raises(UsageError, match="name of a device"):
        run_client(ClientWish(broker="192.0.2.1", device=device), on_report=lambda report: None)
    with pytest.raises(UsageError, match="name of a device"):
        run_broker(pool=IPv6Network("2001:db8::/36"), device=device)


@pytest.mark.parametrize("pool", ["::/0", "ff00::/16", "fe80::/32"])
def test_a_pool_that_no_client_can_have_is_named(pool: str) -> None:
    with pytest.raises(UsageError, match="clients cannot have addresses"):
        run_broker(pool=IPv6Network(pool), address=IPv4Address("192.0.2.1"))


def test_a_machine_without_a_default_route_is_told_how_to_say_where_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(towards: str) -> IPv4Address:
        raise UsageError(f"this machine has no IPv4 route to {towards}: Network is unreachable")

    monkeypatch.setattr(standalone, "local_address", no_route)
    with pytest.raises(
        UsageError, match="^this machine has no default IPv4 route; say where to listen with --address$"
    ):
        run_broker(pool=IPv6Network("2001:db8::/36"))


def test_a_broker_waits_at_least_as_long_as_its_sessions_for_a_patient_client() -> None:
    assert Limits().setup_s > BrokerConfig().idle_timeout_s


@pytest.mark.parametrize(("descriptors", "connections"), [(65_536, 1024), (1024, 832), (256, 64), (64, 1)])
def test_a_broker_takes_no_more_connections_than_its_open_files_allow(descriptors: int, connections: int) -> None:
    assert limits_for(descriptors).connections == connections
    assert limits_for(descriptors).tunnels == Limits().tunnels


def test_a_tunnel_is_held_until_it_dies_or_its_time_is_nearly_over() -> None:
    class Held(TunnelClient):
        def __init__(self, *, dead: bool) -> None:
            self._lost = asyncio.Event()
            if dead:
                self._lost.set()

    assert asyncio.run(lost_within(Held(dead=True), 1e9))
    assert asyncio.run(lost_within(Held(dead=True), 0))
    assert not asyncio.run(lost_within(Held(dead=False), 1e-9))
