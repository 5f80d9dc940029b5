"""Mininet in the virtual kernel, which has netem: what its links really do, in exact time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from lab.engines.choice import VirtualEngine
from lab.run import run

pytestmark = [pytest.mark.virtual, pytest.mark.needs("mininet"), pytest.mark.timeout(400)]

IMPAIRED: Final = '''"""Every impairment, alone or with others.

    a --- b --- lan --- c --- d
"""
from lab import Network


def build(net: Network) -> None:
    a, b, c, d = (net.router(name) for name in "abcd")
    lan = net.switch("lan")
    net.link(a, b, delay_ms=20, jitter_ms=5, loss_pct=10)
    net.link(b, lan, duplicate_pct=10)
    net.link(lan, c, delay_ms=10, reorder_pct=25)
    net.link(c, d, delay_ms=10, rate_mbit=20)


async def scenario(net) -> None:
    await net["a"].ping("d", family=4, count=10)


def check(run) -> None:
    assert run.ping("a", "d").received
'''
ASKED: Final = {
    "a - b": {"delay_ms": 20.0, "jitter_ms": 5.0, "loss_pct": 10.0},
    "b - lan": {"duplicate_pct": 10.0},
    "lan - c": {"delay_ms": 10.0, "reorder_pct": 25.0},
    "c - d": {"delay_ms": 10.0, "rate_mbit": 20.0},
}


class MininetThere(VirtualEngine):
    """The virtual kernel, with a network of Mininet's nodes and links."""

    def run(self, folder: Path, *, wall_timeout_s: float) -> int:
        job = folder / "job.json"
        job.write_text(json.dumps({**json.loads(job.read_text()), "builder": "mininet"}))
        return super().run(folder, wall_timeout_s=wall_timeout_s)


def test_every_impairment_of_a_mininet_link_is_there_when_measured(tmp_path: Path) -> None:
    """`verify` measures all of them before the scenario, and one that is not as asked for is an error."""
    file = tmp_path / "impaired.py"
    file.write_text(IMPAIRED)
    done = run(str(file), on=MininetThere(1), out=tmp_path / "run", seed=1, capture=False)
    assert done.status == "ok", done.message
    rows = done.facts["trials"][0]["impairments"]
    assert len(rows) == 2 * len(ASKED), "both ways of each"
    for row in rows:
        ends = row["direction"].split(" -> ")
        asked = ASKED.get(" - ".join(ends)) or ASKED[" - ".join(reversed(ends))]
        assert row["requested"] == asked
        assert row["achieved"].keys() == asked.keys()
        if "delay_ms" in asked and "jitter_ms" not in asked:
            assert row["achieved"]["delay_ms"] == pytest.approx(asked["delay_ms"], abs=0.2)


def test_a_set_up_takes_six_round_trips_of_mininet_s_delay(tmp_path: Path) -> None:
    done = run("home_nat", on=MininetThere(1), out=tmp_path / "run", parameters={"delay_ms": 20}, seed=1)
    assert done.status == "ok", done.message
    assert done.tunnel("laptop").total_s == pytest.approx(6 * 0.040, abs=0.002)
