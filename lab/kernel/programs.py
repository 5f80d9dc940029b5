"""Programs of other people that a topology runs on its nodes, and the Debian packages they come in."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Final

from lab.errors import MissingFeature

PACKAGES: Final = {
    "arping": "arping",
    "chromium": "chromium",
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "lsof": "lsof",
    "mn": "mininet",
    "mtr": "mtr-tiny",
    "nc": "netcat-openbsd",
    "nmap": "nmap",
    "ovs-vswitchd": "openvswitch-switch",
    "ping": "iputils-ping",
    "ss": "iproute2",
    "tc": "iproute2",
    "tcpdump": "tcpdump",
    "traceroute": "traceroute",
    "tshark": "tshark",
}
"""Debian package by program, where they are known here."""


def missing_program(name: str) -> str | None:
    """How to get a program that is not on the PATH; None when it is there."""
    if shutil.which(name) is not None:
        return None
    package = PACKAGES.get(name)
    if package is None:
        return f"install it: Debian's apt-file search bin/{name} names the package"
    return f"install Debian's package {package}: sudo apt-get install {package}"


def require_programs(names: Iterable[str]) -> None:
    """Raise MissingFeature for the first of these programs that is not on the PATH."""
    for name in names:
        way_out = missing_program(name)
        if way_out is not None:
            raise MissingFeature(f"the program {name}", instead=way_out)
