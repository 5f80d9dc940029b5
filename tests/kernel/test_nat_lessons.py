"""The lessons about NATs hold for their other parameters too: the fault, and what cures it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.run import run

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet"),
    pytest.mark.timeout(240),
]


@pytest.mark.parametrize(
    ("lesson", "parameters"),
    [
        ("early_probe", {"input_open": False}),
        ("early_probe", {"ports": "preserve"}),
        ("early_probe", {"ports": "preserve", "input_open": False}),
        ("port_overloading", {"ports": "preserve"}),
        ("port_overloading", {"ports": "random"}),
        ("port_overloading", {"ports": "sequential"}),
        ("port_overloading", {"ports": "block"}),
        ("cgn_exhaustion", {"block_size": 80}),
        ("cgn_exhaustion", {"block_size": 81}),
        ("cgn_exhaustion", {"flows": 20, "block_size": 32}),
    ],
)
def test_a_lesson_holds_for_other_parameters(lesson: str, parameters: dict[str, object], tmp_path: Path) -> None:
    done = run(lesson, on="host", out=tmp_path / "run", parameters=parameters, seed=1)
    assert done.status == "ok", done.message


def test_every_flow_to_another_peer_takes_a_port_of_the_block_too(tmp_path: Path) -> None:
    """Connection tracking alone would give one port to flows with different peers, and the block would seem larger."""
    file = tmp_path / "many_peers.py"
    file.write_text(
        '''"""Flows to two peers.

    ann --- carrier --- internet --- one
                        internet --- two
"""
from lab import Network


def build(net: Network) -> None:
    net.link(net.client("ann"), net.nat("carrier", ports="block", block_size=32))
    net.link("carrier", net.router("internet"))
    for name in ("one", "two"):
        net.link("internet", net.host(name))


async def scenario(net) -> None:
    for number in range(20):
        for peer in ("one", "two"):
            await net["ann"].send_udp(peer, 4000, source_port=20000 + 100 * (peer == "two") + number, timeout_s=0.2)


def check(run) -> None:
    seen = [sent.seen_as for peer in ("one", "two") for sent in run.datagrams("ann", peer) if sent.seen_as]
    assert len(seen) == len(set(seen)) == 32
    assert run.counter("carrier", "nat_port_taken") == 8
'''
    )
    done = run(str(file), on="host", out=tmp_path / "run")
    assert done.status == "ok", done.message


def test_many_datagrams_are_told_together(tmp_path: Path) -> None:
    done = run("cgn_exhaustion", on="host", out=tmp_path / "run", seed=1)
    assert "  ann       datagrams 80 to broker port 4000: 64 seen" in done.summary()


def test_a_port_that_is_in_use_is_told(tmp_path: Path) -> None:
    file = tmp_path / "in_use.py"
    file.write_text(
        '''"""A port twice.

    laptop --- broker
"""
from lab import Network


def build(net: Network) -> None:
    net.link(net.client("laptop"), net.broker("broker"))


async def scenario(net) -> None:
    await net["laptop"].send_udp("broker", 3653)


def check(run) -> None:
    pass
'''
    )
    done = run(str(file), on="host", out=tmp_path / "run")
    assert done.status == "error"
    assert "UDP port 3653 of broker is in use" in done.message
