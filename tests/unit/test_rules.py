"""The firewall policies as nftables texts, word for word (tests/data/rules), and what is offered by name.

That nft takes them, and that they do what they say, is shown on the kernel in tests/kernel.  After a change that was
meant: `python -m tests.unit.test_rules` writes the files anew; look at the difference.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from lab.rules.firewall import POLICIES, firewall_ruleset

GOLDEN: Final = Path(__file__).parent.parent / "data" / "rules"

TEXTS: Final = {f"firewall_{policy}": firewall_ruleset(policy) for policy in POLICIES}


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
    assert named <= {policy, "allow", "not_answered"}


def test_every_policy_says_what_it_does() -> None:
    texts = [policy.text for policy in POLICIES.values()]
    assert len(set(texts)) == len(texts)
    assert all(texts)


def write_anew() -> None:
    """Write all files of tests/data/rules."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, text in TEXTS.items():
        (GOLDEN / f"{name}.nft").write_text(text)


if __name__ == "__main__":
    write_anew()
