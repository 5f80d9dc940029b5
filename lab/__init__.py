"""A network simulation lab for IPv6 transition and the Tunnel Setup Protocol (RFC 5572).

Names are loaded on first use, so that `import lab` costs nothing and an agent inside a kernel imports only
what it runs.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lab.rules.firewall import PolicyName
    from lab.run import Run, run
    from lab.scenario import Lab, LabNode
    from lab.sweep import Sweep, sweep
    from lab.topology.network import Network

__version__: Final = "0.1.0"

_WHERE: Final = {
    "Lab": "lab.scenario",
    "LabNode": "lab.scenario",
    "Network": "lab.topology.network",
    "PolicyName": "lab.rules.firewall",
    "Run": "lab.run",
    "Sweep": "lab.sweep",
    "run": "lab.run",
    "sweep": "lab.sweep",
}

__all__ = ["Lab", "LabNode", "Network", "PolicyName", "Run", "Sweep", "run", "sweep"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """This package: `lab.run` is the function, also after the module of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _WHERE.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
