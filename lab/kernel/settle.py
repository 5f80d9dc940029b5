"""Wait for what the kernel goes on doing after it has said yes.

Two things happen in kernel threads, mostly within a millisecond, and packets are lost until they have:

- the queue of a veth is switched on a moment after both ends came up (link watch; RFC 2863 state "up" follows it);
- an IPv6 address is received for only when its duplicate address detection, however empty, is over: that is when
  its route in the local table appears.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from lab.errors import KernelRefused
from lab.kernel.namespace import Namespace
from lab.kernel.netlink import OPERSTATE_UP

PATIENCE_S: Final = 15.0
"""Without any progress: while the kernel removes hundreds of namespaces, of a network before, all else waits."""
_PAUSE_S: Final = 0.0005
_LONGEST_PAUSE_S: Final = 0.020
"""Pauses grow to this.  Link watch may take a second, and each look costs system calls."""

_T = TypeVar("_T")


def links_carry(links: Mapping[Namespace, Sequence[tuple[str, int]]]) -> None:
    """Return when the interfaces, (name, index) by namespace, carry packets; KernelRefused when none does in 15 s."""

    def waiting(ns: Namespace, ifaces: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        states = ns.netlink.links(ifaces)
        return [(state.name, state.number) for state in states if state.operstate != OPERSTATE_UP]

    _wait(links, waiting, lambda link: f"bring up {link[0]}", "it carries no packets")


def addresses_answer(addresses: Mapping[Namespace, Sequence[str]]) -> None:
    """Return when packets to the addresses are received; KernelRefused when none becomes so in 15 s."""

    def waiting(ns: Namespace, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if not ns.netlink.is_local(text)]

    _wait(addresses, waiting, lambda address: f"use address {address}", "nothing is received for it")


def _wait(
    things: Mapping[Namespace, Sequence[_T]],
    waiting: Callable[[Namespace, Sequence[_T]], list[_T]],
    action: Callable[[_T], str],
    detail: str,
) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause_s = _PAUSE_S
    while things:
        left = {ns: rest for ns, these in things.items() if (rest := waiting(ns, these))}
        if left:
            if _count(left) < _count(things):
                deadline = time.monotonic() + PATIENCE_S
            elif time.monotonic() > deadline:
                ns, rest = next(iter(left.items()))
                raise KernelRefused(ns.name, action(rest[0]), 0, f"{detail} after {PATIENCE_S:g} s")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        things = left


def _count(things: Mapping[Namespace, Sequence[_T]]) -> int:
    return sum(len(these) for these in things.values())
