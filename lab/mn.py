"""For Mininet's own program:  sudo mn --custom lab/mn.py --topo tsp,home_nat --test tsp

Every topology of the lab is a Topo (`--topo tsp,NAME,delay_ms=0`, or `--topo NAME`), `--test tsp` runs its scenario
and check, and the command line has the commands of `lab.mncli`.  Without Open vSwitch, switches are Linux bridges.

`mn` executes this file and takes every name it defines: topos, tests and switches are added to its own, and CLI,
Mininet and cleanup take the place of its own.
"""


def _make_importable() -> None:
    """Let the Python that runs `mn` find the lab and the packages of the lab's environment."""
    import importlib.util
    import subprocess
    import sys
    from pathlib import Path

    checkout = Path(sys._getframe().f_code.co_filename).resolve().parent.parent
    sys.path.insert(0, str(checkout))
    if all(importlib.util.find_spec(name) for name in ("networkx", "defusedxml", "pyroute2")):
        return
    script = 'source "$1/scripts/environment.sh" && use_environment run && echo "$venv"'
    asked = subprocess.run(
        ["bash", "-c", script, "mn", str(checkout)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    folder = Path(asked.stdout.strip(), "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    if asked.returncode != 0 or not folder.is_dir():
        sys.exit(
            f"mn runs with Python {sys.version_info[0]}.{sys.version_info[1]}, for which the lab has no environment; "
            f"use {checkout}/scripts/lab mn, or set LAB_PYTHON to {sys.executable}"
        )
    sys.path.append(str(folder))


_make_importable()

from lab.mncli import LabCLI as CLI, LabNet as Mininet, cleanup, tsp  # noqa: E402, F401, I001, N814
from lab.mininet import DefaultSwitch as _default, LinuxBridge as _bridge, TspTopo as _topo  # noqa: E402, N813


def _topos() -> dict:  # type: ignore[type-arg]
    from functools import partial, update_wrapper

    from lab.topology import catalog

    names = [info.name for info in catalog.list_topologies()]
    return {"tsp": _topo, **{name: update_wrapper(partial(_topo, name), _topo, updated=()) for name in names}}


topos = _topos()
tests = {"tsp": tsp}
switches = {"default": _default, "ovsbr": _default, "lxbr": _bridge}  # mn says ovsbr itself without a controller
