"""What a person may choose about a session, for either end.  Passwords do not show in a repr."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from lab.tsp.parameters import CARRIED, Mechanism, Phase, Retransmission, TunnelType


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """One client's wishes for one session."""

    client_address: IPv4Address
    """The client's own IPv4 address as it knows it; the broker finds a NAT by it (RFC 5572 section 5.4)."""
    tunnel: TunnelType = TunnelType.V6ANYV4
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    mechanisms: tuple[Mechanism, ...] | None = None
    """In order of preference.  None: ANONYMOUS without a user, else DIGEST-MD5, then PLAIN."""
    server_name: str = "broker"
    """The host in DIGEST-MD5's digest-uri, `tsp/<server_name>` (RFC 2831 section 2.1.2)."""
    prefix_length: int | None = None
    """Ask for a prefix of this length, that is to be a router (RFC 5572 section 5.2); None: a host."""
    keepalive_interval_s: int | None = 30
    """Propose this keepalive interval in seconds; None: propose none.  The broker decides."""
    version: str = "2.0.0"
    retransmission: Retransmission = field(default_factory=Retransmission)
    reply_timeout_s: float = 30.0
    """Over TCP, where nothing is resent: seconds to wait for each answer."""

    def __post_init__(self) -> None:
        chosen = self.chosen_mechanisms()
        if not chosen:
            raise ValueError("at least one mechanism is needed")
        if set(chosen) & {Mechanism.PLAIN, Mechanism.DIGEST_MD5} and (self.user is None or self.password is None):
            raise ValueError("PLAIN and DIGEST-MD5 need a user and a password")
        if self.user == "" or "\0" in f"{self.user}{self.password}":
            raise ValueError("a user is not empty, and neither user nor password holds a NUL")
        for text in (self.version, self.server_name):
            if not text or any(c in '"\\' or not c.isprintable() or not c.isascii() for c in text):
                raise ValueError(f"{text!r} cannot be sent as a version or a server name")
        if self.prefix_length is not None and not 1 <= self.prefix_length <= 128:
            raise ValueError("a prefix length is 1 to 128")
        if self.keepalive_interval_s is not None and not 1 <= self.keepalive_interval_s <= 86400:
            raise ValueError("a keepalive interval is 1 s to a day (86400)")

    def chosen_mechanisms(self) -> tuple[Mechanism, ...]:
        """The mechanisms this client will use, best first."""
        if self.mechanisms is not None:
            return self.mechanisms
        if self.user is None:
            return (Mechanism.ANONYMOUS,)
        return (Mechanism.DIGEST_MD5, Mechanism.PLAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What one broker offers, the same for all its sessions."""

    name: str = "broker"
    realm: str = "lab"
    """The DIGEST-MD5 realm; stored passwords are MD5(user:realm:password), so it cannot change later."""
    tunnel_types: tuple[TunnelType, ...] = CARRIED
    mechanisms: tuple[Mechanism, ...] = (Mechanism.ANONYMOUS, Mechanism.PLAIN, Mechanism.DIGEST_MD5)
    versions: tuple[str, ...] = ("2.0",)
    """Accepted client versions, each with anything below it: "2.0" takes 2.0.0, 2.0.1, 2.0.2."""
    redirect_to: tuple[str, ...] = ()
    """Addresses or names of other brokers; when given, every client is sent to them (RFC 5572 section 4.7.4)."""
    redirect_phase: Phase = Phase.VERSION
    """Where the redirection is told: VERSION, AUTH (after ANONYMOUS, instead of success) or CREATE."""
    idle_timeout_s: float = 130.0
    """A set-up in which nothing arrives for so long is given up, in seconds.

    Longer than a client goes on sending into a void: 66 s (gogoc), 121 s (`Retransmission`).
    """
    linger_s: float = 35.0
    """How long a finished UDP session still answers repeats, in seconds: more than any client's resend interval."""
    restart_after_s: float = 10.0
    """A repeated VERSION this long after the last new request is a client that began again, not an old copy."""
    digest_pause_s: float = 0.3
    """Seconds between the two answers of DIGEST-MD5 over TCP, for clients that would read them as one."""

    def __post_init__(self) -> None:
        if not self.tunnel_types or not set(self.tunnel_types) <= set(CARRIED):
            raise ValueError("a broker offers v6v4, v6udpv4 or both")
        if not self.mechanisms:
            raise ValueError("at least one mechanism is needed")
        if any(c in '"\\' or not c.isprintable() for c in self.realm):
            raise ValueError("a realm has no quotes, backslashes or control characters")
        if self.redirect_phase is Phase.ACCEPT:
            raise ValueError("an accepted tunnel cannot be redirected")
