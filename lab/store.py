"""The table of a sweep on disk: one Parquet file at the end, one small file a cell until then.

    FILE          the whole table, in the order of the grid; pandas.read_parquet(FILE) reads it
    FILE.parts/   while the sweep is not complete: sweep.json, and KEY.parquet for every cell that is

A file appears whole or not at all.  A process that is killed loses the cells it was at and no other.  The sweep's facts
(topology, seed, what was varied ...) are in sweep.json and in the metadata of FILE.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_METADATA: Final = b"lab_sweep"
_FACTS: Final = "sweep.json"
_SCRATCH: Final = "work"


class Store:
    """The table of a sweep, being filled.  Only one process at a time can hold it open."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError when it cannot be written, or another process is at it."""
        self.path = path
        self.parts = path.with_name(path.name + ".parts")
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file that holds the table")
        self._lock = self._claim()
        self._whole: pa.Table | None = None
        try:
            if path.exists():
                self._whole = _read(path)
        except UsageError:
            self.close()
            raise

    def _claim(self) -> int:
        """The lock of the parts folder, ours; made anew when whoever had it took it away in this moment."""
        file = self.parts / "lock"
        while True:
            try:
                self.parts.mkdir(parents=True, exist_ok=True)
                lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                if self.parts.parent.is_dir():  # the folder went between the two calls
                    continue
                raise UsageError(f"cannot write {self.parts}: {self.parts.parent} is gone") from None
            except OSError as exc:
                raise UsageError(f"cannot write {self.parts}: {exc.strerror}") from exc
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), file.stat()):
                    return lock
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(lock)
                raise UsageError(f"another process is filling {self.path}") from None
            os.close(lock)

    def scratch(self) -> Path:
        """An empty folder for run folders; it goes with the store, and after a kill with the next one."""
        folder = self.parts / _SCRATCH
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    @property
    def facts(self) -> dict[str, Any] | None:
        """What the file's sweep is about; None for a new file.  UsageError when the file is something else."""
        return load_facts(self.path)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Keep what the sweep is about."""
        _write(self.parts / _FACTS, json.dumps(facts, indent=1).encode())

    def cells(self) -> set[str]:
        """The keys of the cells that are complete."""
        found = {file.stem for file in self.parts.glob("*.parquet")}
        if self._whole is not None:
            found |= set(self._whole.column("cell").to_pylist())
        return found

    def add(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of a cell: when the call returns they are on the disk."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
        _write(self.parts / f"{key}.parquet", sink.getvalue())

    def forget(self, keys: Iterable[str]) -> None:
        """Let these cells count as not done."""
        import pyarrow.compute as pc

        gone = set(keys)
        for key in gone:
            (self.parts / f"{key}.parquet").unlink(missing_ok=True)
        if self._whole is not None:
            kept = pc.invert(pc.is_in(self._whole.column("cell"), _array(sorted(gone))))
            self._whole = self._whole.filter(kept)

    def table(self, order: Sequence[str]) -> pa.Table:
        """All rows so far, the cells in this order; those of cells not named in it are left out."""
        return _ordered([*_read_parts(self.parts), *([self._whole] if self._whole is not None else [])], order)

    def finish(self, facts: Mapping[str, Any], order: Sequence[str]) -> None:
        """Write the whole file and remove the parts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self.table(order)
        table = table.replace_schema_metadata({_METADATA: json.dumps(facts)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        _write(self.path, sink.getvalue())
        for file in self.parts.iterdir():  # the lock goes last, when it is given up
            if file.is_file() and file.name != "lock":
                file.unlink()
        self._whole = table

    def close(self) -> None:
        """Let others have it.  A parts folder in which nothing is goes away."""
        if self._lock >= 0:
            shutil.rmtree(self.parts / _SCRATCH, ignore_errors=True)
            if self.parts.exists() and {file.name for file in self.parts.iterdir()} <= {"lock"}:
                shutil.rmtree(self.parts, ignore_errors=True)  # another process may be putting its lock there
            os.close(self._lock)
            self._lock = -1


def load(path: Path) -> tuple[dict[str, Any], pa.Table]:
    """(facts, rows so far) of the sweep at `path`, complete or not; UsageError when there is none."""
    while True:
        facts = load_facts(path)
        if facts is None:
            raise UsageError(f"there is no sweep at {path}")
        try:
            tables = _read_parts(path.with_name(path.name + ".parts"))
        except FileNotFoundError:  # the sweep was completed in this moment
            continue
        tables += [_read(path)] if path.exists() else []
        return facts, _ordered(tables, facts["cells"])


def load_facts(path: Path) -> dict[str, Any] | None:
    """What the sweep at `path` is about; None when there is none.  UsageError when a file there is no sweep's."""
    unfinished = path.with_name(path.name + ".parts") / _FACTS
    with suppress(FileNotFoundError):
        facts: dict[str, Any] = json.loads(unfinished.read_text())
        return facts
    if not path.exists():
        return None
    metadata = _read(path).schema.metadata or {}
    if _METADATA not in metadata:
        raise UsageError(f"{path} holds something else than a sweep; name another file")
    found: dict[str, Any] = json.loads(metadata[_METADATA])
    return found


def _read(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowInvalid) as exc:
        raise UsageError(f"{path} is no Parquet file that can be read: {exc}") from exc


def _read_parts(folder: Path) -> list[pa.Table]:
    return [_read(file) for file in sorted(folder.glob("*.parquet"))]


def _ordered(tables: Sequence[pa.Table], order: Sequence[str]) -> pa.Table:
    """The rows of each cell, from the first table that has it, in the order given; columns in order of first use."""
    import pyarrow as pa
    import pyarrow.compute as pc

    by_cell: dict[str, pa.Table] = {}
    for table in tables:
        for key in dict.fromkeys(table.column("cell").to_pylist()):
            if key not in by_cell:
                by_cell[key] = table.filter(pc.equal(table.column("cell"), key))
    chosen = [by_cell[key] for key in order if key in by_cell]
    if not chosen:
        return pa.table({"cell": pa.array([], pa.string())})
    # A column is empty in one cell and numbers in another: the wider type holds both.
    return pa.concat_tables(chosen, promote_options="permissive").replace_schema_metadata(None).combine_chunks()


def _array(values: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _write(path: Path, content: Any) -> None:
    """Write a whole file or none, to the disk.  UsageError when it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
