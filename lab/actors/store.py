"""The broker's accounts and the prefixes it has given out, in one SQLite file (or in memory).

An account holds MD5(user:realm:password), which DIGEST-MD5 and PLAIN can both be checked against (RFC 2831), never
the password.  A user keeps the same prefixes for ever, whatever the IPv4 address (RFC 5572 section 2.3); an
anonymous client gets ones that nobody can foretell, for as long as its session lives.  Both are drawn from the
pool by the `rng` that the caller passes: `secrets.SystemRandom()` on a real machine, a seeded one in a lab.
The file survives a kill: WAL mode, one transaction a change.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from lab.errors import TunnelRefused, UsageError
from lab.tsp import Status, digest_ha1

LINK_LENGTH: Final = 64
"""Every tunnel has a /64 of its own; the client is its ::1."""

_DRAWS: Final = 16
_PATIENCE_S: Final = 1.0
"""How long to wait for a database that another program has open."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS accounts (
    user TEXT NOT NULL, realm TEXT NOT NULL, ha1 BLOB NOT NULL, PRIMARY KEY (user, realm)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    id INTEGER PRIMARY KEY,
    user TEXT,                                             -- NULL: anonymous
    kind TEXT NOT NULL CHECK (kind IN ('link', 'routed')),
    first BLOB NOT NULL UNIQUE,                            -- 16 bytes, so that they sort as numbers
    last BLOB NOT NULL,
    UNIQUE (user, kind)
);
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a tunnel may use: a /64 for its own link and, if one was asked for, a prefix routed to it."""

    user: str | None
    link: IPv6Network
    routed: IPv6Network | None = None

    @property
    def address(self) -> IPv6Address:
        """The client's end of the tunnel."""
        return self.link[1]

    @property
    def networks(self) -> tuple[IPv6Network, ...]:
        """All that is routed to the client."""
        return (self.link,) if self.routed is None else (self.link, self.routed)


class Store:
    """Accounts and leases.  Not for use from several threads; one process a file."""

    def __init__(
        self,
        pool: IPv6Network,
        *,
        rng: random.Random,
        path: str | Path = ":memory:",
        realm: str = "lab",
        shortest_prefix: int = 48,
    ) -> None:
        """Open `path`, creating what is missing; UsageError if the pool is too small or the file cannot be used.

        The first /64 of `pool` is the broker's own.  `shortest_prefix` bounds what one client can be given.
        """
        if pool.prefixlen > LINK_LENGTH - 2:
            raise UsageError(f"the pool {pool} is too small: it must hold the broker's /64 and some clients'")
        self.pool = pool
        self.realm = realm
        self.shortest_prefix = max(shortest_prefix, pool.prefixlen + 1)
        self._rng = rng
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S)
        except sqlite3.Error as exc:
            raise UsageError(f"cannot open {path} as the broker's database: {exc}") from exc
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # another broker would take our leases for free
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("DELETE FROM leases WHERE user IS NULL")  # their sessions died with the last process
        except sqlite3.Error as exc:
            self._db.close()
            if exc.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise UsageError(f"cannot use {path} as the broker's database: another broker has it open") from exc
            raise UsageError(f"cannot use {path} as the broker's database: {exc}") from exc

    @property
    def server_address(self) -> IPv6Address:
        """The broker's end of every tunnel: the keepalive echo's target."""
        return self.pool[1]

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    # ------------------------------------------------------------------ accounts

    def add_user(self, user: str, password: str) -> None:
        """Create an account or change its password."""
        check_user(user)
        ha1 = digest_ha1(user, self.realm, password)
        self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", (user, self.realm, ha1))

    def remove_user(self, user: str) -> bool:
        """Delete an account and what was leased to it; False when there was none."""
        with self._transaction():
            gone = self._db.execute("DELETE FROM accounts WHERE user = ? AND realm = ?", (user, self.realm)).rowcount
            self._db.execute("DELETE FROM leases WHERE user = ?", (user,))
        return gone > 0

    def users(self) -> tuple[str, ...]:
        """Names of all accounts, sorted."""
        rows = self._db.execute("SELECT user FROM accounts WHERE realm = ? ORDER BY user", (self.realm,))
        return tuple(user for (user,) in rows)

    def credentials(self, user: str) -> bytes | None:
        """The 16 bytes MD5(user:realm:password), or None for an unknown user."""
        row = self._db.execute("SELECT ha1 FROM accounts WHERE user = ? AND realm = ?", (user, self.realm)).fetchone()
        return None if row is None else row[0]

    # ------------------------------------------------------------------ leases

    def lease(self, user: str | None, prefix_length: int | None = None) -> Lease:
        """A link /64 and, when `prefix_length` is given, a routed prefix: the user's own, or new ones.

        Raises TunnelRefused: 507 for a length outside shortest_prefix..64, 301 when nothing is free.
        A user who asks for another length than before gives the old routed prefix back.
        """
        if prefix_length is not None and not self.shortest_prefix <= prefix_length <= LINK_LENGTH:
            gives = f"/{self.shortest_prefix} to /{LINK_LENGTH}"
            raise TunnelRefused(
                Status.PREFIX_LENGTH_NOT_AVAILABLE, f"no /{prefix_length} can be assigned; this broker gives {gives}"
            )
        with self._transaction():
            # The larger one first: a /64 drawn by lot may fall into its only place.
            routed = None if prefix_length is None else self._lease_one(user, "routed", prefix_length)
            link = self._lease_one(user, "link", LINK_LENGTH)
        return Lease(user, link, routed)

    def release(self, lease: Lease) -> None:
        """Give an anonymous client's prefixes back; a user's stay reserved."""
        if lease.user is not None:
            return
        with self._transaction():
            for network in lease.networks:
                self._db.execute(
                    "DELETE FROM leases WHERE user IS NULL AND first = ?", (network.network_address.packed,)
                )

    def _lease_one(self, user: str | None, kind: str, length: int) -> IPv6Network:
        if user is not None:
            row = self._db.execute(
                "SELECT first, last FROM leases WHERE user = ? AND kind = ?", (user, kind)
            ).fetchone()
            if row is not None:
                kept = _network(*row)
                if kept.prefixlen == length and kept.subnet_of(self.pool):
                    return kept
                self._db.execute("DELETE FROM leases WHERE user = ? AND kind = ?", (user, kind))
        network = self._draw(length) or self._first_gap(length)
        if network is None:
            raise TunnelRefused(Status.NO_MORE_TUNNELS, f"the pool has no free /{length} left")
        self._db.execute(
            "INSERT INTO leases (user, kind, first, last) VALUES (?, ?, ?, ?)",
            (user, kind, network.network_address.packed, network.broadcast_address.packed),
        )
        return network

    def _draw(self, length: int) -> IPv6Network | None:
        """A free prefix found by drawing lots; None if each was taken."""
        for _ in range(_DRAWS):
            number = self._rng.getrandbits(length - self.pool.prefixlen) << (128 - length)
            network = IPv6Network((int(self.pool.network_address) + number, length))
            if not self._is_taken(network):
                return network
        return None

    def _is_taken(self, network: IPv6Network) -> bool:
        """True if `network` overlaps a lease or the broker's own /64.

        Leases never overlap, so the last one that begins inside or before `network` decides.
        """
        if self.server_address in network:
            return True
        row = self._db.execute(
            "SELECT last FROM leases WHERE first <= ? ORDER BY first DESC LIMIT 1", (network.broadcast_address.packed,)
        ).fetchone()
        return row is not None and row[0] >= network.network_address.packed

    def _first_gap(self, length: int) -> IPv6Network | None:
        """The first free prefix of a nearly full pool; None when it is full."""
        size = 1 << (128 - length)
        at = _round_up(int(self.pool.network_address) + (1 << (128 - LINK_LENGTH)), size)
        for first, last in self._db.execute("SELECT first, last FROM leases ORDER BY first"):
            if int.from_bytes(first, "big") >= at + size:
                break
            at = max(at, _round_up(int.from_bytes(last, "big") + 1, size))
        end = int(self.pool.broadcast_address) + 1
        return IPv6Network((at, length)) if at + size <= end else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def check_user(user: str) -> None:
    """UsageError unless an account may be called `user`."""
    if not user or any(ord(c) < 32 or c == ":" for c in user):
        raise UsageError(f"{user!r} is no user name: it must be non-empty, without a colon or control characters")


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _network(first: bytes, last: bytes) -> IPv6Network:
    low, high = int.from_bytes(first, "big"), int.from_bytes(last, "big")
    return IPv6Network((low, 128 - (high - low).bit_length()))
