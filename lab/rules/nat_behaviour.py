"""What kind of NAT a box is: its behaviour as data, in the words of RFC 4787.

Mapping, filtering, refreshing and hairpinning are about UDP, as in RFC 4787.  Every field has the value of an
ordinary Linux box behaving as well as it can; `lab.rules.nat` turns all of it into nftables text, and
`lab.rules.nat_presets` has the behaviours of real kinds of boxes by name.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, fields
from difflib import get_close_matches
from enum import Enum
from typing import Any, Final, Self


class Mapping(Enum):
    """How an inside endpoint gets its outside endpoint (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "EIM"
    ADDRESS_DEPENDENT = "ADM"
    ADDRESS_AND_PORT_DEPENDENT = "APDM"


class Filtering(Enum):
    """Which packets from outside a mapping lets in (RFC 4787 section 5)."""

    ENDPOINT_INDEPENDENT = "EIF"
    ADDRESS_DEPENDENT = "ADF"
    ADDRESS_AND_PORT_DEPENDENT = "APDF"


class Hairpinning(Enum):
    """What an inside host that sends to another's outside endpoint is to that other (RFC 4787 section 6)."""

    NONE = "none"
    EXTERNAL = "external"
    """It arrives, from the sender's outside address and port, as REQ-9 demands."""
    INTERNAL = "internal"
    """It arrives from the sender's inside address and port, which confuses most programs."""


class Ports(Enum):
    """How the outside port is chosen (RFC 4787 section 4.2)."""

    PRESERVE = "preserve"
    """The inside port where nobody else has it, else another (4.2.1)."""
    RANDOM = "random"
    """Any from 1024 up (RFC 6056)."""
    SEQUENTIAL = "sequential"
    """The next one of a range, so that a flow's neighbours can be guessed."""
    BLOCK = "block"
    """One of a block that belongs to this inside host alone (RFC 7422): a log need not name every flow."""
    OVERLOAD = "overload"
    """Shared by inside hosts while their peers differ, as Linux's masquerade does and REQ-3 forbids: a fault to
    study."""


class Pooling(Enum):
    """How an outside address is chosen where there are several (RFC 4787 section 4.1)."""

    PAIRED = "paired"
    """All of an inside host's flows have one (REQ-2)."""
    ARBITRARY = "arbitrary"
    """Each mapping has the next one."""


class Refresh(Enum):
    """Which packets keep a mapping alive (RFC 4787 section 4.3)."""

    OUTBOUND = "outbound"
    """Only those from inside (REQ-6)."""
    BOTH = "both"
    """Those from outside too, as Linux has it: who is outside can keep a mapping alive for good (REQ-6 a)."""


FIRST_PORT: Final = 1024
"""The lowest outside port given out."""
_MOST_ADDRESSES: Final = 64
_SMALLEST_BLOCK: Final = 32


class BehaviourError(ValueError):
    """A behaviour that makes no sense or cannot be built; the text says which and what could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatBehaviour:
    """One kind of NAT.  BehaviourError when its parts do not go together."""

    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    hairpinning: Hairpinning = Hairpinning.NONE
    ports: Ports = Ports.PRESERVE
    """`make` takes RANDOM where the mapping depends on the peer: "symmetric" NATs usually do."""
    parity: bool = False
    """Whether a port that has to be another one stays even or odd (RFC 4787 section 4.2.2, REQ-4): RTP once put its
    control channel on the odd port after an even one.  With ports=preserve and ports=random."""
    block_size: int = 1024
    """Ports of each inside host, with ports=block; 32 at least, which finding out about the NAT takes."""
    pool: int = 1
    """Outside addresses that inside hosts share."""
    pooling: Pooling = Pooling.PAIRED
    one_to_one: bool | tuple[str, ...] = False
    """Inside hosts with an outside address of their own, by name, or True for all of them."""
    proto41_host: str | None = None
    """The inside host that gets every IPv6-in-IPv4 packet (protocol 41) from outside ("DMZ host")."""
    other_protocols: bool = True
    """Whether protocols without ports (6in4 is one) are translated at all; False: only UDP, TCP and ICMP."""
    udp_timeout_s: int = 30
    """How long a UDP mapping lives after its last packet."""
    udp_stream_timeout_s: int = 120
    """The same once packets went both ways for more than two seconds."""
    refresh: Refresh = Refresh.BOTH
    input_open: bool = False
    """A fault to study: the box takes packets from outside for itself, and remembers them as flows of its own."""

    def __post_init__(self) -> None:
        _whole(self, "block_size", _SMALLEST_BLOCK, 65536 - FIRST_PORT)
        _whole(self, "pool", 1, _MOST_ADDRESSES)
        _whole(self, "udp_timeout_s", 1, 86400)
        _whole(self, "udp_stream_timeout_s", 1, 86400)
        if self.udp_stream_timeout_s < self.udp_timeout_s:
            raise BehaviourError(
                f"udp_stream_timeout_s={self.udp_stream_timeout_s} is less than "
                f"udp_timeout_s={self.udp_timeout_s}; a flow in use does not die sooner than one just begun"
            )
        if self.ports is Ports.OVERLOAD:
            self._check_overload()
        if self.parity and self.ports not in (Ports.PRESERVE, Ports.RANDOM):
            raise BehaviourError(
                f"ports={self.ports.value} takes ports as they come; parity needs ports=preserve or ports=random"
            )
        if self.ports is Ports.BLOCK and self.pooling is Pooling.ARBITRARY and self.pool > 1:
            raise BehaviourError("ports=block gives a host ports of one address; it needs pooling=paired")
        if self.one_to_one is True and self.pool > 1:
            raise BehaviourError("pool has no users where every inside host has an address of its own (one_to_one)")
        if self.one_to_one and self.ports is Ports.BLOCK:
            raise BehaviourError("ports=block is for hosts that share an address; one_to_one gives each its own")

    def _check_overload(self) -> None:
        """Overloading is what Linux's connection tracking does alone: what needs to know who has a port is out."""
        for name, allowed in (
            ("mapping", (Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)),
            ("filtering", (Filtering.ADDRESS_AND_PORT_DEPENDENT,)),
            ("hairpinning", (Hairpinning.NONE,)),
            ("refresh", (Refresh.BOTH,)),
        ):
            if getattr(self, name) not in allowed:
                known = " or ".join(choice.value for choice in allowed)
                raise BehaviourError(
                    f"ports=overload cannot have {name}={getattr(self, name).value}: several hosts share a port, so "
                    f"nothing says whose it is; use {name}={known}, or another choice of ports"
                )
        if self.pool > 1 and self.pooling is Pooling.ARBITRARY:
            raise BehaviourError("ports=overload keeps no mappings, so pooling=arbitrary would change it every flow")

    @classmethod
    def make(cls, options: MappingABC[str, Any], base: MappingABC[str, Any] | None = None) -> Self:
        """A behaviour from `options`, values or the texts of values, over those of `base`.

        BehaviourError for a name or a value that does not exist, with what there is.
        """
        known = {field.name: field for field in fields(cls)}
        values = {}
        for name, value in {**(base or {}), **options}.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                raise BehaviourError(f"a NAT has no option {name!r}; {hint}")
            values[name] = _value(name, type(known[name].default), value)
        if values.get("mapping", Mapping.ENDPOINT_INDEPENDENT) is not Mapping.ENDPOINT_INDEPENDENT:
            values.setdefault("ports", Ports.RANDOM)
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON values; `make` is the inverse."""
        found = {}
        for field in fields(self):
            value = getattr(self, field.name)
            found[field.name] = value.value if isinstance(value, Enum) else value
            if isinstance(value, tuple):
                found[field.name] = list(value)
        return found


def _whole(behaviour: NatBehaviour, name: str, lowest: int, highest: int) -> None:
    value = getattr(behaviour, name)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise BehaviourError(f"{name}={value!r} makes no sense; give a whole number from {lowest} to {highest}")


_YES_NO: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _value(name: str, kind: type, value: Any) -> Any:
    """`value`, or the value it is the text of, as a field whose default is of type `kind` takes it."""
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            choices = ", ".join(f"{choice.value} ({choice.name.lower().replace('_', ' ')})" for choice in kind)
            raise BehaviourError(f"there is no {name} {value!r}; choose one of {choices}") from None
    if name == "proto41_host":
        return None if value in (None, "", "none") else _host(name, value)
    if name == "one_to_one" and not isinstance(value, bool):
        if isinstance(value, str) and value.lower() in _YES_NO:
            return _YES_NO[value.lower()]
        hosts = value.split(",") if isinstance(value, str) else value
        try:
            return tuple(dict.fromkeys(_host(name, host) for host in hosts))
        except TypeError:
            raise BehaviourError(f"{name}={value!r} makes no sense; give names of inside hosts, or True") from None
    if kind is bool:
        found = value if isinstance(value, bool) else _YES_NO.get(str(value).lower())
        if found is None:
            raise BehaviourError(f"{name}={value!r} makes no sense; give True or False")
        return found
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    return value


def _host(name: str, value: Any) -> str:
    host = getattr(value, "name", value)
    if not isinstance(host, str) or not host:
        raise BehaviourError(f"{name}={value!r} makes no sense; give the name of an inside host")
    return host
