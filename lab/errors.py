"""Every error the lab raises on purpose, under one base.

"My fault" and "their fault" are kept apart: `LocalProtocolError` is a call of ours that makes no sense,
`RemoteProtocolError` is something a peer sent.  Data sits in attributes; `str()` is a sentence for a person
that names what is wrong and, where there is one, the way out.  OS errors are translated once, at the edge.
"""

from __future__ import annotations

import os


class LabError(Exception):
    """Base of everything lab raises on purpose."""


class LocalProtocolError(LabError):
    """We tried to send something illegal in this state."""


class RemoteProtocolError(LabError):
    """The peer sent something malformed or out of turn."""


class SetupTimeout(LabError):
    """The peer did not answer: `.transmissions` were sent in `.waited_s` seconds."""

    def __init__(self, message: str, *, transmissions: int, waited_s: float) -> None:
        super().__init__(message)
        self.transmissions = transmissions
        self.waited_s = waited_s


class TunnelRefused(LabError):
    """The broker answered with an error status (RFC 5572 appendix B)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the broker refused the tunnel: {code} {reason}")
        self.code = code
        self.reason = reason


class TopologyError(LabError):
    """The description makes no sense.  `.node` is the node at fault, or None."""

    def __init__(self, message: str, *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class MissingFeature(LabError):
    """This machine lacks `.feature`; `.instead` says what to use or install."""

    def __init__(self, feature: str, *, instead: str) -> None:
        super().__init__(f"this machine lacks {feature}; {instead}")
        self.feature = feature
        self.instead = instead


class KernelRefused(LabError):
    """A kernel call failed: `.action` on `.node`, with `.errno` (0 when a tool, not a system call, said no)."""

    def __init__(self, node: str, action: str, errno: int = 0, detail: str = "") -> None:
        why = detail or (os.strerror(errno) if errno else "refused")
        super().__init__(f"{node}: {action}: {why}")
        self.node = node
        self.action = action
        self.errno = errno


class ImpairmentError(LabError):
    """A link does not do what was asked of it: `.requested` and `.achieved`, by parameter name."""

    def __init__(self, link: str, requested: dict[str, float], achieved: dict[str, float]) -> None:
        super().__init__(f"link {link}: asked for {requested}, measured {achieved}")
        self.link = link
        self.requested = requested
        self.achieved = achieved


class NatMismatch(LabError):
    """A NAT is not what was asked for: `.wrong` has (asked, found) by property."""

    def __init__(self, node: str, wrong: dict[str, tuple[object, object]]) -> None:
        told = ", ".join(f"{name} is {found}, not {asked}" for name, (asked, found) in wrong.items())
        super().__init__(f"{node} is not the NAT that was asked for: {told}")
        self.node = node
        self.wrong = {name: list(pair) for name, pair in wrong.items()}


class UsageError(LabError):
    """A person asked for something that does not exist or does not fit; the text says what does."""


class RunFailed(LabError):
    """The run ended without a result; `.folder` holds what was recorded so far."""

    def __init__(self, message: str, *, folder: str) -> None:
        super().__init__(message)
        self.folder = folder
