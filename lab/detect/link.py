"""Where the IP packet begins in a captured frame, for the link types that captures of IP networks have.

Link types by number: the registry of draft-ietf-opsawg-pcaplinktype.
"""

from __future__ import annotations

from typing import Final

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
_PPPOE: Final = 0x8864
_VLAN: Final = frozenset({0x8100, 0x88A8, 0x9100})
_BY_VERSION: Final = {4: IPV4, 6: IPV6}
_PPP: Final = {b"\x00\x21": IPV4, b"\x00\x57": IPV6}

_RAW: Final = frozenset({12, 14, 101, 228, 229})
_NULL: Final = frozenset({0, 108})
_ETHERNET: Final = 1
_COOKED: Final = 113
_COOKED_2: Final = 276

WITHOUT_LINK_LAYER: Final = _RAW
"""Link types whose frames begin with the IP header."""
KNOWN: Final = frozenset({_ETHERNET, _COOKED, _COOKED_2}) | _RAW | _NULL
"""Link types that `find_ip` understands."""


def find_ip(link: int, frame: bytes) -> tuple[int, int]:
    """The EtherType of what the frame carries, VLAN tags and PPPoE unwrapped, and the offset of its first byte.

    (0, 0) for a frame that is too short or of an unknown kind.
    """
    if link == _ETHERNET:
        return _unwrap(frame, 12)
    if link in _RAW:
        return (_BY_VERSION.get(frame[0] >> 4, 0), 0) if frame else (0, 0)
    if link == _COOKED:
        return _unwrap(frame, 14)
    if link == _COOKED_2:
        kind, _ = _unwrap(frame, 0)
        return kind, 20
    if link in _NULL:  # an address family, whose number differs from system to system, in the byte order of the host
        return (_BY_VERSION.get(frame[4] >> 4, 0), 4) if len(frame) > 4 else (0, 0)
    return 0, 0


def _unwrap(frame: bytes, at: int) -> tuple[int, int]:
    """Kind and offset of what follows the EtherType at `at`."""
    kind = int.from_bytes(frame[at : at + 2], "big")
    at += 2
    while kind in _VLAN and len(frame) >= at + 4:
        kind = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    if kind == _PPPOE and len(frame) >= at + 8:
        return _PPP.get(frame[at + 6 : at + 8], 0), at + 8
    return kind, at
