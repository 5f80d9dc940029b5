"""The cells of a sweep: which there are, and the seed of each.

A cell is one choice of all parameters of a topology.  Its seed is a hash of the sweep's seed and of the cell, and of
nothing else: not of its place in the grid, nor of what else is varied, so any cell can be run again alone.  Cells that
differ only in parameters named as *paired* share one seed, which lets two settings be compared trial by trial under
the same luck.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.errors import UsageError
from lab.topology.catalog import TopologyModule, bind_parameters


@dataclass(frozen=True, slots=True)
class Cell:
    """One choice of parameters."""

    key: str
    """What it is called: a hash of the topology's name and the parameters, 12 hexadecimal digits."""
    parameters: Mapping[str, Any]
    """All of the topology's, defaults included."""
    seed: int
    """Of its run."""


def make_grid(
    topology: TopologyModule,
    vary: Mapping[str, Iterable[Any]],
    fixed: Mapping[str, Any],
    *,
    seed: int,
    paired: Sequence[str] = (),
    only: Mapping[str, Any] | None = None,
) -> list[Cell]:
    """Every combination of the values in `vary`, the last parameter changing fastest.

    `only` keeps the cells with these values.  Raises UsageError for a name or a value that does not fit, for a
    parameter without values, and for one that is both varied and fixed.
    """
    for name in vary.keys() & fixed.keys():
        raise UsageError(f"{name} is varied and set; it can only be one of them")
    for name in paired:
        if name not in vary:
            raise UsageError(f"{name} is to be paired but is not varied")
    values = {name: _values(topology, name, given, fixed, vary) for name, given in vary.items()}
    wanted = {name: _bind(topology, name, value, fixed, vary) for name, value in (only or {}).items()}
    for name, value in wanted.items():
        if name not in values:
            raise UsageError(f"{name} is not varied, so no cell can be chosen by it")
        if value not in values[name]:
            raise UsageError(f"{name}={value} is not in the grid; it has {', '.join(map(str, values[name]))}")
    cells = []
    for choice in itertools.product(*values.values()):
        chosen = dict(zip(values, choice, strict=True))
        if all(chosen[name] == value for name, value in wanted.items()):
            parameters = bind_parameters(topology, {**fixed, **chosen})
            cells.append(
                Cell(
                    cell_key(topology.name, parameters), parameters, cell_seed(seed, topology.name, parameters, paired)
                )
            )
    return cells


def cell_key(topology: str, parameters: Mapping[str, Any]) -> str:
    """What a cell is called."""
    return _digest([topology, dict(parameters)]).hex()[:12]


def cell_seed(seed: int, topology: str, parameters: Mapping[str, Any], paired: Sequence[str] = ()) -> int:
    """The seed of a cell of a sweep with this seed, below 2**32."""
    telling = {name: value for name, value in parameters.items() if name not in paired}
    return int.from_bytes(_digest([seed, topology, telling])[:4], "big")


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()


def _values(
    topology: TopologyModule, name: str, given: Iterable[Any], fixed: Mapping[str, Any], vary: Mapping[str, Any]
) -> list[Any]:
    """The values of one parameter, each once."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        given = [given]
    found = list(dict.fromkeys(_bind(topology, name, value, fixed, vary) for value in given))
    if not found:
        raise UsageError(f"{name} is varied over no value")
    return found


def _bind(topology: TopologyModule, name: str, value: Any, fixed: Mapping[str, Any], vary: Mapping[str, Any]) -> Any:
    """`value` as the topology takes it; the other varied parameters are no matter here."""
    others = {
        other: next(iter(values), None) if not isinstance(values, str) else values
        for other, values in vary.items()
        if other != name and isinstance(values, Sequence)
    }
    return bind_parameters(topology, {**fixed, **others, name: value})[name]
