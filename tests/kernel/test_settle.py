"""Waiting for the kernel ends with an error that names what does not come, and not while something still comes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lab.errors import KernelRefused
from lab.kernel import settle
from lab.kernel.namespace import Namespace

pytestmark = pytest.mark.kernel


def test_an_address_that_nobody_has_is_named_when_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "PATIENCE_S", 0.1)
    message = "laptop: use address 2001:db8::1/64: nothing is received for it"
    with Namespace.create("laptop") as ns, pytest.raises(KernelRefused, match=message):
        settle.addresses_answer({ns: ["2001:db8::1/64"]})


def test_patience_begins_anew_with_each_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "PATIENCE_S", -1.0)  # it is over at any look that finds nothing new
    left = list(range(5))

    def waiting(ns: Namespace, these: Sequence[int]) -> list[int]:
        left.pop()
        return list(left)

    with Namespace.create("laptop") as ns:
        settle._wait({ns: tuple(left)}, waiting, lambda number: f"wait for {number}", "it does not come")
    assert left == []
