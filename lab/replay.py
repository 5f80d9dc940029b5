"""The digest of a run folder, and running it again to compare.

The digest covers what a run in virtual time determines to the last byte: every capture, the log and every trial's
records.  It leaves out what the host adds: the date, how long it took, where the folder is.  run.json says what else
the digest depends on, so that another machine can tell whether it may expect the same one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from lab.engines import bundle
from lab.errors import UsageError
from lab.run import Run, run
from lab.scratch import scratch_folder
from lab.wire import classify, read_pcap

_INSIDE: Final = ("defusedxml",)
"""Packages that are imported inside a kernel and so could change what happens there."""


def digests(folder: Path, trials: list[Any]) -> dict[str, str]:
    """SHA-256 by file name of all that a run determined, "trials" for the records; a run's own digest is "run"."""
    found = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.suffix == ".pcap" or file.name == "log.jsonl"
    }
    found["trials"] = hashlib.sha256(json.dumps(trials, sort_keys=True).encode()).hexdigest()
    whole = hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(found.items())).encode())
    return {"run": whole.hexdigest(), **found}


def depends_on(facts: Mapping[str, Any], topology: Path) -> dict[str, Any]:
    """Everything the digest of a virtual run depends on, for run.json.

    The paths are among it because the guest reads its programs from there, and to walk a longer path costs it more
    readings of its clock.  All but the standard library's are below the cache folder: another user has the same ones
    with the same XDG_CACHE_HOME.
    """
    return {
        "kernel": facts["kernel"]["sha256"],
        "start_time_s": facts["kernel"]["start_time_s"],
        "seed": facts["seed"],
        "parameters": facts["parameters"],
        "topology": hashlib.sha256(topology.read_bytes()).hexdigest(),
        "lab": bundle.source_hash(),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "library_path": sysconfig.get_path("stdlib"),
        "lab_path": str(bundle.compiled()),
        "packages": {name: importlib.metadata.version(name) for name in _INSIDE},
    }


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where two runs part."""

    file: str
    """Of the run folder; "trials" for the records."""
    where: str
    """Which packet or line, and what it is in either run."""

    def __str__(self) -> str:
        return f"{self.file}: {self.where}"


@dataclass(frozen=True, slots=True)
class Replay:
    """A run and its repetition, compared."""

    before: str
    """Digest of the run that was repeated."""
    after: str
    changed: tuple[str, ...]
    """What the digest depends on and is not what it was, in words; a difference is then no surprise."""
    difference: Difference | None
    """None when the runs are equal."""

    @property
    def equal(self) -> bool:
        """Whether the repetition is the same to the last byte."""
        return self.difference is None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "equal": self.equal,
            "before": self.before,
            "after": self.after,
            "changed": list(self.changed),
            "difference": None if self.difference is None else str(self.difference),
        }


def replay(folder: Path | str, *, progress: Callable[[str], None] | None = None) -> Replay:
    """Run what is in `folder` again, in the virtual kernel with the same seed, and compare.

    Raises UsageError for a folder that holds no run of the virtual kernel: a run in real time is never repeated
    exactly.
    """
    first = Run.load(folder)
    facts = first.facts
    kept = facts.get("digest")
    if kept is None:
        why = "kept to real time" if facts["engine"] == "virtual" else f"was made on the {facts['engine']} kernel"
        raise UsageError(f"{first.path} {why}; only a run in virtual time (--on virtual) can be repeated exactly")
    with scratch_folder("replay") as scratch:
        again = run(
            facts["file"],
            on="virtual",
            seed=facts["seed"],
            trials=facts["trials_asked"],
            out=scratch / "run",
            parameters=facts["parameters"],
            start_time_s=facts["kernel"]["start_time_s"],
            timeout_s=facts["timeout_s"],
            capture=facts["capture"],
            verify=facts.get("verify", True),
            keep_going=facts.get("keep_going", False),
            progress=progress,
        )
        repeated = again.facts["digest"]
        return Replay(
            before=kept["files"]["run"],
            after=repeated["files"]["run"],
            changed=tuple(_changes(kept["depends_on"], repeated["depends_on"])),
            difference=first_difference(first, again),
        )


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield f"{name} was {_short(before.get(name))} and is {_short(after.get(name))}"


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def first_difference(one: Run, other: Run) -> Difference | None:
    """Where two runs first differ, None when their folders agree.

    Each run's folder is read anew, so a capture that was changed after the run is found as well.
    """
    names = sorted(digests(one.path, []).keys() | digests(other.path, []).keys())
    earliest: tuple[float, Difference] | None = None
    for name in names:
        if not name.endswith(".pcap"):
            continue
        found = _first_packet(one.path / name, other.path / name)
        if found is not None and (earliest is None or found[0] < earliest[0]):
            earliest = found[0], Difference(name, found[1])
    if earliest is not None:
        return earliest[1]
    if (found_line := _first_line(one.path / "log.jsonl", other.path / "log.jsonl")) is not None:
        return Difference("log.jsonl", found_line)
    for number, (a, b) in enumerate(zip_longest(one.trials, other.trials)):
        for count, (x, y) in enumerate(zip_longest(a.records if a else [], b.records if b else [])):
            if x != y:
                return Difference("trials", f"trial {number}, record {count + 1}: {x} and now {y}")
    if one.facts["trials"] != other.facts["trials"]:
        return Difference("trials", "counters, captures or times differ")
    return None


def _first_packet(one: Path, other: Path) -> tuple[float, str] | None:
    """(time, words) of the first packet in which two captures differ."""
    if not one.exists() or not other.exists():
        return 0.0, f"there is no such capture in the {'first' if not one.exists() else 'second'} run"
    for number, (a, b) in enumerate(zip_longest(read_pcap(one), read_pcap(other)), 1):
        if a != b:
            at = min(packet[0] for packet in (a, b) if packet is not None)
            return at, f"packet {number}: {_words(a)}, and now {_words(b)}"
    return None


def _words(packet: tuple[float, int, bytes] | None) -> str:
    if packet is None:
        return "none"
    at, link, frame = packet
    digest = hashlib.sha256(frame).hexdigest()[:8]
    return f"{len(frame)} bytes of {classify(frame, link)} at {at:.9f} s ({digest})"


def _first_line(one: Path, other: Path) -> str | None:
    lines = zip_longest(one.read_text().splitlines(), other.read_text().splitlines())
    for number, (a, b) in enumerate(lines, 1):
        if a != b:
            return f"line {number}: {a or 'none'}, and now {b or 'none'}"
    return None
