"""Hear what the network says of the protocol 41 that a node sends, be it the kernel's own tunnel device that sends it.

A raw socket hears of ICMP errors (RFC 792) about all packets of its protocol to its peer.  What the peer sends it would
get as well, once more; a filter in the kernel keeps that away.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
from collections import Counter
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Final

from lab.actors.neterrors import IP_RECVERR, take_icmp_errors
from lab.encap import PROTOCOL_41

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

log = logging.getLogger(__name__)

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_TAKE_NOTHING: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""One instruction of a classic BPF program: return 0 bytes of the packet (linux/filter.h)."""


class ErrorEar:
    """Counts, as `icmp_errors`, the ICMP errors about protocol 41 sent to `peer`.  Close it when done.

    Raises OSError without CAP_NET_RAW.
    """

    def __init__(self, namespace: Namespace, peer: IPv4Address, counters: Counter[Any]) -> None:
        self._counters = counters
        self._socket = namespace.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL_41)
        try:
            self._socket.setblocking(False)
            program = ctypes.create_string_buffer(_TAKE_NOTHING)
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program))
            )
            self._socket.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            self._socket.connect((str(peer), 0))
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        for error in take_icmp_errors(self._socket):
            self._counters["icmp_errors"] += 1
            log.debug("protocol 41: %s", error)
        for _ in range(64):  # the error again, as the socket's own; and what came before there was a filter
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError:
                continue

    def close(self) -> None:
        """Stop listening; safe to call twice."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
