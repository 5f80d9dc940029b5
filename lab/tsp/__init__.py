"""The Tunnel Setup Protocol (RFC 5572) without sockets, clocks or sleep.

`ClientSession` and `BrokerSession` turn bytes into events and calls into bytes.  The caller, the driver,
owns the socket and the clock and runs one loop:

    session.receive(data, now)      # bytes from the peer: one datagram (UDP) or any piece (TCP)
    session.next_event()            # what happened, until it says None
    session.to_send(now)            # list[bytes]: datagrams (UDP) or separate writes (TCP), due now
    session.timer()                 # when to call handle_timer, in the caller's seconds, or None
    session.handle_timer(now)

`now` is in seconds from any start and never goes back.  Randomness is an argument too, so that a run can be
repeated; outside a lab pass `random.SystemRandom()`.  Nothing in a datagram makes `receive` raise.
"""

from __future__ import annotations

from lab.tsp.broker import BrokerSession
from lab.tsp.client import ClientSession
from lab.tsp.config import BrokerConfig, ClientConfig
from lab.tsp.events import (
    Authenticated,
    BrokerEvent,
    ClientEvent,
    Closed,
    PhaseChanged,
    Redirected,
    SessionFailed,
    SessionRestarted,
    TunnelAccepted,
    TunnelDeleted,
    TunnelGone,
    TunnelReady,
    TunnelRejected,
    TunnelRequested,
)
from lab.tsp.header import FIRST_SEQUENCE, HEADER_LENGTH, Header, classify, format_header, parse_header
from lab.tsp.parameters import (
    CARRIED,
    PORT,
    Counters,
    Mechanism,
    Phase,
    Retransmission,
    Transport,
    TunnelParameters,
    TunnelRequest,
    TunnelType,
    decide_tunnel_type,
)
from lab.tsp.sasl import digest_ha1
from lab.tsp.states import BrokerState, ClientState
from lab.tsp.status import Status

__all__ = [
    "CARRIED",
    "FIRST_SEQUENCE",
    "HEADER_LENGTH",
    "PORT",
    "Authenticated",
    "BrokerConfig",
    "BrokerEvent",
    "BrokerSession",
    "BrokerState",
    "ClientConfig",
    "ClientEvent",
    "ClientSession",
    "ClientState",
    "Closed",
    "Counters",
    "Header",
    "Mechanism",
    "Phase",
    "PhaseChanged",
    "Redirected",
    "Retransmission",
    "SessionFailed",
    "SessionRestarted",
    "Status",
    "Transport",
    "TunnelAccepted",
    "TunnelDeleted",
    "TunnelGone",
    "TunnelParameters",
    "TunnelReady",
    "TunnelRejected",
    "TunnelRequest",
    "TunnelRequested",
    "TunnelType",
    "classify",
    "decide_tunnel_type",
    "digest_ha1",
    "format_header",
    "parse_header",
]
