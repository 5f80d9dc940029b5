"""Record every packet of an interface in a file that tcpdump, tshark and Wireshark read.

A packet socket in the node's namespace, served by the event loop; times are the kernel's, in nanoseconds.  The file
is complete after every batch: a run that is killed leaves what was recorded so far.  A pcap file has one link type:
Ethernet for a veth, raw IP for a TUN or `sit` device.  What leaves the interface is recorded as the kernel hands it
to the device, so a link shows segments as on a wire only where it was built without offloads.

Format: draft-ietf-opsawg-pcap, the variant with nanoseconds (magic a1b23c4d).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from lab.errors import KernelRefused
from lab.kernel.buffers import enlarge
from lab.kernel.namespace import Namespace

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SO_TIMESTAMPNS: Final = 35
_ARPHRD_ETHER: Final = 1
_ARPHRD_LOOPBACK: Final = 772

_LINKTYPE_ETHERNET: Final = 1
_LINKTYPE_RAW: Final = 101
_MAGIC_NS: Final = 0xA1B23C4D
_SNAPLEN: Final = 262_144

_BUFFER: Final = 8 << 20
_BATCH: Final = 64
"""Packets taken in one turn of the event loop, so that the nodes' programs get their turn too."""

_file_header: Final = struct.Struct("=IHHiIII")
_record: Final = struct.Struct("=IIII")
_timespec: Final = struct.Struct("=qq")


class Capture:
    """Packets of `iface` in `namespace`, written to `path` between `start` and `stop`."""

    def __init__(
        self, namespace: Namespace, iface: str, path: Path, *, on_error: Callable[[OSError], None] | None = None
    ) -> None:
        """`on_error` is called once, when the file cannot be written any more; without it, that raises in the loop."""
        self.namespace = namespace
        self.iface = iface
        self.path = path
        self.packets = 0
        """Packets written."""
        self.dropped = 0
        """Packets the kernel dropped because nobody took them in time."""
        self._socket: socket.socket | None = None
        self._file = -1
        self._on_error = on_error
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Record from now on; needs a running event loop.  Raises KernelRefused if there is no such interface."""
        loop = asyncio.get_running_loop()
        tap = self.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)  # hears nothing before it is bound
        try:
            enlarge(tap, "receive", _BUFFER)
            tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            tap.bind((self.iface, _ETH_P_ALL))
            ethernet = tap.getsockname()[3] in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)
            link_type = _LINKTYPE_ETHERNET if ethernet else _LINKTYPE_RAW
            os.write(self._file, _file_header.pack(_MAGIC_NS, 2, 4, 0, 0, _SNAPLEN, link_type))
        except OSError as exc:
            tap.close()
            self._close_file()
            raise KernelRefused(self.namespace.name, f"capture on {self.iface}", exc.errno or 0) from exc
        self._socket, self._loop = tap, loop
        loop.add_reader(tap, self._take, _BATCH)

    def stop(self) -> None:
        """Write what has arrived and close the file.  A second call does nothing."""
        if self._socket is None or self._loop is None:
            return
        self._loop.remove_reader(self._socket)
        while self._take(_BATCH):
            pass
        with suppress(OSError):
            statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self.dropped += struct.unpack("=II", statistics)[1]
        self._socket.close()
        self._socket = None
        self._close_file()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self, at_most: int) -> bool:
        """Write up to `at_most` waiting packets; whether there may be more."""
        assert self._socket is not None
        assert self._loop is not None
        parts: list[bytes] = []
        more = True
        for _ in range(at_most):
            try:
                packet, control, _, _ = self._socket.recvmsg(_SNAPLEN, 64)
            except BlockingIOError:
                more = False
                break
            except OSError as exc:
                if exc.errno != errno.ENETDOWN:
                    raise
                continue  # said once, when the interface goes down or away: what it left can still be read
            seconds, nanoseconds = _timespec.unpack(control[0][2])
            parts += (_record.pack(seconds, nanoseconds, len(packet), len(packet)), packet)
            self.packets += 1
        if parts and self._file >= 0:
            try:
                if os.writev(self._file, parts) < sum(map(len, parts)):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as exc:
                self._close_file()
                self._loop.remove_reader(self._socket)
                if self._on_error is None:
                    raise
                self._on_error(exc)
                return False
        return more
