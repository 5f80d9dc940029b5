"""A run as one HTML file that needs nothing else: no network, no other file, no program but a browser."""

from __future__ import annotations

from lab.report.page import to_html, write

__all__ = ["to_html", "write"]
