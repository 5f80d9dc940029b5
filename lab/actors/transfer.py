"""A TCP transfer between two namespaces, checked with SHA-256 at both ends.

Both ends run in the calling process; their sockets live in their namespaces, so the bytes cross the network between
them.  The data is random (from `rng`), so that nothing on the way can guess or repeat it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from lab.errors import LabError, UsageError

if TYPE_CHECKING:
    from lab.kernel.namespace import Namespace

_CHUNK: Final = 65_536
_PIECE_S: Final = 1.0
"""How often a sender that comes by its bytes little by little sends some."""


@dataclass(frozen=True, slots=True)
class TransferReport:
    """What arrived."""

    size: int
    """Bytes sent."""
    received: int
    """Bytes that arrived."""
    seconds: float
    """From connect to the last byte's arrival."""
    sha256_sent: str
    sha256_received: str
    longest_gap_s: float
    """The longest time for which the receiver got nothing."""

    @property
    def intact(self) -> bool:
        """The receiver got as many bytes with the same SHA-256."""
        return self.received == self.size and self.sha256_sent == self.sha256_received

    @property
    def mbit_per_s(self) -> float:
        """Payload bits per second, in millions."""
        return self.received * 8 / self.seconds / 1e6 if self.seconds else 0.0


async def transfer(
    sender: Namespace,
    receiver: Namespace,
    address: str | IPv4Address | IPv6Address,
    *,
    size: int = 1_000_000,
    timeout_s: float = 60.0,
    over_s: float = 0.0,
    rng: random.Random,
) -> TransferReport:
    """Send `size` random bytes from `sender` to `address` on `receiver`; the port is the kernel's choice there.

    The sender has all of them at once or, as a talk has, comes by them little by little in the course of `over_s`.
    Raises LabError when no connection comes about or the transfer does not end in `timeout_s` seconds, UsageError for
    a size that does not exist.
    """
    if size < 0:
        raise UsageError(f"a transfer has 0 bytes or more, not {size}")
    loop = asyncio.get_running_loop()
    target = ip_address(address) if isinstance(address, str) else address
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    data = rng.randbytes(size)
    with (
        receiver.socket(family, socket.SOCK_STREAM) as listener,
        sender.socket(family, socket.SOCK_STREAM) as outgoing,
    ):
        listener.setblocking(False)
        outgoing.setblocking(False)
        listener.bind((str(target), 0))
        listener.listen(1)
        sink = asyncio.ensure_future(_receive(listener, size))
        began = loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(outgoing, (str(target), listener.getsockname()[1]))
                await _send(outgoing, data, over_s)
                outgoing.shutdown(socket.SHUT_WR)
                received, digest, longest_gap_s = await sink
        except OSError as exc:
            if isinstance(exc, TimeoutError) and exc.errno is None:  # ours; the kernel's, of a TCP, has a number
                raise LabError(f"the transfer of {size} bytes to {target} did not end in {timeout_s:g} s") from None
            raise LabError(f"the transfer of {size} bytes to {target} failed: {_words(exc)}") from exc
        finally:
            sink.cancel()
            await asyncio.wait([sink])
        seconds = loop.time() - began
    return TransferReport(size, received, seconds, hashlib.sha256(data).hexdigest(), digest, longest_gap_s)


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)  # asyncio has words of its own


async def _send(outgoing: socket.socket, data: bytes, over_s: float) -> None:
    loop = asyncio.get_running_loop()
    pieces = math.ceil(over_s / _PIECE_S) if over_s > 0 else 1
    size = math.ceil(len(data) / pieces)
    began = loop.time()
    for number in range(pieces):
        await asyncio.sleep(began + number * over_s / pieces - loop.time())
        await loop.sock_sendall(outgoing, data[number * size : (number + 1) * size])


async def _receive(listener: socket.socket, expected: int) -> tuple[int, str, float]:
    """Take one connection and read to its end: bytes, SHA-256, longest gap.  More than `expected` bytes are cut off."""
    loop = asyncio.get_running_loop()
    incoming, _ = await loop.sock_accept(listener)
    digest, received = hashlib.sha256(), 0
    longest_gap_s, last = 0.0, loop.time()
    with incoming:
        while received <= expected:
            chunk = await loop.sock_recv(incoming, _CHUNK)
            longest_gap_s, last = max(longest_gap_s, loop.time() - last), loop.time()
            if not chunk:
                break
            digest.update(chunk)
            received += len(chunk)
    return received, digest.hexdigest(), longest_gap_s
