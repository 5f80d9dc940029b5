"""Mininet as it is installed here: found, and imported without what it does to a program beside being imported.

The Python side may be PyPI's package in this environment or Debian's, which belongs to the system's own Python; the
program mnexec, which starts a node, comes with Debian's only.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Final

from lab.errors import MissingFeature

_DEBIAN: Final = "/usr/lib/python3/dist-packages"
HOW_TO_INSTALL: Final = "install it: apt-get install --no-install-recommends mininet"


def lacking() -> str | None:
    """What Mininet lacks here, or None when it can be used."""
    if shutil.which("mnexec") is None:
        return "the program mnexec"
    if importlib.util.find_spec("mininet") is None and not Path(_DEBIAN, "mininet", "node.py").exists():
        return "the Python package mininet"
    if importlib.util.find_spec("distutils") is None:
        return "distutils, which Mininet imports and Python 3.12 has no more"
    return None


def require() -> None:
    """Raise MissingFeature, with the way out, where Mininet cannot be used."""
    if (what := lacking()) is not None:
        way = "install the Python package setuptools" if what.startswith("distutils") else HOW_TO_INSTALL
        raise MissingFeature(what, instead=way)


def load() -> None:
    """Make `import mininet.node` work in this process.  Raises MissingFeature."""
    if "mininet.node" in sys.modules:
        return
    require()
    if importlib.util.find_spec("mininet") is None:
        # Only this one package: another Python's folder holds much that this one must not import.
        sys.path.append(_DEBIAN)
        try:
            importlib.import_module("mininet")
        finally:
            sys.path.remove(_DEBIAN)
    # Mininet's log would have every logger made from now on print to the terminal, each on its own.
    kind = logging.getLoggerClass()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of distutils
            importlib.import_module("mininet.node")
    finally:
        logging.setLoggerClass(kind)


def version() -> str:
    """Mininet's own version number."""
    load()
    return str(importlib.import_module("mininet.net").VERSION)
