"""A ladder to look at: it shows itself in a notebook and goes into files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import UsageError
from lab.ladder import figure, svg
from lab.ladder.model import Ladder, ladder
from lab.pictures import PAPER, check_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lab.run import Run


@dataclass(frozen=True, slots=True)
class Picture:
    """The ladder of one set-up."""

    ladder: Ladder

    @classmethod
    def of(cls, run: Run, node: str | None = None, attempt: int | None = None) -> Picture:
        """The picture of a set-up (`lab.run.Run.ladder`).  Raises UsageError when there is nothing to show."""
        return cls(ladder(run, node, attempt))

    def svg(self) -> str:
        """An SVG text in which every packet tells about itself when pointed at."""
        return svg.to_svg(self.ladder)

    def figure(self) -> Figure:
        """A matplotlib figure."""
        return figure.figure(self.ladder)

    def save(self, path: str | Path) -> Path:
        """Draw it into a file: .svg (to be pointed at), .png or .pdf; the path.  Raises UsageError."""
        path = check_picture(path, PAPER)
        if path.suffix.lower() != ".svg":
            return figure.draw(self.ladder, path)
        try:
            path.write_text(self.svg())
        except OSError as exc:
            raise UsageError(f"cannot write {path}: {exc.strerror}") from exc
        return path

    def _repr_svg_(self) -> str:
        return self.svg()
