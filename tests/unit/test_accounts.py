"""What a broker remembers: accounts, and prefixes that never overlap and never go to two clients."""

from __future__ import annotations

import random
from contextlib import suppress
from ipaddress import IPv6Network
from itertools import pairwise
from pathlib import Path

import pytest

from lab.actors.store import Lease, Store
from lab.errors import TunnelRefused, UsageError
from lab.tsp import digest_ha1

POOL = IPv6Network("2001:db8:f000::/36")


def store(
    path: Path | str = ":memory:", *, pool: IPv6Network = POOL, seed: int = 1, shortest_prefix: int = 48
) -> Store:
    return Store(pool, rng=random.Random(seed), path=path, shortest_prefix=shortest_prefix)


def lease_if_any(one: Store, user: str | None, length: int | None) -> Lease | None:
    """A lease, or None when the pool is full."""
    with suppress(TunnelRefused):
        return one.lease(user, length)
    return None


def test_a_user_keeps_his_prefixes_whoever_comes_meanwhile(tmp_path: Path) -> None:
    first = store(tmp_path / "broker.db")
    before = first.lease("ann", 56)
    first.lease(None)
    first.close()
    again = store(tmp_path / "broker.db", seed=2)
    again.lease("bob", 56)
    assert again.lease("ann", 56) == before
    again.close()


def test_a_database_that_a_broker_has_open_is_refused_to_another_and_keeps_its_leases(tmp_path: Path) -> None:
    pool = IPv6Network("2001:db8:f000::/61")  # the broker's /64 and seven others
    with_clients = store(tmp_path / "broker.db", pool=pool)
    given = [with_clients.lease(None).link for _ in range(6)]
    with pytest.raises(UsageError, match=r"broker\.db as the broker's database: another broker has it open"):
        store(tmp_path / "broker.db", pool=pool)
    assert with_clients.lease(None).link not in given
    with pytest.raises(TunnelRefused, match="no free /64"):
        with_clients.lease(None)
    with_clients.close()
    store(tmp_path / "broker.db", pool=pool).close()


def test_what_anonymous_clients_held_is_free_after_a_restart(tmp_path: Path) -> None:
    pool = IPv6Network("2001:db8:f000::/62")
    first = store(tmp_path / "broker.db", pool=pool)
    given = {first.lease(None).link for _ in range(3)}
    first.close()
    again = store(tmp_path / "broker.db", pool=pool)
    assert {again.lease(None).link for _ in range(3)} == given
    again.close()


def test_leases_never_overlap_however_a_pool_is_used() -> None:
    pool = IPv6Network("2001:db8:f000::/56")
    one = store(pool=pool, shortest_prefix=57)
    rng = random.Random(3)
    held: dict[str | None, list[IPv6Network]] = {}
    anonymous = []
    for _ in range(400):
        user = rng.choice([None, None, *"abcdefgh"])
        lease = lease_if_any(one, user, rng.choice([None, 58, 60, 62, 64]))
        if lease is not None and user is None:
            anonymous.append(lease)
        elif lease is not None:
            kept = [n for n in held.get(user, []) if lease.routed is None or n == lease.link]
            held[user] = list({*kept, *lease.networks})
        if anonymous and rng.random() < 0.5:
            one.release(anonymous.pop(rng.randrange(len(anonymous))))
        taken = [IPv6Network((pool.network_address, 64)), *(n for lease in anonymous for n in lease.networks)]
        taken += [network for networks in held.values() for network in networks]
        taken.sort()
        assert not any(a.overlaps(b) for a, b in pairwise(taken)), taken


def test_a_full_pool_says_so_and_has_room_again_after_a_release() -> None:
    small = store(pool=IPv6Network("2001:db8:f000::/62"))
    leases = [small.lease(None) for _ in range(3)]
    with pytest.raises(TunnelRefused) as caught:
        small.lease(None)
    assert caught.value.code == 301
    small.release(leases[1])
    assert small.lease(None).link == leases[1].link


@pytest.mark.parametrize("length", [1, 47, 65, 128])
def test_a_prefix_length_that_is_not_given_out_is_refused(length: int) -> None:
    with pytest.raises(TunnelRefused, match=f"no /{length} can be assigned; this broker gives /48 to /64"):
        store().lease("ann", length)


def test_an_account_holds_a_hash_and_can_be_removed_with_what_it_had() -> None:
    one = store()
    one.add_user("ann", "secret")
    assert one.credentials("ann") == digest_ha1("ann", "lab", "secret")
    assert one.credentials("bob") is None
    before = one.lease("ann")
    assert one.remove_user("ann")
    assert not one.remove_user("ann")
    assert one.users() == ()
    one.add_user("ann", "other")
    assert one.lease("ann") != before


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
def test_a_name_that_cannot_be_one_is_refused(user: str) -> None:
    with pytest.raises(UsageError, match="is no user name"):
        store().add_user(user, "secret")


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "broker.db").write_text("this is a letter, not a database\n" * 50)
    with pytest.raises(UsageError, match="cannot use .* file is not a database"):
        store(tmp_path / "broker.db")
    with pytest.raises(UsageError, match="cannot open"):
        store(tmp_path / "nowhere" / "broker.db")
