"""Every topology runs unchanged on both kernels and on Mininet, and all come to the same conclusions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Final

import pytest

from lab.engines import uml
from lab.kernel import stock_mininet
from lab.kernel.caps import Capabilities
from lab.results import (
    CommandRecord,
    DatagramRecord,
    ExperienceRecord,
    PingRecord,
    PolicyRecord,
    Record,
    SetupRecord,
    TransferRecord,
)
from lab.run import Run, run
from lab.topology import catalog

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet"),
    pytest.mark.timeout(600),
]

NAMES: Final = [info.name for info in catalog.list_topologies()]
AT_ONCE: Final = 3
"""Runs in real time spend most of it waiting."""

DELAY_MS: Final = 10.0
"""In virtual time, where a topology has none of its own."""


def parameters(name: str, kernel: str, caps: Capabilities) -> dict[str, Any]:
    """What to run a topology with: a delay where the kernel can delay."""
    known = catalog.load(name).parameters
    chosen = dict(catalog.load(name).short)
    if "delay_ms" in known:
        can = kernel == "virtual" or caps["netem"].ok
        chosen["delay_ms"] = (known["delay_ms"].default or DELAY_MS) if can else 0.0
    return chosen


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, caps: Capabilities
) -> Iterator[dict[tuple[str, str], Future[Run]]]:
    """Every topology asked for, by (name, engine); all are at work while a test waits for its own."""
    base = tmp_path_factory.mktemp("runs")
    here = [item for item in request.session.items if item.path == request.path]
    names = dict.fromkeys(str(item.callspec.params["name"]) for item in here if isinstance(item, pytest.Function))
    there = {"host": True, "virtual": uml.find() is not None, "mininet": stock_mininet.lacking() is None}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            (name, kernel): pool.submit(
                run,
                name,
                on=kernel,
                seed=1,
                out=base / f"{name}-{kernel}",
                parameters=parameters(name, kernel, caps),
                wall_timeout_s=400,
            )
            for name in names
            for kernel in there
            if there[kernel]
        }


def conclusion(record: Record) -> tuple[Any, ...]:
    """What a record says that does not depend on the kernel, the delay or the clock."""
    match record:
        case SetupRecord():
            return (
                record.node, record.outcome, record.code, record.transport, record.requested, record.type,
                record.mechanism, record.client_ipv6, record.prefix, record.seen_by_broker,
            )  # fmt: skip
        case PingRecord():
            lost = "some" if 0 < record.received < record.sent else record.sent - record.received
            return record.node, record.to, record.address, record.size, record.sent, lost
        case TransferRecord():
            return record.node, record.to, record.size, record.intact
        case PolicyRecord():
            return record.node, record.policy
        case CommandRecord():
            return record.node, record.argv, record.returncode
        case DatagramRecord():
            return record.node, record.source_port, record.to, record.port, record.listener, record.seen_as is not None
        case ExperienceRecord():
            seen = replace(record, told=without_allowance(record))
            return tuple(value for name, value in asdict(seen).items() if not name.endswith("_s"))
    return tuple(value for name, value in asdict(record).items() if not name.endswith("_s"))


def without_allowance(record: ExperienceRecord) -> str:
    """What a client was told, less how many ICMP errors about protocol 41 it heard: that is a matter of the clock.

    Linux sends two at once, then one for a packet that comes two seconds after the one before (`lab.rules.firewall`).
    """
    if record.tunnel != "v6v4":
        return record.told
    return re.sub(r", \d+ ICMP errors? on the way|\d+ (?=ICMP error)", "", record.told)


def conclusions(done: Run) -> list[tuple[Any, ...]]:
    """Those of all records, in order for each pair of nodes: what goes on at the same time is told in any order.

    Datagrams that are on their way together are told in any order too.
    """
    others = [record for record in done.records if not isinstance(record, DatagramRecord)]
    others.sort(key=lambda record: (record.node, getattr(record, "to", "")))
    datagrams = [conclusion(record) for record in done.records if isinstance(record, DatagramRecord)]
    return [conclusion(record) for record in others] + sorted(datagrams)


@pytest.mark.virtual
@pytest.mark.parametrize("name", NAMES)
def test_both_kernels_come_to_the_same_conclusions(name: str, runs: dict[tuple[str, str], Future[Run]]) -> None:
    host, virtual = (runs[name, kernel].result() for kernel in ("host", "virtual"))
    assert (host.facts["engine"], virtual.facts["engine"]) == ("host", "virtual")
    assert (host.status, virtual.status) == ("ok", "ok"), (host.message, virtual.message)
    assert conclusions(virtual) == conclusions(host)


@pytest.mark.needs("mininet")
@pytest.mark.parametrize("name", NAMES)
def test_mininet_comes_to_the_same_conclusions(name: str, runs: dict[tuple[str, str], Future[Run]]) -> None:
    host, mininet = (runs[name, engine].result() for engine in ("host", "mininet"))
    assert (host.status, mininet.status) == ("ok", "ok"), (host.message, mininet.message)
    assert mininet.facts["engine"] == "mininet"
    assert mininet.facts["kernel"]["mininet"]
    assert conclusions(mininet) == conclusions(host)
    assert conclusions(host), "or nothing would have been compared"


@pytest.mark.virtual
@pytest.mark.parametrize("name", NAMES)
def test_a_delayed_link_takes_its_time_in_virtual_time(name: str, runs: dict[tuple[str, str], Future[Run]]) -> None:
    virtual = runs[name, "virtual"].result()
    delayed = virtual.facts["trials"][0]["impairments"]
    assert bool(delayed) == ("delay_ms" in virtual.parameters)
    for way in delayed:
        assert way["achieved"]["delay_ms"] == pytest.approx(way["requested"]["delay_ms"], abs=0.1), way
