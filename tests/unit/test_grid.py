"""The cells of a sweep: all combinations, with seeds that depend on the cell alone."""

from __future__ import annotations

from typing import Any

import pytest

from lab.errors import UsageError
from lab.grid import make_grid
from lab.topology import catalog

TOPOLOGY = catalog.load("setup_time")
VARY: dict[str, list[Any]] = {"delay_ms": [5, 20], "transport": ["udp", "tcp"]}


def test_the_grid_has_every_combination_once() -> None:
    grid = make_grid(TOPOLOGY, {"delay_ms": ["5", 20, 5.0], "transport": ["udp", "tcp"]}, {}, seed=1)
    assert [(cell.parameters["delay_ms"], cell.parameters["transport"]) for cell in grid] == [
        (5, "udp"), (5, "tcp"), (20, "udp"), (20, "tcp"),
    ]  # fmt: skip
    assert len({cell.key for cell in grid}) == 4
    assert set(grid[0].parameters) == set(TOPOLOGY.parameters)


def test_a_seed_depends_on_the_cell_and_not_on_the_grid() -> None:
    whole = make_grid(TOPOLOGY, VARY, {}, seed=1)
    alone = make_grid(TOPOLOGY, {"transport": ["tcp"]}, {"delay_ms": "20"}, seed=1)
    assert whole[3] == alone[0]
    assert len({cell.seed for cell in whole}) == 4
    assert {cell.seed for cell in whole}.isdisjoint(cell.seed for cell in make_grid(TOPOLOGY, VARY, {}, seed=2))


def test_one_cell_can_be_chosen() -> None:
    whole = make_grid(TOPOLOGY, VARY, {}, seed=1)
    assert make_grid(TOPOLOGY, VARY, {}, seed=1, only={"delay_ms": "20", "transport": "TCP"}) == [whole[3]]


def test_paired_cells_share_their_seed_and_others_do_not() -> None:
    seeds = [cell.seed for cell in make_grid(TOPOLOGY, VARY, {}, seed=1, paired=["transport"])]
    assert seeds[0] == seeds[1]
    assert seeds[2] == seeds[3]
    assert seeds[0] != seeds[2]


@pytest.mark.parametrize(
    ("vary", "fixed", "options", "message"),
    [
        ({"delay": [1]}, {}, {}, "no parameter 'delay'; did you mean delay_ms"),
        ({"delay_ms": ["fast"]}, {}, {}, "delay_ms=fast does not fit"),
        ({"delay_ms": []}, {}, {}, "delay_ms is varied over no value"),
        ({"delay_ms": [1]}, {"delay_ms": 2}, {}, "delay_ms is varied and set"),
        ({"delay_ms": [1]}, {}, {"only": {"delay_ms": 2}}, "delay_ms=2.0 is not in the grid; it has 1.0"),
        ({"delay_ms": [1]}, {}, {"only": {"transport": "tcp"}}, "transport is not varied"),
        ({"delay_ms": [1]}, {}, {"paired": ["transport"]}, "transport is to be paired but is not varied"),
    ],
)
def test_what_does_not_fit_is_named(vary: Any, fixed: Any, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_grid(TOPOLOGY, vary, fixed, seed=1, **options)
