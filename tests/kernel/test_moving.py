"""A client that moves: one place at a time, with what it has there; and what a tunnel and a transfer make of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

from lab.ladder.model import ladder
from lab.results import CommandRecord, ExplainRecord, TransferRecord
from lab.run import Run, run
from lab.topology import catalog

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet"),
    pytest.mark.timeout(240),
]

ROAMING: Final = '''"""A laptop between two places.

    laptop --- home --- internet --- broker
    laptop --- street --- internet
"""
from lab import Network


def build(net: Network) -> None:
    laptop, internet = net.client("laptop"), net.router("internet")
    home, street = net.nat("home"), net.router("street")
    net.link(laptop, home)
    net.link(laptop, street, plugged=False)
    net.link(home, internet)
    net.link(street, internet)
    net.link(internet, net.broker("broker"))


async def scenario(net) -> None:
    laptop = net["laptop"]
    {scenario}


def check(run) -> None:
    pass
'''


def roam(folder: Path, *steps: str) -> Run:
    """A run of these steps."""
    file = folder / "roaming.py"
    file.write_text(ROAMING.replace("{scenario}", "\n    ".join(steps)))
    return run(str(file), on="host", out=folder / "run", seed=1)


LOOK: Final = (
    'await laptop.run(["ip", "-4", "-o", "address", "show", "scope", "global"])',
    'await laptop.run(["ip", "-4", "route", "show"])',
    'await laptop.ping("broker", count=1)',
)


def test_a_client_is_in_one_place_at_a_time_and_may_come_back(tmp_path: Path) -> None:
    done = roam(tmp_path, *LOOK, 'await laptop.move_to("street")', *LOOK, 'await laptop.move_to("home")', *LOOK)
    assert done.status == "ok", done.message
    assert [ping.received for ping in done.pings("laptop")] == [1, 1, 1]
    told = [record.stdout for record in done.records if isinstance(record, CommandRecord)]
    places = [("eth0", "192.168.0.2/24", "192.168.0.1"), ("eth1", "192.0.2.2/28", "192.0.2.1")]
    for number, (iface, address, gateway) in enumerate((places[0], places[1], places[0])):
        addresses, routes = told[2 * number : 2 * number + 2]
        assert f"{iface}    inet {address}" in addresses
        assert addresses.count("inet ") == 1
        assert f"default via {gateway} dev {iface}" in routes
        assert len(routes.splitlines()) == 2
    assert [(move.place, move.address) for move in done.moves("laptop")] == [
        ("street", "192.0.2.2"),
        ("home", "192.168.0.2"),
    ]
    assert done.wire("laptop", "eth0").total() >= 4  # what was captured goes on after a time without a link
    assert done.wire("laptop", "eth1").total() >= 2


def test_what_cannot_be_moved_to_is_told_with_what_can(tmp_path: Path) -> None:
    done = roam(tmp_path, 'await laptop.move_to("internet")')
    assert done.status == "error"
    assert "laptop cannot move to internet: it can be at home, street" in done.message
    file = tmp_path / "staying.py"
    source = ROAMING.replace(", plugged=False", "")
    source = source.replace('net.client("laptop")', 'net.client("laptop", gateway="home")')
    source = source.replace('net.nat("home")', 'net.nat("home", outside="internet")')
    file.write_text(source.replace("{scenario}", 'await laptop.move_to("street")'))
    done = run(str(file), on="host", out=tmp_path / "staying", seed=1)
    assert "laptop cannot move to street: its links are all plugged in (net.link(..., plugged=False))" in done.message


def quick(**parameters: Any) -> dict[str, Any]:
    return {**catalog.load("moving_client").short, "delay_ms": 0, **parameters}


@pytest.mark.parametrize("parameters", [{"notices": "address"}, {"notices": "address", "anonymous": True}])
def test_a_client_that_watches_its_address_is_back_as_the_lesson_says(parameters: Any, tmp_path: Path) -> None:
    done = run("moving_client", on="host", out=tmp_path / "run", parameters=quick(**parameters), seed=1)
    assert done.status == "ok", done.message
    table = done.tables.addresses
    own = table[table["what"] == "IPv4"]
    assert list(own["event"]) == ["at home", "at cafe", "at campus"]
    assert list(table[table["what"] == "IPv6"]["event"]) == ["tunnel 1", "tunnel 2", "tunnel 3"]
    columns = [[column.name for column in ladder(done, "laptop", number).columns][:3] for number in range(3)]
    assert columns == [["laptop", place, "internet"] for place in ("home", "cafe", "campus")]
    first = done.tables.lifetimes.iloc[0]
    assert first["ended"]
    assert first["alive_s"] <= own["until_s"].iloc[0] - first["from_s"]


def test_a_packet_is_followed_to_where_the_client_is_and_not_to_where_it_was(tmp_path: Path) -> None:
    done = roam(
        tmp_path,
        "at_home = laptop.ipv4",
        'await laptop.move_to("street")',
        'await net["home"].explain(at_home, icmp=True)',
        "here = laptop.ipv4",
        'await net["broker"].explain(here, icmp=True)',
        'await net["street"].ping("laptop", count=1)',
        'await laptop.move_to("home")',
        'await net["street"].explain(here, icmp=True)',
        'await net["broker"].explain(here, icmp=True)',
    )
    assert done.status == "ok", done.message
    left, there, late, gone = (record for record in done.records if isinstance(record, ExplainRecord))
    assert (left.fate, left.ended_at, left.by) == ("lost", "home", "neighbour")
    assert (late.fate, late.ended_at) == ("lost", "street")
    # The kernel forgets who was there when it notices that the cable is out; until then it goes on sending.
    assert re.search("laptop is not plugged in there|nobody there has that address", late.verdict)
    assert (there.fate, there.ended_at) == ("delivered", "laptop")
    assert there.verdict == "delivered at laptop. broker was told: an echo reply, by laptop."
    assert (gone.fate, gone.ended_at) == ("lost", "street")
    assert "nobody there has that address" in gone.verdict


def test_a_connection_that_the_kernel_gives_up_is_told_as_that(tmp_path: Path) -> None:
    done = roam(
        tmp_path,
        'laptop.namespace.sysctls({"net/ipv4/tcp_syn_retries": "1"})',
        'await net["broker"].run(["ip", "route", "add", "blackhole", "192.0.2.16/28"])',  # where the laptop is seen
        'await laptop.transfer("broker", family=4, may_fail=True)',
        'await laptop.transfer("broker", family=4, timeout_s=0.3, may_fail=True)',
        'await laptop.transfer("broker", family=4, timeout_s=0.3)',
    )
    given_up, ended = (record.reason for record in done.records if isinstance(record, TransferRecord))
    assert given_up.endswith("failed: Connection timed out")
    assert ended.endswith("did not end in 0.3 s")
    assert "did not end in 0.3 s" in done.message
