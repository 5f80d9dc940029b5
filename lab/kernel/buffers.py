"""Room for bursts in a socket's buffers."""

from __future__ import annotations

import socket
from typing import Final, Literal

_BEYOND_THE_LIMIT: Final = {"send": 32, "receive": 33}
"""SO_SNDBUFFORCE and SO_RCVBUFFORCE (socket(7)), for who administers the network; the socket module lacks them."""
_WITHIN_THE_LIMIT: Final = {"send": socket.SO_SNDBUF, "receive": socket.SO_RCVBUF}


def enlarge(sock: socket.socket, which: Literal["send", "receive"], size: int) -> None:
    """Give a socket a buffer of `size` bytes, or as much as anybody may have (net.core.rmem_max, wmem_max)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _BEYOND_THE_LIMIT[which], size)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, _WITHIN_THE_LIMIT[which], size)
