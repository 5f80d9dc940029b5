"""The state tables of both ends of a TSP session, and a drawing of them.

Rule 1: a session changes its state only through `CLIENT` or `BROKER`.  A signal that has no entry in the row
of the present state is an error: of the peer, if a message of its caused it, of our own caller otherwise.
Rule 2: a signal is what a message *turned out to be* after all checks.  "CREDENTIALS" means right credentials;
wrong ones are "FAILURE".  So a row never asks a question, and the tests can walk every cell.

The tables do not know the transport.  Where one carries a message that the other lets fall away, the session
gives the signal itself, at once:

    PLAIN, first line    over UDP answered by an empty datagram, over TCP by nothing       GO
    DIGEST-MD5, the end  over UDP the client polls for "200 Success", over TCP it comes    POLL
    accept               over UDP answered by an empty datagram, over TCP by nothing       CONFIRMED

A client goes through its table once.  A broker's session over UDP may begin again at any time, since all it
knows its client by is an address and a port (RFC 5572 section 4.5.2): RESTART has an entry in every row but the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, TypeVar

from lab.tsp.parameters import Phase


class ClientState(Enum):
    """Where the client is; WAIT_ names the message it waits for."""

    START = auto()
    WAIT_CAPABILITY = auto()
    WAIT_GO = auto()
    WAIT_CHALLENGE = auto()
    WAIT_RSPAUTH = auto()
    WAIT_AUTHENTICATED = auto()
    WAIT_OFFER = auto()
    WAIT_CONFIRMATION = auto()
    READY = auto()
    """The tunnel may be used."""
    WAIT_DELETED = auto()
    DELETED = auto()
    REDIRECTED = auto()
    FAILED = auto()


class ClientSignal(Enum):
    """What happens to a client: START, the mechanism names, REJECTED_OFFER and DELETE are its own doing."""

    START = auto()
    ANONYMOUS = auto()
    PLAIN = auto()
    DIGEST_MD5 = auto()
    GO = auto()
    CHALLENGE = auto()
    RSPAUTH = auto()
    AUTHENTICATED = auto()
    OFFER = auto()
    CONFIRMED = auto()
    DELETE = auto()
    DELETED = auto()
    REDIRECTION = auto()
    FAILURE = auto()


class BrokerState(Enum):
    """Where a broker's session is; DECIDING and CONFIRMING wait for the broker itself, the rest for the client."""

    START = auto()
    WAIT_AUTHENTICATE = auto()
    WAIT_PLAIN = auto()
    WAIT_DIGEST = auto()
    WAIT_POLL = auto()
    WAIT_CREATE = auto()
    DECIDING = auto()
    OFFERED = auto()
    CONFIRMING = auto()
    UP = auto()
    CLOSED = auto()


class BrokerSignal(Enum):
    """What happens to a broker's session: OFFER, REFUSE, CONFIRM, CLOSE and REDIRECTION are its own doing."""

    RESTART = auto()
    VERSION = auto()
    ANONYMOUS = auto()
    PLAIN = auto()
    DIGEST_MD5 = auto()
    CREDENTIALS = auto()
    POLL = auto()
    CREATE = auto()
    OFFER = auto()
    REFUSE = auto()
    ACCEPT = auto()
    REJECT = auto()
    INFO = auto()
    CONFIRM = auto()
    DELETE = auto()
    REDIRECTION = auto()
    FAILURE = auto()
    CLOSE = auto()


_C, _CS = ClientState, ClientSignal
_ENDS: Final = {_CS.REDIRECTION: _C.REDIRECTED, _CS.FAILURE: _C.FAILED}

CLIENT: Final[Mapping[ClientState, Mapping[ClientSignal, ClientState]]] = {
    _C.START: {_CS.START: _C.WAIT_CAPABILITY},
    _C.WAIT_CAPABILITY: {
        _CS.ANONYMOUS: _C.WAIT_AUTHENTICATED,
        _CS.PLAIN: _C.WAIT_GO,
        _CS.DIGEST_MD5: _C.WAIT_CHALLENGE,
        **_ENDS,
    },
    _C.WAIT_GO: {_CS.GO: _C.WAIT_AUTHENTICATED, **_ENDS},
    _C.WAIT_CHALLENGE: {_CS.CHALLENGE: _C.WAIT_RSPAUTH, **_ENDS},
    _C.WAIT_RSPAUTH: {_CS.RSPAUTH: _C.WAIT_AUTHENTICATED, **_ENDS},
    _C.WAIT_AUTHENTICATED: {_CS.AUTHENTICATED: _C.WAIT_OFFER, **_ENDS},
    _C.WAIT_OFFER: {_CS.OFFER: _C.WAIT_CONFIRMATION, **_ENDS},
    _C.WAIT_CONFIRMATION: {_CS.CONFIRMED: _C.READY, _CS.FAILURE: _C.FAILED},
    _C.READY: {_CS.DELETE: _C.WAIT_DELETED, _CS.FAILURE: _C.FAILED},
    _C.WAIT_DELETED: {_CS.DELETED: _C.DELETED, _CS.FAILURE: _C.FAILED},
    _C.DELETED: {},
    _C.REDIRECTED: {},
    _C.FAILED: {},
}

_B, _BS = BrokerState, BrokerSignal
_AGAIN: Final = {_BS.RESTART: _B.START}
_CLOSING: Final = {_BS.CLOSE: _B.CLOSED}
_OVER: Final = {_BS.FAILURE: _B.CLOSED, **_CLOSING}
_ELSEWHERE: Final = {_BS.REDIRECTION: _B.CLOSED}

BROKER: Final[Mapping[BrokerState, Mapping[BrokerSignal, BrokerState]]] = {
    _B.START: {_BS.VERSION: _B.WAIT_AUTHENTICATE, **_ELSEWHERE, **_OVER},
    _B.WAIT_AUTHENTICATE: {
        _BS.ANONYMOUS: _B.WAIT_CREATE,
        _BS.PLAIN: _B.WAIT_PLAIN,
        _BS.DIGEST_MD5: _B.WAIT_DIGEST,
        **_AGAIN,
        **_ELSEWHERE,
        **_OVER,
    },
    _B.WAIT_PLAIN: {_BS.CREDENTIALS: _B.WAIT_CREATE, **_AGAIN, **_ELSEWHERE, **_OVER},
    _B.WAIT_DIGEST: {_BS.CREDENTIALS: _B.WAIT_POLL, **_AGAIN, **_OVER},
    _B.WAIT_POLL: {_BS.POLL: _B.WAIT_CREATE, _BS.CREATE: _B.DECIDING, **_AGAIN, **_ELSEWHERE, **_OVER},
    _B.WAIT_CREATE: {_BS.CREATE: _B.DECIDING, **_AGAIN, **_ELSEWHERE, **_OVER},
    # While the broker itself has the next word, nothing from the client counts but a new beginning.
    _B.DECIDING: {_BS.OFFER: _B.OFFERED, _BS.REFUSE: _B.CLOSED, **_AGAIN, **_CLOSING},
    _B.OFFERED: {
        _BS.ACCEPT: _B.CONFIRMING,
        _BS.REJECT: _B.CLOSED,
        _BS.INFO: _B.OFFERED,
        _BS.CREATE: _B.DECIDING,
        _BS.DELETE: _B.CLOSED,
        **_AGAIN,
        **_OVER,
    },
    _B.CONFIRMING: {_BS.CONFIRM: _B.UP, _BS.REFUSE: _B.CLOSED, **_AGAIN, **_CLOSING},
    # Nothing wrong that a client sends ends a tunnel that is up: anyone can send from its address.
    _B.UP: {
        _BS.ACCEPT: _B.UP,
        _BS.INFO: _B.UP,
        _BS.CREATE: _B.DECIDING,
        _BS.DELETE: _B.CLOSED,
        **_AGAIN,
        **_CLOSING,
    },
    _B.CLOSED: {**_AGAIN},
}

CLIENT_PHASE: Final[Mapping[ClientState, Phase]] = {
    _C.START: Phase.VERSION,
    _C.WAIT_CAPABILITY: Phase.VERSION,
    _C.WAIT_GO: Phase.AUTH,
    _C.WAIT_CHALLENGE: Phase.AUTH,
    _C.WAIT_RSPAUTH: Phase.AUTH,
    _C.WAIT_AUTHENTICATED: Phase.AUTH,
    _C.WAIT_OFFER: Phase.CREATE,
    _C.WAIT_CONFIRMATION: Phase.ACCEPT,
    _C.READY: Phase.ACCEPT,
    _C.WAIT_DELETED: Phase.ACCEPT,
}
"""The phase of each state a client can fail in."""

BROKER_PHASE: Final[Mapping[BrokerState, Phase]] = {
    _B.START: Phase.VERSION,
    _B.WAIT_AUTHENTICATE: Phase.AUTH,
    _B.WAIT_PLAIN: Phase.AUTH,
    _B.WAIT_DIGEST: Phase.AUTH,
    _B.WAIT_POLL: Phase.AUTH,
    _B.WAIT_CREATE: Phase.CREATE,
    _B.DECIDING: Phase.CREATE,
    _B.OFFERED: Phase.ACCEPT,
    _B.CONFIRMING: Phase.ACCEPT,
    _B.UP: Phase.ACCEPT,
}
"""The phase of each state a broker's session can fail in."""

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def drawing(table: Mapping[S, Mapping[E, S]]) -> str:
    """A state table as text, one line an arrow, in the order of the table."""
    lines: list[str] = []
    for state, row in table.items():
        if not row:
            lines.append(f"{state.name:<18} (the end)")
        lines += [f"{state.name:<18} --{signal.name}--> {after.name}" for signal, after in row.items()]
    return "\n".join(lines) + "\n"
