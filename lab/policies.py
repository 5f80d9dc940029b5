"""The firewall policies for a person: a table of what there is, and what each was measured to stop, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import LabError, UsageError
from lab.generators.mechanisms import MECHANISMS
from lab.results import CrossingRecord
from lab.rules.catalogue import FILTERS
from lab.rules.firewall import firewall_ruleset, parse_policy
from lab.scratch import scratch_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LESSON: Final = "rfc7123_filters"

PASSES, STOPPED, SILENT, DIFFERS = range(4)
_STATES: Final = (
    ("passes", "·", "#f1f3f5", "#8a93a0"),
    ("stopped: drop says nothing, reject tells the sender", "stop", "#0072B2", "white"),
    ("stopped, and the sender is never told", "silent", "#E69F00", "black"),
    ("drop and reject differ", "?", "#000000", "white"),
)
"""What is said of a cell, its text, its colour and the colour of its text: Okabe and Ito's."""


def listed() -> list[dict[str, Any]]:
    """Every filter with its policies, RFC 7123 section and sentences, as plain values."""
    return [
        {
            "filter": name,
            "policies": [f"drop_{name}", f"reject_{name}"],
            "section": filter_.section,
            "stops": filter_.text,
            "note": filter_.note,
        }
        for name, filter_ in FILTERS.items()
    ]


def described(policy: str) -> dict[str, Any]:
    """One policy or combination: what each of its parts does, and the nftables text.  UsageError if there is none."""
    try:
        parts = parse_policy(policy)
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    return {
        "policy": "+".join(part.name for part in parts),
        "parts": [
            {
                "policy": part.name,
                "does": part.text,
                "section": part.section,
                "note": part.filter.note if part.filter is not None else "",
            }
            for part in parts
        ],
        "nftables": firewall_ruleset(policy),
    }


def measure(
    *, on: str = "auto", seed: int | None = None, progress: Callable[[str], None] | None = None
) -> list[CrossingRecord]:
    """Send one packet of every mechanism past every policy (topology rfc7123_filters); what came of it.

    Raises LabError when a policy does not do what it is said to do.
    """
    from lab.run import run

    def say(text: str) -> None:
        if progress is not None:
            progress(text.partition(", recorded in")[0])  # in a folder that is gone when this returns

    with scratch_folder("policies") as folder:
        done = run(LESSON, on=on, seed=seed, out=folder / "run", capture=False, progress=say)
        if done.status != "ok":
            raise LabError(done.message)
        return done.crossings("firewall")


def states(crossings: Sequence[CrossingRecord]) -> dict[str, dict[str, int]]:
    """For each filter and mechanism PASSES, STOPPED, SILENT or DIFFERS, from what was measured of drop and reject."""
    by_policy = {record.policy: record for record in crossings}
    found: dict[str, dict[str, int]] = {}
    for name in FILTERS:
        drop, reject = by_policy.get(f"drop_{name}"), by_policy.get(f"reject_{name}")
        if drop is None or reject is None:
            continue
        tried = [*drop.passed, *drop.dropped, *drop.rejected]
        found[name] = {mechanism: _state(mechanism, drop, reject) for mechanism in MECHANISMS if mechanism in tried}
    return found


def _state(mechanism: str, drop: CrossingRecord, reject: CrossingRecord) -> int:
    if mechanism in drop.passed and mechanism in reject.passed:
        return PASSES
    if mechanism in drop.dropped and mechanism in reject.rejected:
        return STOPPED
    if mechanism in drop.dropped and mechanism in reject.dropped:
        return SILENT
    return DIFFERS


def plot(crossings: Sequence[CrossingRecord], path: Path | None = None) -> Figure:
    """A heat map of filters against mechanisms; written to `path`, PNG, SVG or PDF by its suffix, where one is given.

    Raises UsageError when the file cannot be written.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cells = states(crossings)
    names = list(cells)
    mechanisms = list(next(iter(cells.values())))
    grid = [[cells[name][mechanism] for mechanism in mechanisms] for name in names]
    figure = Figure(figsize=(2.6 + 0.5 * len(mechanisms), 2.9 + 0.32 * len(names)), layout="constrained")
    ax = figure.subplots()
    colours = ListedColormap([state[2] for state in _STATES])
    ax.imshow(grid, cmap=colours, norm=BoundaryNorm([-0.5, 0.5, 1.5, 2.5, 3.5], 4), aspect="auto")
    for row, line in enumerate(grid):
        for column, state in enumerate(line):
            _, text, _, ink = _STATES[state]
            ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    ax.set_xticks(range(len(mechanisms)), [MECHANISMS[name].title for name in mechanisms])
    ax.tick_params(axis="x", rotation=50, labelsize=8.5, top=True, labeltop=True, bottom=False, labelbottom=False)
    for label in ax.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), [_label(name) for name in names], fontsize=8.5)
    ax.set_xticks([place - 0.5 for place in range(1, len(mechanisms))], minor=True)
    ax.set_yticks([place - 0.5 for place in range(1, len(names))], minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    transition = sum(MECHANISMS[name].transition for name in mechanisms)
    ax.axvline(transition - 0.5, color="#1f2937", linewidth=1.2)
    ax.set_ylabel("firewall filter (RFC 7123 section)")
    ax.set_xlabel("IPv6 and its carriers, left of the line; traffic that has nothing to do with it, right")
    shown = sorted({state for line in grid for state in line})
    figure.legend(
        handles=[Patch(facecolor=_STATES[s][2], edgecolor="#8a93a0", label=_STATES[s][0]) for s in shown],
        loc="outside lower center",
        ncols=len(shown),
        frameon=False,
        fontsize=8.5,
    )
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except (OSError, ValueError) as exc:
            raise UsageError(f"cannot write {path}: {exc}") from exc
    return figure


def _label(name: str) -> str:
    section = FILTERS[name].section
    return f"{name}  ({section})" if section else name
