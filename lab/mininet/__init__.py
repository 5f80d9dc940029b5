"""Tunnel brokers, clients, NATs and firewalls as Mininet nodes, and the lab's topologies as Mininet networks.

For a script of one's own, beside `from mininet.net import Mininet`:

    from lab.mininet import Firewall, LinuxBridge, NatBox, Router, TspBroker, TspClient, check_links

    net = Mininet(controller=None, switch=LinuxBridge)
    laptop = net.addHost("laptop", cls=TspClient, ip="192.168.0.2/24", defaultRoute="via 192.168.0.1")
    home = net.addHost("home", cls=NatBox, mapping="EIM", outside="broker", ip=None)
    broker = net.addHost("broker", cls=TspBroker, pool="2001:db8:f000::/36", ip=None)
    net.addLink(laptop, home, params2={"ip": "192.168.0.1/24"})
    net.addLink(home, broker, params1={"ip": "198.51.100.1/30"}, params2={"ip": "198.51.100.2/30"})
    net.start()
    check_links(net)
    print(laptop.connect_tunnel(broker).outcome)

    boxes.py     those nodes            links.py     links whose impairments are there, or an error
    switches.py  bridges                plans.py     a plan of the lab as Mininet nodes and links
    running.py   the event loop of the brokers and clients, beside Mininet's own thread
    topo.py      every topology as a Topo       packages.py    the lab's packages for the Python that runs `mn`

Mininet itself is Debian's package `mininet`, which has the program mnexec, or that and the package of PyPI.
Without it, importing anything from here is a MissingFeature.  A script finds the lab by PYTHONPATH, the folder of the
checkout, or is started with `scripts/lab mn SCRIPT`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from lab.kernel.stock_mininet import load
from lab.mininet.packages import make_importable

load()
make_importable()

_WHERE: Final = {
    "CheckedIntf": "lab.mininet.links",
    "CheckedLink": "lab.mininet.links",
    "DefaultSwitch": "lab.mininet.switches",
    "Firewall": "lab.mininet.boxes",
    "Host": "lab.mininet.boxes",
    "LinuxBridge": "lab.mininet.switches",
    "NatBox": "lab.mininet.boxes",
    "OpenVSwitch": "lab.mininet.switches",
    "PlanTopo": "lab.mininet.topo",
    "Router": "lab.mininet.boxes",
    "TspBroker": "lab.mininet.boxes",
    "TspClient": "lab.mininet.boxes",
    "TspTopo": "lab.mininet.topo",
    "check_links": "lab.mininet.links",
    "default_switch": "lab.mininet.switches",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'lab.mininet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
