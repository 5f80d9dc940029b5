"""The nftables texts, word for word (tests/data/rules), and what is offered by name.

That nft takes them, and that they do what they say, is shown on the kernel in tests/kernel.  After a change that was
meant: `python -m tests.unit.test_rules` writes the files anew; look at the difference.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from lab.rules.firewall import POLICIES, firewall_ruleset
from lab.rules.nat import Filtering, Mapping, nat_ruleset

GOLDEN: Final = Path(__file__).parent.parent / "data" / "rules"

TEXTS: Final = {
    "nat_EIM": nat_ruleset(outside="wan0", inside=["lan0"], address="192.0.2.2", mapping="EIM"),
    "nat_APDM": nat_ruleset(outside="wan0", inside=["lan0"], address="192.0.2.2", mapping="APDM"),
    **{f"firewall_{policy}": firewall_ruleset(policy) for policy in POLICIES},
}


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
    verdicts = [line for line in text.splitlines() if re.search(r"\b(accept|drop|reject|snat|masquerade)\b", line)]
    verdicts = [line for line in verdicts if "policy" not in line]
    assert verdicts
    for line in verdicts:
        assert "counter" in line
        assert re.search(r'comment "\w+"$', line), line


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_names_its_rules_after_itself(policy: str) -> None:
    named = set(re.findall(r'comment "(\w+)"', firewall_ruleset(policy)))
    assert policy in named
    assert named <= {policy, "allow"}


def test_every_policy_says_what_it_does() -> None:
    texts = [policy.text for policy in POLICIES.values()]
    assert len(set(texts)) == len(texts)
    assert all(texts)


def test_inside_interfaces_are_all_let_out() -> None:
    text = nat_ruleset(outside="wan0", inside=["lan0", "lan1"], address="192.0.2.2")
    assert 'iifname { "lan0", "lan1" } counter accept' in text


def test_a_mapping_or_filtering_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        nat_ruleset(outside="wan0", inside=["lan0"], address="192.0.2.2", mapping="symmetric")
    with pytest.raises(ValueError, match="EIF"):
        nat_ruleset(outside="wan0", inside=["lan0"], address="192.0.2.2", filtering="EIF")


def test_names_are_those_of_rfc_4787() -> None:
    assert [mapping.value for mapping in Mapping] == ["EIM", "APDM"]
    assert [filtering.value for filtering in Filtering] == ["APDF"]


def write_anew() -> None:
    """Write all files of tests/data/rules."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, text in TEXTS.items():
        (GOLDEN / f"{name}.nft").write_text(text)


if __name__ == "__main__":
    write_anew()
