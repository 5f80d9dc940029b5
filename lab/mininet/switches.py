"""Switches: bridges of Open vSwitch where its daemons can make some here, else Linux bridges.

`LinuxBridge` is in a namespace of its own, made with `ip link` alone.  Stock Mininet's needs `brctl` and puts the
bridge and its ports into the machine's own network, where a killed run leaves them; this one goes with its node.
`OpenVSwitch` is, as all of Open vSwitch, in the network of its daemons: what a killed run leaves, `lab check` names.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from mininet.log import info, warn
from mininet.node import OVSBridge, Switch

from lab.errors import KernelRefused, MissingFeature, UsageError
from lab.kernel import links, open_vswitch
from lab.mininet.links import namespace_of


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


class OpenVSwitch(OVSBridge):
    """An Open vSwitch bridge without a controller, on the datapath that works here, "kernel" or "user".

    Raises MissingFeature where Open vSwitch cannot be used, UsageError when there is a bridge of its name, which stock
    Mininet would delete, and KernelRefused for a port that the bridge does not take.
    """

    def __init__(self, name: str, datapath: str | None = None, **params: Any) -> None:
        found = open_vswitch.find()
        if found.datapath is None:
            raise MissingFeature(f"Open vSwitch: {found.why}", instead="use LinuxBridge")
        if open_vswitch.vsctl("br-exists", name).returncode == 0:
            raise UsageError(
                f"Open vSwitch has a bridge {name} already; if no other Mininet is using it, remove it with: "
                f"ovs-vsctl del-br {name}"
            )
        if open_vswitch.interface_exists(name):  # stock Mininet would delete it in the end
            raise UsageError(f"a switch cannot be called {name} here: there is an interface {name} on this machine")
        self._made = False
        params.update(inNamespace=False, batch=False, listenPort=None)  # `mn` would have it listen on the machine
        params.setdefault("dpid", "1")  # stock Mininet wants a digit in the name otherwise
        if not hasattr(OVSBridge, "OVSVersion"):  # Mininet forgets it when a plain Node was made before
            OVSBridge.setup()
        super().__init__(name, datapath=datapath or found.datapath, **params)

    def start(self, controllers: Any) -> None:
        """Make the bridge of all links there are."""
        self._made = True
        super().start(controllers)
        for intf in self.intfList():
            if intf.name != "lo":
                self._check(intf)

    def attach(self, intf: Any) -> None:
        """Take in an interface that was added later."""
        super().attach(intf)
        self._check(intf)

    def _check(self, intf: Any) -> None:
        """See to it that the bridge has the port, which then is nothing else and gets whole packets."""
        port = open_vswitch.vsctl("get", "interface", intf.name, "ofport").stdout.strip()
        if not port.isdigit():
            why = open_vswitch.vsctl("get", "interface", intf.name, "error").stdout.strip(' "[]\n')
            raise KernelRefused(self.name, f"take {intf.name} into its bridge", 0, why or "it is no port of it")
        # This end is in the network of the daemons: their machine's IPv6 and ARP have no part in what passes here.
        with namespace_of(self) as space:
            space.sysctls({f"net/ipv6/conf/{intf.name}/disable_ipv6": "1"})
        _, said, status = self.pexec(f"ip link set {intf.name} arp off")
        if status != 0:
            raise KernelRefused(self.name, f"switch ARP off on {intf.name}", 0, said.strip())
        # The user datapath reads packets as they are: a check sum that was left to a device would never be made.
        if self.datapath == "user" and intf.link is not None:
            for end in (intf.link.intf1, intf.link.intf2):
                with namespace_of(end.node) as space:
                    links.disable_offloads(space, end.name)

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803 - Mininet's name
        """Remove the bridge, if it is this one's."""
        if self._made:
            super().stop(deleteIntfs)
        else:
            Switch.stop(self, deleteIntfs)

    @classmethod
    def batchStartup(cls, switches: Any, run: Any = None) -> Any:  # noqa: N802 - Mininet's name
        """Nothing: each has started by itself, and was looked at."""
        return switches

    @classmethod
    def batchShutdown(cls, switches: Any, run: Any = None) -> Any:  # noqa: N802 - Mininet's name
        """Nothing: each is stopped by itself."""
        return ()


class DefaultSwitch(Switch):
    """An OpenVSwitch or a LinuxBridge, decided when the first one is made: for `mn`, where it has to be a class."""

    def __init__(self, name: str, **params: Any) -> None:
        self.__class__ = kind = default_switch()
        kind.__init__(self, name, **params)


@cache
def default_switch() -> type[Switch]:
    """OpenVSwitch where it can be used, else LinuxBridge; says which and why in Mininet's log, once."""
    found = open_vswitch.find()
    chosen, kind = (OpenVSwitch, "of Open vSwitch") if found.datapath else (LinuxBridge, "Linux bridges")
    say = warn if found.installed and not found.datapath else info
    say(f"*** Switches are {kind}: {found.why}\n")
    return chosen
