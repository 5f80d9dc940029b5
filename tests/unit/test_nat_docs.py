"""docs/nat.md says of every requirement of RFC 4787 what shows it: options, tests and topologies that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from lab.rules.nat_behaviour import Filtering, Hairpinning, Mapping, NatBehaviour, Pooling, Ports
from lab.topology.catalog import list_topologies

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "nat.md").read_text()
ROWS: Final = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if "| REQ-" in line]
CODE: Final = "".join(path.read_text() for path in ROOT.glob("tests/kernel/test_nat*.py"))
TESTS: Final = set(re.findall(r"def (test_\w+)", CODE))


def test_every_requirement_has_a_row() -> None:
    numbers = [int(number) for row in ROWS for number in re.findall(r"REQ-(\d+)$", row[0])]
    assert numbers == [*range(1, 15)]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_shown_by_an_option_that_is_found_or_by_a_test_that_exists(row: list[str]) -> None:
    _, _, behaviour, shown = row
    shown_by = re.findall(r"`(test_\w+)`", shown)
    assert set(shown_by) <= TESTS
    if not shown_by:
        assert shown.startswith("found")
        assert set(re.findall(r"`(\w+)`", behaviour)) & set(NatBehaviour().to_json())


def test_every_option_and_every_choice_is_named() -> None:
    words = set(re.findall(r"\w+", TEXT))
    assert set(NatBehaviour().to_json()) - {"block_size"} <= words
    for choices in (Mapping, Filtering, Hairpinning, Ports, Pooling):
        assert {choice.value for choice in choices} <= words


def test_the_tests_and_the_topologies_that_it_names_exist() -> None:
    assert set(re.findall(r"`(test_\w+)`", TEXT)) <= TESTS
    lessons = TEXT.rpartition("Where a lesson is made of it:")[2]
    assert set(re.findall(r"`(\w+)`", lessons)) <= {topology.name for topology in list_topologies()}
