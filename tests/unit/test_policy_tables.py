"""The policies as a table, as text and as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import policies
from lab.cli import main
from lab.errors import LabError, UsageError
from lab.pictures import PAPER, check_picture
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


def test_that_a_picture_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[bool] = []

    def measure(**_: object) -> list[CrossingRecord]:
        measured.append(True)
        return MEASURED

    monkeypatch.setattr(policies, "measure", measure)
    for wrong, words in (("nowhere/policies.png", "there is no folder"), ("policies.docx", "ends in .png, .svg")):
        assert main(["policies", "--plot", str(tmp_path / wrong)]) == 2
        assert words in capsys.readouterr().err
    assert measured == []
    assert main(["policies", "--plot", str(tmp_path / "policies.svg")]) == 0
    assert measured == [True]
    check_picture(tmp_path / "policies.PDF", PAPER)


def test_a_folder_that_will_be_gone_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def run(*_: object, progress: Callable[[str], None], **__: object) -> object:
        progress("rfc7123_filters: 3 nodes on the host kernel, recorded in /tmp/x/run")
        raise LabError("that will do")

    monkeypatch.setattr(importlib.import_module("lab.run"), "run", run)
    with pytest.raises(LabError, match="that will do"):
        policies.measure(progress=said.append)
    assert said == ["rfc7123_filters: 3 nodes on the host kernel"]
