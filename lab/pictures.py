"""The files that pictures are drawn into, checked before anything is computed or measured for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lab.errors import UsageError

PAPER: Final = (".png", ".svg", ".pdf")
"""Suffixes of what matplotlib draws for paper."""
SCREEN: Final = (".png", ".svg")


def check_picture(path: Path | str, suffixes: Sequence[str]) -> Path:
    """The path; UsageError when its suffix is none of these, or the folder that it is in does not exist."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot draw {path}: give a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    return path
