"""What was seen of a probe, as data: the kernel's side writes it, the story is told from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from lab.explain.probe import Probe


@dataclass(frozen=True, slots=True)
class Box:
    """A node as far as a story needs it."""

    name: str
    kind: str
    peers: Mapping[str, str]
    """The neighbour by interface."""
    addresses: tuple[str, ...] = ()
    """Its own, without prefix lengths."""
    networks: tuple[str, ...] = ()
    """The prefixes of its links."""
    policy: str = ""
    """A firewall's."""
    behaviour: str = ""
    """A NAT's mapping and filtering, as a person would say them."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A packet on an interface."""

    at_s: float
    """For people: packets of one node are kept in their order, which these times may not be in."""
    node: str
    iface: str
    outgoing: bool
    packet: bytes
    """From the IP header on."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was collected about one probe."""

    probe: Probe
    boxes: tuple[Box, ...]
    sightings: tuple[Sighting, ...] = ()
    traces: Mapping[str, str] = field(default_factory=dict)
    """The text of `nft monitor trace`, by node; nodes without rules are absent."""
    flows: Mapping[str, str] = field(default_factory=dict)
    """The text of /proc/net/nf_conntrack after the probe, by node; nodes that track nothing are absent."""
    send_error: str = ""
    """Why the sender's own kernel did not take the packet."""

    def box(self, name: str) -> Box:
        """The box called `name`; KeyError if there is none."""
        for box in self.boxes:
            if box.name == name:
                return box
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` is the inverse."""
        return {
            "probe": self.probe.to_json(),
            "boxes": [asdict(box) for box in self.boxes],
            "sightings": [{**asdict(seen), "packet": seen.packet.hex()} for seen in self.sightings],
            "traces": dict(self.traces),
            "flows": dict(self.flows),
            "send_error": self.send_error,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(
            probe=Probe.from_json(value["probe"]),
            boxes=tuple(Box(**{**box, "addresses": tuple(box["addresses"])}) for box in value["boxes"]),
            sightings=tuple(
                Sighting(**{**seen, "packet": bytes.fromhex(seen["packet"])}) for seen in value["sightings"]
            ),
            traces=value["traces"],
            flows=value["flows"],
            send_error=value["send_error"],
        )
