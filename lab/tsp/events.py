"""What a session tells its driver, in the order in which it happened.

`next_event()` gives one at a time.  Fields named `at` are the `now` of the call that caused the event.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.errors import LabError
from lab.tsp.parameters import Mechanism, Phase, TunnelParameters, TunnelRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChanged:
    """Client: `phase` began; None: the last one ended and the tunnel may be used."""

    phase: Phase | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelReady:
    """Client: the broker has answered the accept message (over TCP: the accept message is on its way)."""

    tunnel: TunnelParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelGone:
    """Client: the broker has confirmed the delete message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirected:
    """Client: the broker sends us to others, best first as it listed them: addresses or names (RFC 5572 4.7.4)."""

    brokers: tuple[str, ...]
    code: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFailed:
    """Either end: the session is over.  The error says why, `phase` where."""

    error: LabError
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """Broker: who the client is; None: anonymous."""

    user: str | None
    mechanism: Mechanism


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRequested:
    """Broker: answer with `offer` or `refuse`."""

    request: TunnelRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelAccepted:
    """Broker: the client took the offer.  Bring the tunnel up, then call `confirm` (or `refuse`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRejected:
    """Broker: the client did not want the offer; its addresses are free again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelDeleted:
    """Broker: the client asked for its tunnel to be taken down; the answer is already on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRestarted:
    """Broker: the client began again on the same address and port, or asked for another tunnel.

    Take down what this session had offered or brought up before (RFC 5572 section 4.5.2).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Broker: forget this session.  Nothing is left to send and no repeat needs an answer any more.

    It says nothing about the tunnel: one that was confirmed lives on when its TCP connection closes.
    """

    reason: str


ClientEvent = PhaseChanged | TunnelReady | TunnelGone | Redirected | SessionFailed
BrokerEvent = (
    Authenticated
    | TunnelRequested
    | TunnelAccepted
    | TunnelRejected
    | TunnelDeleted
    | SessionRestarted
    | SessionFailed
    | Closed
)
