"""Accounts and leases: who may log in, and which prefix is whose."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.actors.store import Lease, Store
from lab.errors import TunnelRefused, UsageError
from lab.tsp import digest_ha1

POOL = IPv6Network("2001:db8:f000::/36")


_opened: list[Store] = []


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def store(pool: str | IPv6Network = POOL, seed: int = 0, path: str | Path = ":memory:") -> Store:
    made = Store(IPv6Network(pool), rng=random.Random(seed), path=path)
    _opened.append(made)
    return made


def overlap(leases: list[Lease]) -> bool:
    networks = sorted(network for lease in leases for network in lease.networks)
    return any(a.overlaps(b) for a, b in itertools.pairwise(networks))


def test_the_account_holds_a_hash_and_never_the_password(tmp_path: Path) -> None:
    with_file = store(path=tmp_path / "broker.db")
    with_file.add_user("ann", "open sesame")
    assert with_file.credentials("ann") == digest_ha1("ann", "lab", "open sesame")
    assert with_file.credentials("bob") is None
    with_file.close()
    assert not any(b"open sesame" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_password_can_be_changed_and_an_account_removed() -> None:
    accounts = store()
    accounts.add_user("ann", "one")
    accounts.add_user("ann", "two")
    assert accounts.credentials("ann") == digest_ha1("ann", "lab", "two")
    assert accounts.users() == ("ann",)
    assert accounts.remove_user("ann")
    assert not accounts.remove_user("ann")
    assert accounts.credentials("ann") is None


@pytest.mark.parametrize("name", ["", "a:b", "a\nb"])
def test_a_user_name_that_digest_md5_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no user name"):
        store().add_user(name, "secret")


def test_a_user_keeps_the_same_prefixes_over_a_restart(tmp_path: Path) -> None:
    first = store(path=tmp_path / "broker.db", seed=1)
    first.add_user("ann", "secret")
    lease = first.lease("ann", 56)
    first.release(lease)
    first.close()
    again = store(path=tmp_path / "broker.db", seed=2)
    assert again.lease("ann", 56) == lease
    assert again.lease("ann").link == lease.link
    again.close()


def test_an_anonymous_lease_is_another_one_each_time_and_is_given_back() -> None:
    leases = store()
    one, two = leases.lease(None), leases.lease(None)
    assert one.link != two.link
    small = store("2001:db8::/62")  # the broker's own /64 and three more
    held = [small.lease(None) for _ in range(3)]
    with pytest.raises(TunnelRefused, match="no free /64") as refusal:
        small.lease(None)
    assert refusal.value.code == 301
    small.release(held[1])
    assert small.lease(None).link == held[1].link


def test_anonymous_leases_are_scattered_over_the_pool() -> None:
    leases = store()
    numbers = sorted((int(leases.lease(None).link.network_address) - int(POOL[0])) >> 64 for _ in range(64))
    gaps = [b - a for a, b in itertools.pairwise(numbers)]
    assert min(gaps) > 1
    assert numbers[-1] - numbers[0] > 2**26


def test_the_same_seed_gives_the_same_leases_and_another_seed_others() -> None:
    assert store(seed=7).lease(None) == store(seed=7).lease(None)
    assert store(seed=7).lease(None) != store(seed=8).lease(None)


def test_anonymous_leases_of_a_dead_process_are_free_again(tmp_path: Path) -> None:
    first = store("2001:db8::/62", path=tmp_path / "broker.db")
    for _ in range(3):
        first.lease(None)
    first.close()
    second = store("2001:db8::/62", path=tmp_path / "broker.db")
    assert second.lease(None).link.subnet_of(IPv6Network("2001:db8::/62"))
    second.close()


@pytest.mark.parametrize("length", [0, 36, 40, 47, 65, 128])
def test_a_length_that_is_never_given_is_507_and_says_what_is(length: int) -> None:
    with pytest.raises(TunnelRefused, match=r"gives /48 to /64") as refusal:
        store().lease("ann", length)
    assert refusal.value.code == 507


def test_a_small_pool_gives_only_prefixes_smaller_than_itself() -> None:
    with pytest.raises(TunnelRefused, match=r"gives /57 to /64"):
        store("2001:db8::/56").lease("ann", 56)


def test_a_refused_lease_leaves_nothing_behind() -> None:
    small = store("2001:db8::/61")  # room for one /62 beside the broker's half
    small.lease(None, 62)
    for _ in range(8):
        with pytest.raises(TunnelRefused):
            small.lease(None, 62)
    assert {small.lease(None).link for _ in range(2)} <= set(IPv6Network("2001:db8::/61").subnets(new_prefix=64))


def test_asking_for_another_length_gives_the_old_prefix_back() -> None:
    small = store("2001:db8::/61")
    link = small.lease("ann", 62).link
    longer = small.lease("ann", 63)
    assert longer.link == link
    assert longer.routed is not None
    assert longer.routed.prefixlen == 63


def test_another_pool_in_the_configuration_moves_the_users(tmp_path: Path) -> None:
    old = store(path=tmp_path / "broker.db")
    old.lease("ann")
    old.close()
    new = store("2001:db8:a000::/36", path=tmp_path / "broker.db")
    assert new.lease("ann").link.subnet_of(IPv6Network("2001:db8:a000::/36"))
    new.close()


def test_the_brokers_own_64_is_never_given_out() -> None:
    tiny = store("2001:db8::/62")
    assert all(tiny.server_address not in tiny.lease(None).link for _ in range(3))


def test_the_client_is_the_first_address_of_its_link() -> None:
    lease = store().lease(None)
    assert lease.address == lease.link[1]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["ann", "bob", None]), st.sampled_from([None, 58, 60, 64])), max_size=30),
    st.randoms(use_true_random=False),
)
def test_leases_in_force_never_overlap(wishes: list[tuple[str | None, int | None]], rng: random.Random) -> None:
    leases = Store(IPv6Network("2001:db8::/56"), rng=rng)
    held: dict[object, Lease] = {}
    for number, (user, length) in enumerate(wishes):
        try:
            lease = leases.lease(user, length)
        except TunnelRefused:
            continue
        held[user or number] = lease
        assert not overlap(list(held.values()))
        if user is None and rng.random() < 0.5:
            leases.release(held.pop(number))
    leases.close()


@pytest.mark.parametrize("pool", ["2001:db8::/63", "2001:db8::/64", "2001:db8::/128"])
def test_a_pool_without_room_is_refused(pool: str) -> None:
    with pytest.raises(UsageError, match="too small"):
        store(pool)


def test_a_file_that_is_no_database_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "broker.db").write_text("not a database, certainly " * 40)
    with pytest.raises(UsageError, match=r"cannot use .*broker\.db"):
        store(path=tmp_path / "broker.db")
