"""What a NAT was found to be, beside what it was asked to be.

A `Classification` is what a prober found out from outside (`lab.actors.nat_prober`), in the same words as
`NatBehaviour`; None where it could not tell.  `expected` is what it should find, None where it cannot tell these
NATs apart.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from lab.rules.nat_behaviour import Filtering, Hairpinning, Mapping, NatBehaviour, Pooling, Ports

TIMER_TOLERANCE_S: Final = 0.1
"""How far a timeout that was found may be from the one asked for: kernels count in ticks of 4 or 10 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The behaviour of one NAT, found or expected."""

    mapping: str | None = None
    """EIM, ADM or APDM (RFC 4787 section 4.1, RFC 5780 section 4.3)."""
    filtering: str | None = None
    """EIF, ADF or APDF (RFC 4787 section 5, RFC 5780 section 4.4)."""
    hairpinning: str | None = None
    """none, external or internal (RFC 4787 section 6)."""
    ports: str | None = None
    """preserve, random, sequential or block (RFC 4787 section 4.2)."""
    parity: bool | None = None
    """Whether a port that was changed stayed even or odd (RFC 4787 section 4.2.2)."""
    overloading: bool | None = None
    """Whether two inside hosts got one outside endpoint (RFC 4787 REQ-3)."""
    pooling: str | None = None
    """paired or arbitrary; None where every host had one address because there is no other."""
    outside: MappingABC[str, tuple[str, ...]] | None = None
    """The outside addresses that inside hosts were seen at, by inside address."""
    early_probe: str | None = None
    """What a packet from a peer, come before the inside host spoke to it, does to the host's mapping for that peer:
    it is kept, moved to another port, or blocked."""
    proto41_host: str | None = None
    """The inside address that protocol 41 from outside comes to, or "none"."""
    other_protocols: bool | None = None
    """Whether protocol 41 from inside goes out."""
    udp_timeout_s: float | None = None
    udp_stream_timeout_s: float | None = None
    refresh: str | None = None
    """outbound or both (RFC 4787 section 4.3)."""

    def to_json(self) -> dict[str, Any]:
        """Every field; the inverse is `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: MappingABC[str, Any]) -> Self:
        """The classification that a JSON object holds."""
        known = {field.name: value.get(field.name) for field in fields(cls)}
        if known["outside"] is not None:
            known["outside"] = {host: tuple(addresses) for host, addresses in known["outside"].items()}
        return cls(**known)


def expected(
    behaviour: NatBehaviour,
    *,
    outside: MappingABC[str, tuple[str, ...]],
    proto41_host: str | None = None,
    lasting: bool = False,
) -> Classification:
    """What a prober should find.

    `outside` has the outside addresses that each probed inside host may be seen at; `proto41_host` is an inside
    address.  `lasting`: the host whose mappings are timed has an outside address of its own that anyone may send to,
    so that its mappings do not end.
    """
    overloads = behaviour.ports is Ports.OVERLOAD
    preserves = behaviour.ports is Ports.PRESERVE or (overloads and behaviour.mapping is Mapping.ENDPOINT_INDEPENDENT)
    stays = preserves and behaviour.mapping is Mapping.ENDPOINT_INDEPENDENT
    shared = len(set(outside.values())) < len(outside)
    overloading: bool | None = False
    if overloads:  # random ports do meet, but not before anyone's eyes
        overloading = shared if preserves else None
    return Classification(
        mapping=behaviour.mapping.value,
        filtering=behaviour.filtering.value,
        hairpinning=behaviour.hairpinning.value,
        ports="preserve" if preserves else "random" if overloads else behaviour.ports.value,
        # Where a free port is kept, it takes two hosts at one address to see a port changed.
        parity=behaviour.parity if behaviour.ports is Ports.RANDOM or (preserves and shared) else None,
        overloading=overloading if len(outside) > 1 else None,
        pooling=_pooling(behaviour, outside),
        outside=outside,
        # With another port for every peer nobody could say that it was moved.
        early_probe=_early_probe(behaviour) if stays else None,
        proto41_host=proto41_host or "none",
        other_protocols=behaviour.other_protocols,
        udp_timeout_s=None if lasting else float(behaviour.udp_timeout_s),
        udp_stream_timeout_s=None if lasting else float(behaviour.udp_stream_timeout_s),
        refresh=None if lasting else behaviour.refresh.value,
    )


def _pooling(behaviour: NatBehaviour, outside: MappingABC[str, tuple[str, ...]]) -> str | None:
    """None where the hosts have no choice: there is one address, or each has its own."""
    if behaviour.pooling is Pooling.ARBITRARY:
        return behaviour.pooling.value if any(len(addresses) > 1 for addresses in outside.values()) else None
    return behaviour.pooling.value if behaviour.pool > 1 else None


def _early_probe(behaviour: NatBehaviour) -> str:
    """A box that took the packet for itself cannot give its port to a flow to the same peer.

    masquerade then looks for another port; a mapping that is written down has no other.
    """
    if not behaviour.input_open:
        return "kept"
    return "moved" if behaviour.ports is Ports.OVERLOAD else "blocked"


def differences(asked: Classification, found: Classification) -> dict[str, tuple[Any, Any]]:
    """(asked, found) of every property that both know and that is not as asked, by its name."""
    wrong = {}
    for field in fields(Classification):
        wanted, seen = getattr(asked, field.name), getattr(found, field.name)
        if wanted is None or seen is None:
            continue
        if field.name == "outside":
            same = all(set(addresses) <= set(wanted.get(host, ())) for host, addresses in seen.items())
        elif isinstance(wanted, float):
            same = abs(wanted - seen) <= TIMER_TOLERANCE_S
        else:
            same = wanted == seen
        if not same:
            wrong[field.name] = (wanted, seen)
    return wrong


def describe(name: str, value: Any) -> str:
    """A property's value for a person."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g} s"
        case dict():
            return ", ".join(f"{host} at {' or '.join(addresses)}" for host, addresses in value.items())
    long: dict[str, dict[str, str]] = {
        "mapping": {choice.value: choice.name for choice in Mapping},
        "filtering": {choice.value: choice.name for choice in Filtering},
        "hairpinning": {choice.value: f"{choice.name}_source" for choice in Hairpinning if choice.value != "none"},
    }
    words = long.get(name, {}).get(str(value))
    return f"{value} ({words.lower().replace('_', ' ')})" if words else str(value)
