"""Trials as they go, a line of JSON for each thing, so that a run that is cut short keeps what it had found.

The agent writes; `lab.run` reads when the agent has ended, however it ended.  A line holds a record of a trial, or
facts about it, which are merged, later ones over earlier ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FILE: Final = "journal.jsonl"


class Journal:
    """The journal of a run folder, being written; each line reaches the file before the call returns."""

    def __init__(self, folder: Path) -> None:
        """Begin a new journal.  Raises OSError, as the other methods do."""
        self._file = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def record(self, trial: int, record: Mapping[str, Any]) -> None:
        """Keep a record (`lab.results`, as JSON) of trial number `trial`, counted from 0."""
        self._write({"trial": trial, "record": record})

    def facts(self, trial: int, facts: Mapping[str, Any]) -> None:
        """Keep facts about a trial: its status, impairments, captures, counters ..."""
        self._write({"trial": trial, "facts": facts})

    def _write(self, line: Mapping[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file.  A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read(folder: Path) -> list[dict[str, Any]]:
    """The trials of a journal, as run.json keeps them; one that did not end has the status "interrupted".

    Empty without a journal.  A last line that was cut off is left out.
    """
    trials: list[dict[str, Any]] = []
    try:
        lines = (folder / FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return trials
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        while len(trials) <= said["trial"]:
            trials.append({"status": "interrupted", "impairments": [], "captures": [], "records": [], "counters": {}})
        trial = trials[said["trial"]]
        if "record" in said:
            trial["records"].append(said["record"])
        trial.update(said.get("facts", {}))
    return trials
