"""Switches without Open vSwitch: a Linux bridge in a namespace of its own, made with `ip link` alone.

Stock Mininet's LinuxBridge needs `brctl` and puts the bridge and its ports into the machine's own network, where a
killed run leaves them.  This one leaves nothing: it goes with its node.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from mininet.node import OVSBridge, Switch

from lab.errors import KernelRefused


class LinuxBridge(Switch):
    """A learning switch without a controller.  Any name will do; `stp=True` for loops (30 s until it forwards)."""

    def __init__(self, name: str, stp: bool = False, **params: Any) -> None:
        params["inNamespace"] = True
        params.setdefault("dpid", "1")  # stock Mininet wants a digit in the name otherwise
        self.controlIntf = None
        self._stp = stp
        super().__init__(name, **params)
        # It forwards IPv6 and has no part in it: no link-local address, no reports of group membership.
        self._do("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")

    def start(self, controllers: Any) -> None:
        """Make the bridge of all links there are.  Raises KernelRefused."""
        self._do(f"ip link add br0 type bridge stp_state {int(self._stp)}")
        for intf in self.intfList():
            if intf.name != "lo":
                self._do(f"ip link set {intf.name} master br0 up")
        self._do("ip link set br0 up")

    def attach(self, intf: Any) -> None:
        """Take in an interface that was added later."""
        self._do(f"ip link set {intf} master br0 up")

    def detach(self, intf: Any) -> None:
        """Let an interface go."""
        self._do(f"ip link set {intf} nomaster")

    def dpctl(self, *_args: Any) -> str:
        """There is no OpenFlow here; the `dpctl` of Mininet's CLI shows what the bridge has learned."""
        return str(self.pexec("bridge fdb show br br0")[0])

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803 - Mininet's name
        """Remove the bridge."""
        self.cmd("ip link del br0")
        super().stop(deleteIntfs)

    def _do(self, command: str) -> None:
        _, said, status = self.pexec(command)
        if status != 0:
            raise KernelRefused(self.name, command, 0, said.strip())


def default_switch() -> type[Switch]:
    """Open vSwitch as a bridge where it is installed and answers, else LinuxBridge."""
    if shutil.which("ovs-vsctl") is None:
        return LinuxBridge
    asked = subprocess.run(["ovs-vsctl", "--timeout=2", "show"], capture_output=True, check=False)
    return OVSBridge if asked.returncode == 0 else LinuxBridge
