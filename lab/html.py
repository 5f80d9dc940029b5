"""What a notebook shows of a run or a sweep: a piece of HTML that needs nothing else."""

from __future__ import annotations

import re
import tempfile
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.pictures import with_own_ids

if TYPE_CHECKING:
    from lab.run import Run
    from lab.sweep import Sweep

_MOST_LINES: Final = 40
_COLOURS: Final = {"ok": "#00664b", "check failed": "#8a4b00", "interrupted": "#8a4b00"}


def run_html(run: Run) -> str:
    """The title, the verdict, the drawing as inline SVG, and what happened, a line each."""
    facts = run.facts
    colour = _COLOURS.get(run.status, "#a02020")
    set_ = ", ".join(f"{name}={value}" for name, value in run.parameters.items())
    noisy = " Times are of real time, and noisy." if run.noisy else ""
    trials = f", {len(run.trials)} trials" if len(run.trials) != 1 else ""
    lines = run.summary()[1:-2]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"  ... and {len(lines) - _MOST_LINES} lines more: run.summary()"]
    return "\n".join(
        [
            '<div style="max-width: 100%; overflow-x: auto">',
            f"<p><b>{escape(str(facts['title']))}</b><br>",
            f'<span style="color: white; background: {colour}; border-radius: 3px; padding: 1px 7px">',
            f"{escape(run.status)}</span> {escape(run.message)}</p>",
            drawing(run),
            f'<pre style="font-size: 85%">{escape(chr(10).join(lines))}</pre>',
            f'<p style="font-size: 85%">{escape(str(facts["engine"]))} kernel{trials}, seed {facts["seed"]}'
            + (f", {escape(set_)}" if set_ else "")
            + f".{noisy}<br>Recorded in <code>{escape(str(run.path))}</code></p>",
            "</div>",
        ]
    )


def drawing(run: Run) -> str:
    """The drawing of the run's topology as an <svg> element; nothing for a folder that has no plan."""
    import json

    from lab.draw import draw
    from lab.topology.plan import Plan

    file = run.path / "plan.json"
    if not file.exists():
        return ""
    plan = Plan.from_json(json.loads(file.read_text()))
    with tempfile.TemporaryDirectory(prefix="lab-drawing-") as folder:
        text = draw(plan, Path(folder) / "topology.svg").read_text()
    return inline_svg(text, prefix=f"lab-{run.path.name}")


def inline_svg(text: str, *, prefix: str) -> str:
    """An SVG file's element for a place inside an HTML page: no wider than it, and with ids of its own."""
    text = text[text.index("<svg") :]
    clean = re.sub(r"[^A-Za-z0-9_-]", "-", prefix)
    return with_own_ids(text, clean).replace(
        "<svg", '<svg style="max-width: 100%; height: auto; background: white" role="img"', 1
    )


def sweep_html(sweep: Sweep) -> str:
    """The sentence, the summary of the set-up times where there are any, and what failed."""
    from lab import stats

    parts = [f"<p><b>{escape(str(sweep.facts['title']))}</b><br>{escape(str(sweep))}</p>"]
    if "setup_s" in sweep.table:
        parts.append(stats.summary(sweep).to_html(border=0, float_format=lambda x: f"{x:.4g}"))
    if len(sweep.failures):
        reasons = sweep.failures.drop_duplicates(["cell", "trial"])["reason"].value_counts()
        items = "".join(f"<li>{count} x {escape(str(reason))}</li>" for reason, count in reasons.items())
        parts.append(f"<p>Trials that failed:</p><ul>{items}</ul>")
    if sweep.path is not None:
        parts.append(f'<p style="font-size: 85%">In <code>{escape(str(sweep.path))}</code></p>')
    return "\n".join(parts)
