"""NATs whose rulesets are kept word for word, and a place for them to stand."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from lab.rules.nat import nat_ruleset
from lab.rules.nat_behaviour import NatBehaviour
from lab.rules.nat_presets import PRESETS
from lab.rules.nat_udp import NatPlace

HOSTS: Final = tuple(IPv4Address(f"192.168.0.{number}") for number in (2, 3))
ADDRESSES: Final = tuple(IPv4Address(f"192.0.2.{number}") for number in (2, 3, 4))

NATS: Final[dict[str, dict[str, Any]]] = {
    **{
        f"{mapping}_{filtering}": {"mapping": mapping, "filtering": filtering}
        for mapping in ("EIM", "ADM", "APDM")
        for filtering in ("EIF", "ADF", "APDF")
    },
    "APDM_preserve": {"mapping": "APDM", "ports": "preserve"},
    "hairpin_external": {"hairpinning": "external"},
    "hairpin_internal": {"hairpinning": "internal"},
    "ports_random": {"ports": "random"},
    "parity": {"parity": True},
    "parity_random_pool": {"parity": True, "ports": "random", "pool": 2},
    "ports_block": {"ports": "block", "block_size": 32},
    "ports_block_pool": {"ports": "block", "block_size": 1024, "pool": 2},
    "ports_overload": {"ports": "overload"},
    "ports_overload_APDM": {"ports": "overload", "mapping": "APDM"},
    "pool_paired": {"pool": 2},
    "pool_arbitrary": {"pool": 2, "pooling": "arbitrary"},
    "refresh_outbound": {"refresh": "outbound"},
    "refresh_outbound_block": {"refresh": "outbound", "ports": "block", "block_size": 32, "filtering": "ADF"},
    "refresh_outbound_parity": {"refresh": "outbound", "parity": True},
    "refresh_outbound_sequential": {"refresh": "outbound", "ports": "sequential"},
    "one_timeout": {"udp_timeout_s": 60, "udp_stream_timeout_s": 60},
    "one_to_one_EIF": {"one_to_one": ("ann",), "filtering": "EIF"},
    "proto41_host": {"proto41_host": "ann"},
    "input_open": {"input_open": True},
    "input_open_overload": {"input_open": True, "ports": "overload"},
    "ports_sequential": {"ports": "sequential"},
    **{f"preset_{name}": dict(preset.options) for name, preset in PRESETS.items()},
}
"""Options of `NatBehaviour` by the name of the file in tests/data/nat."""


def place_of(behaviour: NatBehaviour) -> NatPlace:
    """Two inside hosts, ann and bob, on one link, and as many outside addresses as it takes."""
    alone = HOSTS if behaviour.one_to_one is True else HOSTS[: len(behaviour.one_to_one or ())]
    return NatPlace(
        outside="wan0",
        inside=("lan0",),
        addresses=ADDRESSES[: behaviour.pool],
        hosts=HOSTS,
        networks=(IPv4Network("192.168.0.0/24"),),
        own=tuple(zip(alone, ADDRESSES[behaviour.pool :], strict=False)),
        proto41_host=HOSTS[0] if behaviour.proto41_host else None,
    )


def text_of(**options: Any) -> str:
    """The ruleset of a NAT with these options, at that place."""
    behaviour = NatBehaviour.make(options)
    return nat_ruleset(behaviour, place_of(behaviour))
