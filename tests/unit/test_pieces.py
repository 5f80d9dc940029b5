"""A ruleset in pieces is the same ruleset: nothing is lost, and every chain's rules stay in their order."""

from __future__ import annotations

import re
from typing import Final

import pytest

from lab.rules.firewall import POLICIES, firewall_ruleset
from lab.rules.pieces import pieces
from tests.unit.nats import NATS, text_of

TEXTS: Final = {
    **{name: text_of(**options) for name, options in NATS.items()},
    **{policy: firewall_ruleset(policy) for policy in POLICIES},
}
_BLOCK: Final = re.compile(r"^\t(\w+ \w+) \{\n(.*?)^\t\}\n", re.MULTILINE | re.DOTALL)


def blocks(texts: list[str]) -> dict[tuple[str, str], str]:
    """What all texts together say of each set, map and chain, by its table and name."""
    found: dict[tuple[str, str], str] = {}
    for text in texts:
        for table in re.split(r"^(?=table )", text, flags=re.MULTILINE)[1:]:
            for name, body in _BLOCK.findall(table):
                key = (table.split(" {")[0], name)
                found[key] = found.get(key, "") + body
    return found


@pytest.mark.parametrize("at_once", [1, 2000, 10**9])
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_the_pieces_together_say_what_the_whole_says(text: str, at_once: int) -> None:
    found = pieces(text, at_once)
    assert blocks(found) == blocks([text])
    assert found[0].startswith("flush ruleset\n")
    assert sum(piece.count("flush") for piece in found) == 1
    assert len(found) == 1 or at_once < 10**9


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_what_is_spoken_of_is_there_before_and_hooks_come_last(text: str) -> None:
    known: set[str] = set()
    hooked = False
    for piece in pieces(text, 500):
        for name, body in _BLOCK.findall(piece):
            known.add(name.split()[1])
            assert set(re.findall(r"(?:@|goto |jump )(\w+)", body)) <= {*known, "th"}
            hooked = hooked or " hook " in body
            assert not hooked or body == "" or name.startswith("chain ")


def test_a_piece_is_no_larger_than_wanted_but_for_one_long_line() -> None:
    text = text_of(parity=True, ports="random", pool=2)
    longest = max(len(line) for line in text.splitlines())
    found = pieces(text, 3000)
    assert len(found) > 5
    assert all(sum(len(body) for _, body in _BLOCK.findall(piece)) <= max(3000, longest + 200) for piece in found)
