"""A day of keepalives through a NAT that forgets: the lesson nat_timeout holds for other numbers than its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.run import Run, run

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(400)]


def day(folder: Path, **parameters: Any) -> Run:
    """A run, and its own check of it."""
    done = run("nat_timeout", on="virtual", seed=1, out=folder, parameters=parameters, capture=False)
    assert done.status == "ok", done.message
    return done


def kept(done: Run) -> dict[str, bool]:
    """Whether the server got through to each laptop every time; False if it never did."""
    found = {}
    for interval in str(done.parameters["intervals"]).split(","):
        knocks = done.pings("server", f"every{interval}")[0]
        assert knocks.received in (0, knocks.sent)
        found[interval] = knocks.received == knocks.sent
    return found


def test_a_day_shows_which_intervals_keep_a_tunnel(tmp_path: Path) -> None:
    done = day(tmp_path / "run")
    assert kept(done) == {"25": True, "60": False, "110": False, "300": False}
    assert done.facts["trials"][0]["scenario_s"] > 24 * 3600
    assert done.counter("nat", "nat_unsolicited") == 3 * 24, "every knock on a closed door"


def test_one_more_word_makes_a_flow_that_is_remembered_longer(tmp_path: Path) -> None:
    done = day(tmp_path / "run", talk=True, hours=2, knocks=4)
    assert kept(done) == {"25": True, "60": True, "110": True, "300": False}


def test_another_port_loses_both_directions_and_the_client_notices(tmp_path: Path) -> None:
    done = day(tmp_path / "run", ports="random", hours=2, knocks=4)
    assert kept(done) == {"25": True, "60": False, "110": False, "300": False}
    assert done.counter("broker", "outer_source") >= 9, "three keepalives of each, from ports nobody knows"
    assert done.counter("broker", "tunnels_idle") == 3
    assert (done.path / "log.jsonl").read_text().count("tunnel dead: 3 keepalives unanswered") == 3


@pytest.mark.parametrize(
    ("timeout_s", "stream_timeout_s", "kept_s", "lost_s"),
    [(60, 180, 55, 100), (120, 300, 110, 200), (300, 600, 280, 600)],
)
def test_other_timeouts_ask_for_other_intervals(
    timeout_s: int, stream_timeout_s: int, kept_s: int, lost_s: int, tmp_path: Path
) -> None:
    done = day(
        tmp_path / "run",
        timeout_s=timeout_s,
        stream_timeout_s=stream_timeout_s,
        intervals=f"{kept_s},{lost_s}",
        hours=4,
        knocks=4,
    )
    assert kept(done) == {str(kept_s): True, str(lost_s): False}
