"""`lab detect` tells people in tables and machines in JSON, and refuses what it cannot read with status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import cli
from tests.captures import generated, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write(tmp_path / "a.pcap", [generated("6rd"), generated("tsp_control_udp", port=443), generated("dns")])


def test_tables_are_printed(capture: Path, capsys: Capture) -> None:
    assert cli.main(["detect", str(capture)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("3 packets in 0.002 s")
    lines = [line.split() for line in out.splitlines() if line[:1].isdigit()]
    assert lines[1][1:4] == ["6rd", "1", "72"]
    assert lines[2][1:5] == ["TSP", "control", "(udp)", "1"]
    assert lines[3][:4] == ["1", "likely", "section", "3.3:"]
    assert lines[4][:4] == ["2", "likely", "section", "3.7:"]
    assert "does not stop these: they use UDP port 443" in out


def test_json_has_all_of_it(capture: Path, capsys: Capture) -> None:
    assert cli.main(["detect", "--json", "--6rd-prefix", "3fff:6d::/32", str(capture)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["packets"], report["notes"]) == (3, [])
    sixrd, tsp = report["findings"]
    assert (sixrd["mechanism"], sixrd["confidence"], sixrd["outer"]) == (
        "6rd",
        "certain",
        ["192.0.2.1", "198.51.100.2"],
    )
    assert sixrd["filter"] == {
        "rfc": 7123, "section": "3.3", "rule": "IP protocol 41", "nft": "ip protocol 41", "stops": True, "instead": "",
    }  # fmt: skip
    assert (tsp["mechanism"], tsp["filter"]["stops"]) == ("TSP control", False)


def test_a_capture_without_any_says_so(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["detect", str(write(tmp_path / "a.pcap", [generated("dns")]))]) == 0
    assert (
        capsys.readouterr().out == "1 packets in 0.000 s, from 1970-01-01 00:16:40.000 UTC: no transition mechanism\n"
    )


@pytest.mark.parametrize(
    ("argument", "says"), [("nowhere.pcap", "cannot read nowhere.pcap"), (__file__, "is no pcap or pcapng file")]
)
def test_what_is_no_capture_is_a_mistake_in_usage(argument: str, says: str, capsys: Capture) -> None:
    assert cli.main(["detect", argument]) == 2
    assert says in capsys.readouterr().err


def test_a_bad_6rd_prefix_is_a_mistake_in_usage(capture: Path, capsys: Capture) -> None:
    assert cli.main(["detect", str(capture), "--6rd-prefix", "2001:db8::/64"]) == 2
    assert "do not fit between it and bit 64" in capsys.readouterr().err
