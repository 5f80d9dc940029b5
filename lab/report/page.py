"""The report of a run as one HTML file, from the template beside this module.

What the lab drew itself is `safe` in the template; everything else is text there, whoever wrote it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

from lab.errors import LabError, UsageError
from lab.ladder import svg
from lab.pictures import svg_element
from lab.report.content import collect
from lab.run import Run
from lab.topology.plan import Plan

TEMPLATE: Final = "report.html.j2"


def write(run: Run, out: Path | str | None = None) -> Path:
    """Write the report of a run to `out` (report.html in its folder); the path.  Raises UsageError."""
    path = run.path / "report.html" if out is None else Path(out)
    text = to_html(run)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
    return path


def to_html(run: Run) -> str:
    """The report of a run, as text."""
    return render(TEMPLATE, content=collect(run, _drawing(run)), ladder_style=svg.STYLE)


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _drawing(run: Run) -> str:
    """The topology as an SVG element; nothing when the run folder has no plan or it is too large to be drawn."""
    from lab.draw import draw

    try:
        plan = Plan.from_json(json.loads((run.path / "plan.json").read_text()))
        with tempfile.TemporaryDirectory(prefix="lab-report-") as folder:
            text = draw(plan, Path(folder) / "topology.svg").read_text()
    except (OSError, ValueError, KeyError, TypeError, LabError):
        return ""
    return svg_element(text)
