"""Impair what leaves an interface: `netem` for delay, jitter, loss, doubles and reordering, `tbf` for rate.

Both ways of a link are impaired by shaping both of its ends.  Where both disciplines are needed, tbf is the inner
queue of netem, as tc-netem(8) has it: a packet is lost or delayed first and then waits for its turn to be sent.
Jitter is uniform in delay +- jitter, and lets packets overtake each other, as netem's own does.

Layouts: linux/pkt_sched.h (tc_netem_qopt, tc_tbf_qopt) and tc-tbf(8).
"""

from __future__ import annotations

import struct
from typing import Final

from lab.kernel import links, netlink
from lab.kernel.namespace import Namespace
from lab.kernel.netlink import NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, Request, attribute
from lab.topology.plan import Shape

_RTM_NEWQDISC: Final = 36
TC_H_ROOT: Final = 0xFFFFFFFF
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2

_TCA_NETEM_REORDER: Final = 3
_TCA_NETEM_LATENCY64: Final = 10
_TCA_NETEM_JITTER64: Final = 11
_NETEM_PACKETS: Final = 20_000
"""Packets that may be under way in a delayed link: 1 Gbit/s over 200 ms."""

_TCA_TBF_PARMS: Final = 1
_TCA_TBF_BURST: Final = 6
_LINKLAYER_ETHERNET: Final = 1
_BURST_S: Final = 0.002
QUEUE_S: Final = 0.050
"""How long a packet may wait in front of a link of limited rate before the next one is dropped."""

ETHERNET_BYTES: Final = 14
_U32: Final = 2**32 - 1

_tcmsg: Final = struct.Struct("=BxxxiIII")
_netem_qopt: Final = struct.Struct("=IIIIII")
_ratespec: Final = struct.Struct("=BBHhHI")


def apply(ns: Namespace, iface: str, shape: Shape) -> None:
    """Impair what leaves `iface` as `shape` says; replaces what was there.  Raises KernelRefused."""
    state = links.link(ns, iface)
    requests = []
    parent = TC_H_ROOT
    if shape.needs_netem:
        requests.append(netem(iface, state.number, parent, shape))
        parent = 0x10001  # class 1:1 of netem, handle 1:
    if shape.rate_mbit:
        requests.append(tbf(iface, state.number, parent, shape.rate_mbit, state.mtu))
    ns.netlink.do(requests)


def netem(iface: str, index: int, parent: int, shape: Shape) -> Request:
    """The message that delays, loses, doubles and reorders packets."""
    # Times as nanoseconds (Linux 4.15): the fields of the struct count in a unit that has to be read from /proc.
    # A gap of 1 makes netem try every packet for reordering.
    gap = 1 if shape.reorder_pct else 0
    options = _netem_qopt.pack(0, _NETEM_PACKETS, _share(shape.loss_pct), gap, _share(shape.duplicate_pct), 0)
    options += attribute(_TCA_NETEM_LATENCY64, struct.pack("=q", round(shape.delay_ms * 1e6)))
    options += attribute(_TCA_NETEM_JITTER64, struct.pack("=q", round(shape.jitter_ms * 1e6)))
    if shape.reorder_pct:
        options += attribute(_TCA_NETEM_REORDER, struct.pack("=II", _share(shape.reorder_pct), 0))
    parts = (
        (shape.delay_ms, "ms"),
        (shape.jitter_ms, "ms jitter"),
        (shape.loss_pct, "% loss"),
        (shape.duplicate_pct, "% twice"),
        (shape.reorder_pct, "% reordered"),
    )
    words = ", ".join(f"{value:g} {unit}" for value, unit in parts if value)
    return Request(f"impair {iface} by netem ({words})", _qdisc(index, 0x10000, parent, b"netem", options))


def _share(percent: float) -> int:
    """A probability as netem has it, of 2**32 - 1."""
    return round(percent / 100 * _U32)


def tbf(iface: str, index: int, parent: int, rate_mbit: float, mtu: int) -> Request:
    """The message that limits the rate, counted in Ethernet frames without preamble and check sequence."""
    rate = round(rate_mbit * 1e6 / 8)
    burst = burst_bytes(rate_mbit, mtu)
    limit = max(burst + round(rate * QUEUE_S), 6 * (mtu + ETHERNET_BYTES))
    speed = _ratespec.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _U32))
    parameters = speed + _ratespec.pack(0, 0, 0, 0, 0, 0) + struct.pack("=III", limit, 0, 0)
    options = attribute(_TCA_TBF_PARMS, parameters) + attribute(_TCA_TBF_BURST, struct.pack("=I", burst))
    return Request(f"limit {iface} to {rate_mbit:g} Mbit/s", _qdisc(index, 0x20000, parent, b"tbf", options))


def burst_bytes(rate_mbit: float, mtu: int) -> int:
    """Bytes an idle link lets through at once: 2 ms of its rate, and no less than two frames."""
    return max(2 * (mtu + ETHERNET_BYTES), round(rate_mbit * 1e6 / 8 * _BURST_S))


def _qdisc(index: int, handle: int, parent: int, kind: bytes, options: bytes) -> bytes:
    body = _tcmsg.pack(0, index, handle, parent, 0)
    body += attribute(_TCA_KIND, kind + b"\0") + attribute(_TCA_OPTIONS | NLA_F_NESTED, options)
    return netlink.message(_RTM_NEWQDISC, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, body)
