"""A topology names the programs it runs; a missing one is told with its Debian package before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import MissingFeature, UsageError
from lab.kernel.programs import PACKAGES, missing_program, require_programs
from lab.results import CommandRecord
from lab.run import run
from lab.summary import describe
from lab.topology import catalog

FILE = '''"""A lesson.

    laptop --- server
"""
from lab import Network

PROGRAMS = {programs}


def build(net: Network) -> None:
    net.link(net.host("laptop"), net.host("server"))


async def scenario(net) -> None:
    pass


def check(run) -> None:
    pass
'''


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with one program on it: nmap."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nmap").write_text("#!/bin/sh\n")
    (folder / "nmap").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_program_on_the_path_is_not_missing(empty_path: Path) -> None:
    assert missing_program("nmap") is None
    require_programs(["nmap"])


def test_a_missing_program_is_named_with_its_package(empty_path: Path) -> None:
    with pytest.raises(
        MissingFeature, match=r"lacks the program ss; install Debian's package iproute2: sudo apt-get"
    ) as e:
        require_programs(["nmap", "ss", "lsof"])
    assert e.value.feature == "the program ss"
    assert "bin/gogoc" in (missing_program("gogoc") or "")


def test_every_topology_runs_only_programs_whose_package_is_known() -> None:
    named = {name for info in catalog.list_topologies() for name in catalog.load(info.name).programs}
    assert "nmap" in named
    assert named <= set(PACKAGES)


def test_a_run_stops_before_its_folder_is_made(empty_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(programs='("lsof",)'))
    with pytest.raises(MissingFeature, match="Debian's package lsof"):
        run(str(file), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("programs", ['"nmap"', "(1,)", "3", '("",)'])
def test_programs_that_are_no_names_are_a_mistake_of_the_file(programs: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(programs=programs))
    with pytest.raises(UsageError, match=r"mine\.py: PROGRAMS is a tuple of names"):
        catalog.load(str(file))


def test_the_summary_shows_what_a_program_printed() -> None:
    record = CommandRecord(
        node="laptop", at_s=0, argv=("nmap", "-n"), returncode=0, stdout="a\n\nb\n", stderr="warning"
    )
    head, *output = describe(record)
    assert head.endswith("nmap -n: status 0")
    assert [line.strip() for line in output] == ["| a", "| b"]
    long = CommandRecord(node="laptop", at_s=0, argv=("x",), returncode=0, stdout="a\n" * 30, stderr="")
    assert describe(long)[-1].endswith("| ... 20 more lines, in run.json")
    failed = CommandRecord(node="laptop", at_s=0, argv=("x",), returncode=1, stdout="", stderr="no\n")
    assert describe(failed)[-1].endswith("| no")
