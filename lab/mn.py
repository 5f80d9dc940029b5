"""For Mininet's own program:  sudo mn --custom lab/mn.py --topo tsp,home_nat --test tsp

Every topology of the lab is a Topo (`--topo tsp,NAME,delay_ms=0`, or `--topo NAME`), `--test tsp` runs its scenario
and check, and the command line has the commands of `lab.mncli`.  Switches are bridges of Open vSwitch where its daemons
can make some, else Linux bridges.

`mn` executes this file and takes every name it defines: topos, tests and switches are added to its own, and CLI,
Mininet and cleanup take the place of its own.
"""


def _make_importable() -> None:
    """Let the Python that runs `mn` find the lab and, by importing lab.mininet, its packages."""
    import sys
    from importlib import import_module
    from pathlib import Path

    sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent.parent))
    try:
        import_module("lab.mininet")
    except import_module("lab.errors").LabError as exc:
        sys.exit(f"lab: {exc}")  # any other end would be mn's own clean-up, which is everybody's


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
