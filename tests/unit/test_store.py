"""A sweep's table on disk: whole cells or none, in the order of the grid, whatever happened in between."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lab import store
from lab.errors import UsageError
from lab.store import Store, load

FACTS = {"topology": "home_nat", "cells": {"a": {}, "b": {}, "c": {}}}


def rows(key: str, value: Any) -> list[dict[str, Any]]:
    return [{"cell": key, "trial": trial, "status": "ok", "value": value, "code": None} for trial in range(2)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.parquet"


def filled(path: Path, *keys: str) -> Store:
    store = Store(path)
    store.begin(FACTS)
    for key in keys:
        store.add(key, rows(key, 1.5))
    return store


def test_a_finished_table_is_one_file_in_the_order_of_the_grid(path: Path) -> None:
    store = filled(path, "c", "a", "b")
    store.finish(FACTS, ["a", "b", "c"])
    store.close()
    table = pd.read_parquet(path)
    assert list(table["cell"]) == ["a", "a", "b", "b", "c", "c"]
    assert [file.name for file in path.parent.iterdir()] == ["table.parquet"]
    assert load(path)[0] == FACTS


def test_the_order_in_which_cells_end_makes_no_difference(tmp_path: Path) -> None:
    for name, order in (("one", "abc"), ("two", "cba")):
        store = filled(tmp_path / name, *order)
        store.finish(FACTS, ["a", "b", "c"])
        store.close()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_unfinished_table_can_be_read_and_gone_on_with(path: Path) -> None:
    filled(path, "b").close()
    facts, table = load(path)
    assert (facts["topology"], table.column("cell").to_pylist()) == ("home_nat", ["b", "b"])
    store = Store(path)
    assert store.facts == FACTS
    assert store.cells() == {"b"}
    store.close()


def test_a_half_written_cell_does_not_count(path: Path) -> None:
    store = filled(path, "a")
    (store.parts / ".b.parquet.1234").write_bytes(b"PAR1 and then the power failed")
    store.close()
    assert Store(path).cells() == {"a"}


def test_a_kill_between_the_whole_file_and_the_removal_of_its_parts_repeats_nothing(path: Path) -> None:
    store = filled(path, "a", "b")
    parts = {file.name: file.read_bytes() for file in store.parts.iterdir()}
    store.finish(FACTS, ["a", "b"])
    store.close()
    store.parts.mkdir()
    for name, content in parts.items():
        (store.parts / name).write_bytes(content)
    assert load(path)[1].column("cell").to_pylist() == ["a", "a", "b", "b"]


def test_a_column_may_be_empty_in_one_cell_and_numbers_in_another(path: Path) -> None:
    store = filled(path, "a")
    store.add("b", rows("b", None))
    store.add("c", rows("c", 3))
    table = store.table(["a", "b", "c"]).to_pandas()
    assert list(table["value"].fillna(-1)) == [1.5, 1.5, -1, -1, 3, 3]
    store.close()


def test_cells_that_are_to_be_run_again_do_not_count(path: Path) -> None:
    store = filled(path, "a", "b")
    store.finish(FACTS, ["a", "b"])
    store.close()
    again = Store(path)
    again.begin(FACTS)
    again.forget(["a"])
    assert again.cells() == {"b"}
    again.add("a", rows("a", 7.0))
    assert again.table(["a", "b"]).column("value").to_pylist() == [7.0, 7.0, 1.5, 1.5]
    again.close()


def test_one_process_at_a_time_fills_a_table(path: Path) -> None:
    store = filled(path)
    with pytest.raises(UsageError, match="another process is filling"):
        Store(path)
    store.close()
    Store(path).close()


def test_a_file_that_is_something_else_is_left_alone(path: Path) -> None:
    path.write_text("a letter\n")
    with pytest.raises(UsageError, match="no Parquet file"):
        Store(path)
    pd.DataFrame({"cell": ["x"]}).to_parquet(path)
    store = Store(path)
    with pytest.raises(UsageError, match="something else than a sweep"):
        _ = store.facts
    store.close()


def test_a_table_whose_parts_went_while_it_was_being_opened_is_held_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = filled(path, "a", "b", "c")
    first.finish(FACTS, ["a", "b", "c"])
    lock = fcntl.flock

    def lock_late(fd: int, how: int) -> None:
        first.close()  # takes away the file of which `fd` is
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    second = Store(path)
    monkeypatch.undo()
    second.begin(FACTS)
    with pytest.raises(UsageError, match="another process is filling"):
        Store(path)
    second.close()


def test_the_parts_of_a_finished_table_stay_with_who_finished_it(path: Path) -> None:
    first = filled(path, "a", "b", "c")
    first.finish(FACTS, ["a", "b", "c"])
    with pytest.raises(UsageError, match="another process is filling"):
        Store(path)
    first.close()
    second = filled(path)
    assert second.cells() == {"a", "b", "c"}
    second.close()


def test_a_table_that_is_completed_while_it_is_being_read_is_read_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = filled(path, "a", "b", "c")
    read = store._read_parts

    def complete_and_read(folder: Path) -> Any:
        parts = sorted(folder.glob("*.parquet"))
        if parts:
            writing.finish(FACTS, ["a", "b", "c"])
            store._read(parts[0])
        return read(folder)

    monkeypatch.setattr(store, "_read_parts", complete_and_read)
    monkeypatch.setattr(writing, "table", lambda order: store._ordered(read(writing.parts), order))
    assert load(path)[1].column("cell").to_pylist() == ["a", "a", "b", "b", "c", "c"]
    writing.close()
