"""Plots of `lab.plots` as parts of a page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.pictures import svg_element, with_own_ids

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as SVG."""

    title: str
    note: str
    svg: str


def to_svg(axes: Axes, prefix: str) -> str:
    """A plot as an <svg> element whose ids begin with `prefix` and are its own; its figure is closed."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    made: Any = axes.figure
    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lab"}):
        made.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(made)
    return with_own_ids(svg_element(text.getvalue()), prefix)
