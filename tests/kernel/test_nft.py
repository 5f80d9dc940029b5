"""Rulesets are loaded whole, or in pieces by who may not send the kernel so large a message."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from lab.errors import KernelRefused
from lab.kernel import nft
from lab.kernel.namespace import Namespace
from lab.nat import plan_of
from lab.topology.plan import LoadRules

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft_nat", "conntrack")]

NFT = """#!/bin/sh
# nft, as it is for an ordinary user whose messages may not be large
[ "$1" = -f ] || exec {nft} "$@"
cat > {folder}/text
if [ "$(wc -c < {folder}/text)" -gt {most} ]; then
    echo 'netlink: Error: Could not process rule: Message too long' >&2
    exit 1
fi
echo once >> {folder}/times
exec {nft} -f {folder}/text
"""


def limit(folder: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an nft with a limit in the place of nft; the file that gets a line each time it loads something."""
    program = folder / "nft"
    program.write_text(NFT.format(nft=shutil.which("nft"), folder=folder, most=most))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")
    return folder / "times"


def large_ruleset() -> str:
    plan = plan_of(None, {"parity": True, "pool": 16, "filtering": "ADF", "hairpinning": "external"})
    (text,) = [step.text for step in plan.steps if isinstance(step, LoadRules)]
    return text


def listed(ns: Namespace) -> list[list[str]]:
    """What the kernel has: the lines of every set, map and chain, in their order; that of the blocks may differ."""
    found = re.findall(r"^\t\w+ \w+ \{\n.*?^\t\}\n", nft.list_ruleset(ns), re.MULTILINE | re.DOTALL)
    return sorted(block.splitlines() for block in found)


def test_a_ruleset_too_large_for_one_message_is_the_same_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = large_ruleset()
    with Namespace.create("whole") as whole, Namespace.create("parts") as parts:
        nft.load(whole, text)
        times = limit(tmp_path, 60_000, monkeypatch)
        assert len(text) > 60_000
        nft.load(parts, text)
        assert len(times.read_text().split()) > 2
        assert len(listed(whole)) > 100
        assert listed(parts) == listed(whole)
        nft.load(parts, text)  # in the place of what is there
        assert listed(parts) == listed(whole)


def test_a_rule_too_large_for_any_message_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(tmp_path, 1_000, monkeypatch)
    with Namespace.create("box") as box, pytest.raises(KernelRefused, match="Message too long"):
        nft.load(box, large_ruleset())
