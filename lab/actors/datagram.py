"""UDP ports of a node that send single datagrams and notice which of them arrive."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress

from lab.actors.patience import patient_timeout_at
from lab.errors import LabError
from lab.kernel.namespace import Namespace

Endpoint = tuple[str, int]

_REMEMBERED = 1000


class Port:
    """A UDP port of a node (0: any that is free), open until it is closed; needs a running event loop."""

    def __init__(self, ns: Namespace, number: int = 0) -> None:
        """LabError when the port is in use."""
        self._name = ns.name
        self._heard: dict[bytes, Endpoint] = {}
        self._news = asyncio.Event()
        self._socket = ns.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind(("0.0.0.0", number))
        except OSError as exc:
            self._socket.close()
            what = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be opened: {exc.strerror}"
            raise LabError(f"UDP port {number} of {ns.name} {what}") from exc
        self.number: int = self._socket.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def send(self, data: bytes, to: Endpoint) -> None:
        """Send `data`; LabError when the kernel will not, for want of a route for example."""
        try:
            self._socket.sendto(data, to)
        except OSError as exc:
            raise LabError(f"{self._name} cannot send to {to[0]} port {to[1]}: {exc.strerror}") from exc

    async def heard(self, data: bytes, timeout_s: float) -> Endpoint | None:
        """Where a datagram with this very content came from; None when none has come by the end of `timeout_s`."""
        with suppress(TimeoutError):
            async with patient_timeout_at(asyncio.get_running_loop().time() + timeout_s):
                while data not in self._heard:
                    self._news.clear()
                    await self._news.wait()
        return self._heard.pop(data, None)

    def _read(self) -> None:
        with suppress(OSError):
            while True:
                data, source = self._socket.recvfrom(65535)
                self._heard[data] = (source[0], source[1])
                if len(self._heard) > _REMEMBERED:  # nobody asks for the oldest any more
                    del self._heard[next(iter(self._heard))]
                self._news.set()

    def close(self) -> None:
        """Close the port; a second call does nothing."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
