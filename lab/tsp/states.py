"""The state tables of both ends."""

from __future__ import annotations

from enum import Enum, auto


class ClientState(Enum):
    """What the client waits for."""

    START = auto()
    WAIT_CAPABILITY = auto()
    WAIT_PLAIN_GO = auto()
    WAIT_CHALLENGE = auto()
    WAIT_RSPAUTH = auto()
    WAIT_AUTHENTICATED = auto()
    WAIT_OFFER = auto()
    WAIT_CONFIRMATION = auto()
    READY = auto()
    WAIT_DELETED = auto()
    REDIRECTED = auto()
    FAILED = auto()
    ENDED = auto()


class BrokerState(Enum):
    """What the broker waits for."""

    START = auto()
    WAIT_AUTHENTICATE = auto()
    WAIT_PLAIN = auto()
    WAIT_DIGEST = auto()
    WAIT_CREATE = auto()
    DECIDING = auto()
    OFFERED = auto()
    CONFIRMING = auto()
    UP = auto()
    CLOSED = auto()
