"""What a client tells about one set-up: how it ended, why, and how long each phase took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Literal

from lab.errors import LabError, RemoteProtocolError, SetupTimeout, TunnelRefused

Outcome = Literal["ready", "refused", "timeout", "unreachable", "protocol_error"]


class Unreachable(LabError):
    """The network, not the broker, said no: an ICMP error, a TCP reset, no route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupReport:
    """One set-up.  Times are seconds on the event loop's clock; a phase that was not finished is absent."""

    outcome: Outcome
    transport: str
    """udp or tcp: what the outcome was reached over."""
    requested: str
    """The tunnel type asked for."""
    broker: str
    """IPv4 address and port."""
    type: str | None = None
    """The tunnel type got, v6v4 or v6udpv4; None without a tunnel."""
    mechanism: str | None = None
    """The SASL mechanism used, as far as it came to that."""
    code: int | None = None
    """The broker's status code when it refused (RFC 5572 appendix B)."""
    reason: str = ""
    """What the client was told, or found out, in words."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: connect, version, auth, create, accept, and first_packet (see `TunnelClient.connect`)."""
    total_s: float = 0.0
    """Seconds from the start to the tunnel being ready, or to knowing that it will not be."""
    retransmissions: int = 0
    round_trips: int = 0
    bytes_sent: int = 0
    """Signalling above UDP or TCP."""
    bytes_received: int = 0
    client_ipv6: IPv6Address | None = None
    server_ipv6: IPv6Address | None = None
    prefix: IPv6Network | None = None
    """The delegated prefix, if one was asked for."""
    keepalive_interval_s: int | None = None
    """As the broker decided."""
    lifetime_min: int | None = None
    local_port: int | None = None
    device: str | None = None
    data_plane: str = ""
    """How packets are carried: sit, tun or veth (see `lab.kernel.tun`)."""
    attempts: tuple[SetupReport, ...] = ()
    """Attempts before this one: over UDP when the transport was "auto", at brokers that sent us on."""

    @property
    def carries_data(self) -> bool:
        """Whether an echo came back through the tunnel before `connect` returned."""
        return "first_packet" in self.phases_s

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        value = asdict(self)
        for name in ("client_ipv6", "server_ipv6", "prefix"):
            value[name] = None if value[name] is None else str(value[name])
        value["phases_s"] = dict(self.phases_s)
        value["attempts"] = [attempt.to_json() for attempt in self.attempts]
        return value


def outcome_of(error: LabError) -> tuple[Outcome, int | None, str]:
    """Outcome, status code and reason that an error of a set-up stands for."""
    match error:
        case TunnelRefused():
            return "refused", error.code, error.reason
        case SetupTimeout():
            return "timeout", None, str(error)
        case Unreachable():
            return "unreachable", None, str(error)
        case RemoteProtocolError():
            return "protocol_error", None, str(error)
    raise error
