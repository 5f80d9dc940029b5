"""The NATs as nftables texts, word for word (tests/data/nat), and which behaviours there are.

That nft takes them, and that they do what they say, is shown on the kernel in tests/kernel.  After a change that was
meant: `python -m tests.unit.test_nat_rules` writes the files anew; look at the difference.
"""

from __future__ import annotations

import itertools
import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import pytest

from lab.nat import rows_of
from lab.rules.nat import nat_ruleset, nat_sysctls
from lab.rules.nat_behaviour import (
    FIRST_PORT,
    BehaviourError,
    Filtering,
    Hairpinning,
    Mapping,
    NatBehaviour,
    Pooling,
    Ports,
    Refresh,
)
from lab.rules.nat_found import Classification, expected
from lab.rules.nat_presets import PRESETS
from lab.rules.nat_udp import NatPlace, shares
from tests.unit.nats import ADDRESSES, HOSTS, NATS, place_of, text_of

GOLDEN: Final = Path(__file__).parent.parent / "data" / "nat"

TEXTS: Final = {name: text_of(**options) for name, options in NATS.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_a_ruleset_is_the_one_on_file(name: str) -> None:
    assert TEXTS[name] == (GOLDEN / f"{name}.nft").read_text()


def test_no_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.glob("*.nft")} == set(TEXTS)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_loading_replaces_everything_at_once(text: str) -> None:
    assert text.startswith("flush ruleset\n")
    assert text.endswith("}\n")


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_every_verdict_is_counted_and_named(text: str) -> None:
    """But for dnat by a map: its rule is also reached by packets that the map has nothing for."""
    verdict = re.compile(r"\b(accept|drop|(?<!status )(?<!! )snat|masquerade)\b")
    verdicts = [line for line in text.splitlines() if verdict.search(line) and "policy" not in line]
    assert verdicts
    for line in verdicts:
        assert "counter" in line
        assert re.search(r'comment "nat_\w+"$', line), line


def test_no_concatenation_has_more_parts_than_nft_can_list() -> None:
    """nft 1.0.6 loads six parts, and fails when it is asked to list them."""
    for options in every_combination():
        for line in text_of(**options).splitlines():
            if line.strip().startswith("type ") and "hook" not in line:
                assert all(len(side.split(" . ")) <= 5 for side in line.split(":")), line


def every_combination() -> list[dict[str, Any]]:
    return [
        {"mapping": mapping, "filtering": filtering, "hairpinning": hairpinning, "ports": ports, "refresh": refresh}
        for mapping, filtering, hairpinning, ports, refresh in itertools.product(
            Mapping, Filtering, Hairpinning, set(Ports) - {Ports.OVERLOAD}, Refresh
        )
    ]


def test_whatever_can_be_asked_for_has_rules() -> None:
    texts = {text_of(**options) for options in every_combination()}
    assert len(texts) == len(every_combination())


def test_the_words_are_those_of_rfc_4787() -> None:
    assert [mapping.value for mapping in Mapping] == ["EIM", "ADM", "APDM"]
    assert [filtering.value for filtering in Filtering] == ["EIF", "ADF", "APDF"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mapping": "symmetric"}, ["no mapping 'symmetric'", "APDM (address and port dependent)"]),
        ({"filtering": "XXX"}, ["no filtering 'XXX'", "EIF (endpoint independent)"]),
        ({"hairpinning": "yes"}, ["no hairpinning 'yes'", "external"]),
        ({"mappings": "EIM"}, ["no option 'mappings'", "did you mean mapping"]),
        ({"colour": "blue"}, ["no option 'colour'", "mapping, filtering"]),
        ({"pool": 0}, ["pool=0", "from 1 to 64"]),
        ({"pool": True}, ["pool=True"]),
        ({"block_size": 70000}, ["block_size=70000", "from 32 to 64512"]),
        ({"ports": "block", "pool": 2, "pooling": "arbitrary"}, ["ports=block", "pooling=paired"]),
        ({"udp_timeout_s": 2.5}, ["udp_timeout_s=2.5"]),
        ({"udp_timeout_s": "soon"}, ["udp_timeout_s='soon'"]),
        ({"udp_timeout_s": 60, "udp_stream_timeout_s": 30}, ["udp_stream_timeout_s=30", "udp_timeout_s=60"]),
        ({"one_to_one": 3}, ["one_to_one=3"]),
        ({"one_to_one": ("",)}, ["one_to_one=''"]),
        ({"one_to_one": True, "pool": 2}, ["pool has no users"]),
        ({"one_to_one": ("ann",), "ports": "block"}, ["ports=block"]),
        ({"proto41_host": 4}, ["proto41_host=4"]),
        ({"input_open": "perhaps"}, ["input_open='perhaps'"]),
        ({"ports": "block", "parity": True}, ["ports=block", "parity needs ports=preserve or ports=random"]),
        ({"ports": "overload", "parity": True}, ["ports=overload", "parity needs"]),
        ({"parity": "odd"}, ["parity='odd'"]),
        ({"ports": "overload", "mapping": "ADM"}, ["ports=overload cannot have mapping=ADM", "EIM or APDM"]),
        ({"ports": "overload", "filtering": "EIF"}, ["cannot have filtering=EIF", "filtering=APDF"]),
        ({"ports": "overload", "hairpinning": "external"}, ["hairpinning=none"]),
        ({"ports": "overload", "refresh": "outbound"}, ["refresh=both"]),
        ({"ports": "overload", "pool": 2, "pooling": "arbitrary"}, ["pooling=arbitrary"]),
    ],
)
def test_what_makes_no_sense_is_named(options: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(BehaviourError) as caught:
        NatBehaviour.make(options)
    for words in told:
        assert words in str(caught.value)


def test_texts_are_values_too() -> None:
    made = NatBehaviour.make({"pool": "2", "input_open": "yes", "one_to_one": "ann,bob", "proto41_host": "none"})
    assert (made.pool, made.input_open, made.one_to_one, made.proto41_host) == (2, True, ("ann", "bob"), None)
    assert NatBehaviour.make({"one_to_one": "true"}).one_to_one is True


@pytest.mark.parametrize("options", NATS.values(), ids=list(NATS))
def test_a_behaviour_survives_json(options: dict[str, Any]) -> None:
    behaviour = NatBehaviour.make(options)
    assert NatBehaviour.make(behaviour.to_json()) == behaviour


def test_presets_differ_and_say_why() -> None:
    made = [NatBehaviour.make(preset.options) for preset in PRESETS.values()]
    assert len(set(made)) == len(PRESETS) == 6
    for preset in PRESETS.values():
        assert preset.text
        assert preset.reasons.keys() <= preset.options.keys()
        assert all(preset.reasons.values())


def test_options_come_before_those_of_a_preset() -> None:
    made = NatBehaviour.make({"ports": "random"}, PRESETS["carrier"].options)
    assert made.ports is Ports.RANDOM
    assert made.refresh is Refresh.OUTBOUND


@pytest.mark.parametrize("mapping", ["ADM", "APDM"])
def test_a_mapping_that_depends_on_the_peer_has_random_ports_unless_told_otherwise(mapping: str) -> None:
    assert NatBehaviour.make({"mapping": "EIM"}).ports is Ports.PRESERVE
    assert NatBehaviour.make({"mapping": mapping}).ports is Ports.RANDOM
    assert NatBehaviour.make({"mapping": mapping, "ports": "preserve"}).ports is Ports.PRESERVE
    assert NatBehaviour.make({"mapping": mapping}, {"ports": "sequential"}).ports is Ports.SEQUENTIAL


@pytest.mark.parametrize(
    ("options", "outside", "parity", "pooling"),
    [
        ({"parity": True}, {"ann": ("a",), "bob": ("a",)}, True, None),
        ({}, {"ann": ("a",), "bob": ("a",)}, False, None),
        ({"parity": True}, {"ann": ("a",)}, None, None),
        ({"parity": True, "ports": "random"}, {"ann": ("a",)}, True, None),
        ({"ports": "block"}, {"ann": ("a",), "bob": ("a",)}, None, None),
        ({"pool": 2}, {"ann": ("a",), "bob": ("b",)}, None, "paired"),
        ({"pool": 2, "pooling": "arbitrary"}, {"ann": ("a", "b"), "bob": ("a", "b")}, False, "arbitrary"),
        ({"pool": 2, "pooling": "arbitrary", "one_to_one": "ann"}, {"ann": ("c",)}, None, None),
    ],
    ids=str,
)
def test_what_can_be_seen_of_ports_and_addresses_is_expected(
    options: dict[str, Any], outside: dict[str, tuple[str, ...]], parity: bool | None, pooling: str | None
) -> None:
    asked = expected(NatBehaviour.make(options), outside=outside)
    assert (asked.parity, asked.pooling) == (parity, pooling)


def test_the_ports_to_draw_from_are_even_then_odd_and_above_the_known_ones() -> None:
    (elements,) = re.findall(r"map port_of \{.*?elements = \{ ([^}]*) \}", text_of(parity=True), re.DOTALL)
    drawn = [tuple(int(number) for number in entry.split(" : ")) for entry in elements.split(", ")]
    assert [mark for mark, _ in drawn] == [*range(1, 1025)]
    ports = [port for _, port in drawn]
    assert len(set(ports)) == 1024
    assert all(port % 2 == 0 for port in ports[:512])
    assert all(port % 2 == 1 for port in ports[512:])
    assert all(FIRST_PORT <= port < 65536 for port in ports)


def test_blocks_do_not_overlap() -> None:
    behaviour = NatBehaviour(ports=Ports.BLOCK, block_size=64, pool=2)
    found = [block for share in shares(behaviour, place_of(behaviour)) for block in share.blocks]
    assert found == [(HOSTS[0], 1024, 1087), (HOSTS[1], 1024, 1087)]
    behaviour = NatBehaviour(ports=Ports.BLOCK, block_size=64)
    (share,) = shares(behaviour, place_of(behaviour))
    assert share.blocks == ((HOSTS[0], 1024, 1087), (HOSTS[1], 1088, 1151))


def test_small_blocks_are_searched_and_large_ones_drawn_from() -> None:
    small, large = text_of(ports="block", block_size=128), text_of(ports="block", block_size=129)
    assert small.count("@port_of0") == 128
    assert "1024-1152 random" in large
    assert "@port_of0" not in large


def test_blocks_that_do_not_fit_are_refused_with_the_size_that_does() -> None:
    many = tuple(IPv4Address("10.0.0.1") + number for number in range(100))
    place = NatPlace(outside="wan0", inside=("lan0",), addresses=ADDRESSES[:1], hosts=many)
    with pytest.raises(BehaviourError, match="use 645 or less"):
        shares(NatBehaviour(ports=Ports.BLOCK), place)
    shares(NatBehaviour(ports=Ports.BLOCK, block_size=645), place)


def test_a_host_with_an_address_of_its_own_shares_none() -> None:
    behaviour = NatBehaviour(one_to_one=("ann",), pooling=Pooling.PAIRED)
    pool, own = shares(behaviour, place_of(behaviour))
    assert (pool.address, pool.hosts) == (ADDRESSES[0], HOSTS[1:])
    assert (own.address, own.hosts) == (ADDRESSES[1], HOSTS[:1])


def test_only_timeouts_that_are_not_the_kernels_own_are_written() -> None:
    assert nat_sysctls(NatBehaviour()) == {}
    assert nat_sysctls(NatBehaviour(udp_timeout_s=3, udp_stream_timeout_s=9)) == {
        "net/netfilter/nf_conntrack_udp_timeout": "3",
        "net/netfilter/nf_conntrack_udp_timeout_stream": "9",
    }


def test_all_inside_interfaces_are_let_out() -> None:
    place = NatPlace(outside="wan0", inside=("lan0", "lan1"), addresses=ADDRESSES[:1], hosts=HOSTS)
    assert 'iifname { "lan0", "lan1" } counter accept' in nat_ruleset(NatBehaviour(), place)


def test_a_timeout_that_was_not_seen_to_end_is_told_as_the_least_it_can_be() -> None:
    asked = Classification(mapping="EIM")
    seen = Classification(mapping="EIM", udp_timeout_s=240.0)
    rows = {row[0]: row for row in rows_of({"asked": asked.to_json(), "found": seen.to_json(), "reasons": {}})}
    assert rows["udp_timeout_s"][1:4] == ("-", "at least 240 s", "-")
    assert rows["mapping"][3] == "yes"


def write_anew() -> None:
    """Write all files of tests/data/nat."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, text in TEXTS.items():
        (GOLDEN / f"{name}.nft").write_text(text)


if __name__ == "__main__":
    write_anew()
