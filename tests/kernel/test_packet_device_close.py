"""A packet device can be closed at any time, again and again, and is gone at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from lab.kernel import links
from lab.kernel.namespace import Namespace
from lab.kernel.tun import Kind, PacketDevice

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("tun", marks=pytest.mark.needs("tun")),
        pytest.param("veth", marks=pytest.mark.needs("tun_fallback")),
    ],
)
def test_a_closed_device_is_gone_and_its_name_is_free(kind: Kind) -> None:
    with Namespace.create("laptop") as laptop:
        for _ in range(40):
            device = PacketDevice.open(laptop, "tsp0", 1280, kind=kind)
            assert links.exists(laptop, "tsp0")
            device.close()
            assert not links.exists(laptop, "tsp0")


@pytest.mark.needs("tun_fallback")
def test_a_slow_process_closes_a_veth_device_before_its_far_end_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with Namespace.create("laptop") as laptop:
        device = PacketDevice.open(laptop, "tsp0", 1280, kind="veth")
        do = laptop.netlink.do

        def do_late(requests: Sequence[Any]) -> Any:
            for _ in range(50):  # as long as it takes the kernel to remove a pocket that nothing holds any more
                if not links.exists(laptop, "tsp0"):
                    break
                time.sleep(0.01)
            return do(requests)

        monkeypatch.setattr(laptop.netlink, "do", do_late)
        device.close()
        assert not links.exists(laptop, "tsp0")
