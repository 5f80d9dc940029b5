"""Runs Mininet's `mn`, or a script of one's own, with this Python: python -m lab.mininet PROGRAM [ARGUMENT...]

For `lab mn`, which starts it in namespaces of its own.  Exit status 1 for an error of the lab, told in a sentence.
"""

from __future__ import annotations

import importlib
import runpy
import sys

from lab.errors import LabError
from lab.kernel import open_vswitch


def main(arguments: list[str]) -> None:
    """Run it as if it had been started by itself."""
    # The limits that Mininet raises as root are the machine's, and this network is nobody else's.
    importlib.import_module("mininet.net").Mininet.inited = True
    open_vswitch.leave_others_alone()
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except LabError as exc:
        sys.exit(f"lab: {exc}")


if __name__ == "__main__":
    main(sys.argv[1:])
