"""Capture files as others write them: pcap in either byte order, with microseconds or nanoseconds, and pcapng.

Streaming: a file of any size is read in pieces.  What is not a capture is a `UsageError` that says what it is; a
capture that breaks off or is damaged gives the packets before that place, and says so in `damage`.

Formats: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from lab.errors import UsageError

LINK_ETHERNET: Final = 1
LINK_RAW: Final = 101

Frame = tuple[float, int, bytes, int]
"""Seconds since the epoch, link type, the bytes kept, and how many bytes the frame had on the wire."""

_MAGIC: Final = {
    bytes.fromhex("a1b2c3d4"): (">", 1e-6),
    bytes.fromhex("d4c3b2a1"): ("<", 1e-6),
    bytes.fromhex("a1b23c4d"): (">", 1e-9),
    bytes.fromhex("4d3cb2a1"): ("<", 1e-9),
}
_PCAPNG: Final = bytes.fromhex("0a0d0d0a")
_OTHERS: Final = {
    b"\x1f\x8b": "it is compressed; unpack it with gunzip first",
    b"\x28\xb5\x2f\xfd": "it is compressed; unpack it with unzstd first",
    b"BZh": "it is compressed; unpack it with bunzip2 first",
    b"\xfd7zXZ": "it is compressed; unpack it with unxz first",
    b"snoop\0": "it is a snoop file; editcap turns it into a pcap file",
}
_LARGEST: Final = 16 << 20
"""Bytes of the longest record that is believed: a larger length is damage."""


class CaptureFile:
    """The frames of a capture, in the order of the file; may be gone through once or more.

    Raises UsageError when the file cannot be read or is no capture.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.damage = ""
        """Why reading ended before the end of the file, or nothing; known when the frames have been gone through."""
        try:
            with self.path.open("rb") as file:
                start = file.read(24)
        except OSError as exc:
            raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
        self._check(start)

    def _check(self, start: bytes) -> None:
        if start[:4] in _MAGIC or start[:4] == _PCAPNG:
            if len(start) == 24:
                return
            why = "it breaks off in its header"
        elif not start:
            why = "it is empty"
        else:
            why = next((text for magic, text in _OTHERS.items() if start.startswith(magic)), "")
        raise UsageError(f"{self.path} is no pcap or pcapng file" + (f": {why}" if why else ""))

    def __iter__(self) -> Iterator[Frame]:
        self.damage = ""
        try:
            with self.path.open("rb", buffering=1 << 20) as file:
                magic = file.read(4)
                self._check(magic + file.read(20))
                if magic == _PCAPNG:
                    file.seek(0)
                    yield from self._pcapng(file)
                else:
                    yield from self._pcap(file, *_MAGIC[magic])
        except OSError as exc:
            raise UsageError(f"cannot read {self.path}: {exc.strerror}") from exc

    def _pcap(self, file: BinaryIO, order: str, fraction: float) -> Iterator[Frame]:
        file.seek(20)
        # The upper bits of the link type say how many bytes of checksum follow a frame.
        link = struct.unpack(f"{order}I", file.read(4))[0] & 0xFFFF
        record = struct.Struct(f"{order}IIII")
        while header := file.read(16):
            if len(header) < 16:
                self.damage = "the file ends in the middle of a packet"
                return
            seconds, parts, kept, length = record.unpack(header)
            if kept > _LARGEST:
                self.damage = f"a packet of {kept} bytes cannot be: the file is damaged"
                return
            frame = file.read(kept)
            if len(frame) < kept:
                self.damage = "the file ends in the middle of a packet"
                return
            yield seconds + parts * fraction, link, frame, max(length, kept)

    def _pcapng(self, file: BinaryIO) -> Iterator[Frame]:
        order = "<"
        interfaces: list[_Interface] = []
        while start := file.read(8):
            if start[:4] == _PCAPNG:  # the only block whose type reads the same in both byte orders
                magic = file.read(4)
                order = ">" if magic == b"\x1a\x2b\x3c\x4d" else "<"
                file.seek(-len(magic), 1)
                interfaces = []
                if magic not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
                    self.damage = "a section does not say its byte order: the file is damaged"
                    return
            if len(start) < 8:
                self.damage = "the file ends in the middle of a block"
                return
            kind, length = struct.unpack(f"{order}II", start)
            if length < 12 or length % 4 or length > _LARGEST:
                self.damage = f"a block of {length} bytes cannot be: the file is damaged"
                return
            body = file.read(length - 8)
            if len(body) < length - 8:
                self.damage = "the file ends in the middle of a block"
                return
            body = body[:-4]  # the length again
            if kind == 1 and len(body) >= 8:
                interfaces.append(_Interface(body, order))
            elif kind in (2, 3, 6):
                frame = _packet(kind, body, order, interfaces)
                if frame is None:
                    self.damage = "a packet block makes no sense: the file is damaged"
                    return
                yield frame


class _Interface:
    """What an interface description block says: link type, and what its time stamps count."""

    def __init__(self, body: bytes, order: str) -> None:
        self.link, _, self.snaplen = struct.unpack_from(f"{order}HHI", body)
        self.unit_s = 1e-6
        self.offset_s = 0
        at = 8
        while at + 4 <= len(body):
            code, length = struct.unpack_from(f"{order}HH", body, at)
            value = body[at + 4 : at + 4 + length]
            if code == 0:
                break
            if code == 9 and len(value) == 1:  # if_tsresol: a power of 10, or of 2 with the top bit
                self.unit_s = 2.0 ** -(value[0] & 0x7F) if value[0] & 0x80 else 10.0 ** -value[0]
            elif code == 14 and len(value) == 8:  # if_tsoffset
                self.offset_s = struct.unpack(f"{order}q", value)[0]
            at += 4 + (length + 3 & ~3)


def _packet(kind: int, body: bytes, order: str, interfaces: list[_Interface]) -> Frame | None:
    """The frame of an enhanced (6), simple (3) or old (2) packet block; None when the block contradicts itself."""
    if kind == 3:
        if len(body) < 4 or not interfaces:
            return None
        length = struct.unpack_from(f"{order}I", body)[0]
        kept = min(length, interfaces[0].snaplen or length)
        at, stamp, interface = 4, None, interfaces[0]
    else:
        if len(body) < 20:
            return None
        number, high, low, kept, length = struct.unpack_from(f"{order}IIIII", body)
        if kind == 2:  # interface and drop count share the first field
            number = struct.unpack_from(f"{order}H", body)[0]
        if number >= len(interfaces):
            return None
        at, stamp, interface = 20, high << 32 | low, interfaces[number]
    if at + kept > len(body):
        return None
    seconds = 0.0 if stamp is None else interface.offset_s + stamp * interface.unit_s
    return seconds, interface.link, body[at : at + kept], max(length, kept)
