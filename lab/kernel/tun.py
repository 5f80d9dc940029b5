"""A network device whose packets a program reads and writes: the end of a tunnel in user space.

Two ways to get one, behind one interface:

- "tun": /dev/net/tun, the kernel's own.
- "veth": where that device cannot be opened (it belongs to root with mode 0600 on some systems, and a user namespace
  may not make another), a veth pair without address resolution.  Its far end sits alone in a pocket namespace that
  speaks no IP, where a packet socket reads and writes it.  Both ends have one MAC address, so a frame is for its
  receiver in either direction.  It carries IPv6 only.

Both kinds are up, send no router solicitations or group reports of their own and have no link-local address: all
that comes out of the device is what was routed into it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from abc import ABC, abstractmethod
from typing import Final, Literal

from lab.errors import KernelRefused
from lab.kernel import links, netlink, settle
from lab.kernel.links import add_address, add_route, del_address, del_route, link_up, set_mtu
from lab.kernel.namespace import Namespace

__all__ = ["PacketDevice", "add_address", "add_route", "del_address", "del_route", "link_up", "set_mtu"]

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_TUN_NODE: Final = "/dev/net/tun"

_ETH_P_IPV6: Final = 0x86DD
_LARGEST: Final = 65535
_POCKET_END: Final = "far"
_MAC: Final = "02:00:5e:00:00:01"
"""Of both ends of every veth device: they never meet another link."""

Kind = Literal["tun", "veth"]


class PacketDevice(ABC):
    """A device called `name`; its descriptor is non-blocking and can be given to an event loop."""

    kind: Kind

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def open(ns: Namespace, name: str, mtu: int, *, kind: Kind | None = None) -> PacketDevice:
        """A device `name` in `ns`, up, with that MTU; the kind is "tun" where it can be had unless one is asked for.

        Raises KernelRefused.
        """
        fd = None
        if kind != "veth":
            try:
                with ns.entered():  # the device belongs to the namespace the file is opened in
                    fd = os.open(_TUN_NODE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as exc:
                if kind == "tun":
                    raise KernelRefused(ns.name, f"open {_TUN_NODE}", exc.errno or 0) from exc
        return _Veth(ns, name, mtu) if fd is None else _Tun(ns, name, mtu, fd)

    @abstractmethod
    def fileno(self) -> int: ...

    @abstractmethod
    def read(self) -> bytes:
        """The next IP packet routed into the device.  Raises BlockingIOError when there is none."""

    @abstractmethod
    def write(self, packet: bytes | bytearray | memoryview) -> None:
        """Have an IP packet arrive at the device.  Raises BlockingIOError or OSError when the kernel cannot take it."""

    @abstractmethod
    def close(self) -> None:
        """Remove the device, with its addresses and routes."""


class _Tun(PacketDevice):
    kind: Kind = "tun"

    def __init__(self, ns: Namespace, name: str, mtu: int, fd: int) -> None:
        super().__init__(name)
        self._fd = fd
        try:
            try:
                fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
            except OSError as exc:
                raise KernelRefused(ns.name, f"make TUN device {name}", exc.errno or 0) from exc
            _quiet(ns, name)
            _bring_up(ns, name, mtu)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        return os.read(self._fd, _LARGEST)

    def write(self, packet: bytes | bytearray | memoryview) -> None:
        os.write(self._fd, packet)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Veth(PacketDevice):
    kind: Kind = "veth"

    def __init__(self, ns: Namespace, name: str, mtu: int) -> None:
        super().__init__(name)
        self._ns = ns
        with Namespace.create(f"{ns.name}:{name}:pocket") as pocket:
            pocket.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
            ns.netlink.do([netlink.add_veth(name, 0, _MAC, ns.fd, _POCKET_END, 0, _MAC, pocket.fd, mtu)])
            self._index = links.index(ns, name)
            try:
                _quiet(ns, name)
                links.disable_offloads(ns, name)
                link_up(pocket, _POCKET_END)
                # The socket keeps the pocket: its descriptor is not needed any more.
                self._socket = pocket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
                self._socket.bind((_POCKET_END, _ETH_P_IPV6))
                self._destination = (_POCKET_END, _ETH_P_IPV6, 0, 0, bytes.fromhex(_MAC.replace(":", "")))
                _bring_up(ns, name, mtu)
                far = _POCKET_END, links.index(pocket, _POCKET_END)
                settle.links_carry({ns: [(name, self._index)], pocket: [far]})
            except BaseException:
                links.del_link(ns, name)
                raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        return self._socket.recv(_LARGEST)

    def write(self, packet: bytes | bytearray | memoryview) -> None:
        self._socket.sendto(packet, self._destination)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            # The device goes now, and before the socket: that is all that keeps the pocket, which would take the
            # device with it, in the kernel's own time.
            try:
                if self._ns.fd >= 0:
                    self._ns.netlink.do([netlink.delete_link(self.name, self._index)])
            finally:
                self._socket.close()


def _quiet(ns: Namespace, name: str) -> None:
    """Before it is up: no link-local address (1: none), no router solicitation, no waiting for an address check."""
    base = f"net/ipv6/conf/{name}"
    ns.sysctls({f"{base}/addr_gen_mode": "1", f"{base}/accept_ra": "0", f"{base}/accept_dad": "0"})


def _bring_up(ns: Namespace, name: str, mtu: int) -> None:
    up = netlink.IFF_UP | netlink.IFF_NOARP
    change = up | netlink.IFF_MULTICAST
    ns.netlink.do([netlink.set_link(name, links.index(ns, name), flags=up, change=change, mtu=mtu)])
