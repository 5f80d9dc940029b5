"""Files that pictures are drawn into, checked before anything is computed for one, and SVG files as parts of pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lab.errors import UsageError

PAPER: Final = (".png", ".svg", ".pdf")
"""Suffixes of what matplotlib draws for paper."""
SCREEN: Final = (".png", ".svg")

_METADATA: Final = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def check_picture(path: Path | str, suffixes: Sequence[str]) -> Path:
    """The path; UsageError when its suffix is none of these, or the folder that it is in does not exist."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot draw {path}: give a name that ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    return path


def svg_element(text: str) -> str:
    """The <svg> element of an SVG file, without its metadata."""
    return _METADATA.sub("", text[text.index("<svg") :])


def with_own_ids(svg: str, prefix: str) -> str:
    """An SVG whose ids begin with `prefix`, so that several fit into one page."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
