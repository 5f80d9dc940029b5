"""The policies as a table, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import UsageError
from lab.policies import DIFFERS, PASSES, SILENT, STOPPED, described, listed, plot, states
from lab.results import CrossingRecord
from lab.rules.catalogue import FILTERS


def crossing(policy: str, *, dropped: tuple[str, ...] = (), rejected: tuple[str, ...] = ()) -> CrossingRecord:
    names = ("6in4", "6over4", "teredo", "dns")
    passed = tuple(name for name in names if name not in (*dropped, *rejected))
    return CrossingRecord("firewall", 0.0, policy, passed, dropped, rejected, counted=len(dropped) + len(rejected))


MEASURED = [
    crossing("allow"),
    crossing("drop_proto41", dropped=("6in4", "6over4")),
    crossing("reject_proto41", dropped=("6over4",), rejected=("6in4",)),
    crossing("drop_teredo", dropped=("teredo",)),
    crossing("reject_teredo"),
    crossing("drop_udp", dropped=("teredo", "dns")),
]


def test_every_filter_is_listed_with_its_two_policies() -> None:
    rows = listed()
    assert [row["filter"] for row in rows] == list(FILTERS)
    assert rows[0]["policies"] == ["drop_native_ipv6", "reject_native_ipv6"]
    assert all(row["stops"] and row["note"] for row in rows)


def test_a_combination_is_described_part_by_part_with_its_nftables_text() -> None:
    told = described("drop_all+reject_teredo")
    assert told["policy"] == "reject_teredo+drop_all"
    assert [part["policy"] for part in told["parts"]] == ["reject_teredo", "drop_all"]
    assert told["nftables"].startswith("flush ruleset\n")
    with pytest.raises(UsageError, match="did you mean drop_teredo"):
        described("drop_terredo")


def test_what_drop_and_reject_did_becomes_one_state() -> None:
    found = states(MEASURED)
    assert list(found) == ["proto41", "teredo"]  # of udp only one half was measured
    assert found["proto41"] == {"6in4": STOPPED, "6over4": SILENT, "teredo": PASSES, "dns": PASSES}
    assert found["teredo"]["teredo"] == DIFFERS


def test_every_cell_of_the_picture_has_its_text(tmp_path: Path) -> None:
    figure = plot(MEASURED, tmp_path / "policies.png")
    assert (tmp_path / "policies.png").read_bytes().startswith(b"\x89PNG")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["stop", "silent", "·", "·", "·", "·", "?", "·"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["proto41  (3)", "teredo  (3.6)"]


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        plot(MEASURED, tmp_path / "nowhere" / "policies.png")
    with pytest.raises(UsageError, match="cannot write"):
        plot(MEASURED, tmp_path / "policies.docx")
