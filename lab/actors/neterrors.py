"""What the network says of a packet it did not deliver, in words: ICMP errors and socket errors.

RFC 792, RFC 1812 section 5.2.7; IP_RECVERR in ip(7).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

IP_RECVERR: Final = 11  # linux/in.h: not in the socket module
_MSG_ERRQUEUE: Final = 0x2000
_ORIGIN_ICMP: Final = 2
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")

_UNREACHABLE: Final = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "fragmentation needed",
    5: "source route failed",
    6: "network unknown",
    7: "host unknown",
    9: "network administratively prohibited",
    10: "host administratively prohibited",
    13: "communication administratively prohibited",
}
_LOCAL: Final = {
    errno.ECONNREFUSED: "nothing listens there",
    errno.ECONNRESET: "the connection was reset",
    errno.EPERM: "a firewall on this machine forbids it",
    errno.EACCES: "a firewall on this machine forbids it",
    errno.ENETUNREACH: "there is no route",
    errno.EHOSTUNREACH: "the host cannot be reached",
}


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error as the kernel queued it on the socket that earned it."""

    errno: int
    type: int
    code: int
    offender: str
    """The IPv4 address of the router or host that sent it."""

    @property
    def is_too_big(self) -> bool:
        """Fragmentation needed: about one packet's size, not about the destination."""
        return (self.type, self.code) == (3, 4)

    def __str__(self) -> str:
        if self.type == 3:
            what = _UNREACHABLE.get(self.code, "destination unreachable")
        else:
            what = "time to live exceeded" if self.type == 11 else "rejected"
        return f"{self.offender} says: {what} (ICMP type {self.type} code {self.code})"


def take_icmp_errors(sock: socket.socket) -> list[IcmpError]:
    """Empty the error queue of an IPv4 socket that has IP_RECVERR on; local errors in it are passed over.

    Not emptying it would keep the socket "readable" for ever.
    """
    found: list[IcmpError] = []
    while True:
        try:
            _, extra, _, _ = sock.recvmsg(512, 512, _MSG_ERRQUEUE)
        except OSError:
            return found
        for level, kind, data in extra:
            if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR) and (error := parse_extended_error(data)):
                found.append(error)


def parse_extended_error(data: bytes) -> IcmpError | None:
    """The ICMP error in a `struct sock_extended_err` and the offender's address behind it, None if it is none."""
    if len(data) < _EXTENDED_ERROR.size:
        return None
    number, origin, kind, code, _, _, _ = _EXTENDED_ERROR.unpack_from(data)
    if origin != _ORIGIN_ICMP:
        return None
    offender = "somebody"
    address = data[_EXTENDED_ERROR.size :]
    if len(address) >= 8 and int.from_bytes(address[:2], "little") == socket.AF_INET:
        offender = socket.inet_ntoa(address[4:8])
    return IcmpError(number, kind, code, offender)


def explain(error: OSError) -> str:
    """An errno of a socket call in words that fit what happened to a packet of ours."""
    number = error.errno or 0
    return _LOCAL.get(number) or os.strerror(number)
