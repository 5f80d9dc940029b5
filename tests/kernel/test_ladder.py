"""The ladder of real runs: what the captures of a real kernel make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.ladder.model import ladder
from lab.run import run

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft", "nft_nat", "tun_fallback", "raw", "packet")]


def test_a_set_up_behind_a_nat_is_told_from_end_to_end(tmp_path: Path) -> None:
    done = run("home_nat", on="host", seed=1, parameters={"delay_ms": 0}, out=tmp_path / "run")
    assert done.status == "ok", done.message
    found = ladder(done)
    assert [column.name for column in found.columns] == ["laptop", "nat", "internet", "broker", "server"]
    signalling = [message for message in found.messages if message.kind == "signalling"]
    words = [message.label.split(" ", 1)[1] for message in signalling]
    different = list(dict.fromkeys(words))  # a client that had no answer in a second, on a slow machine, asks again
    assert different[:2] == ["VERSION=2.0.0", "CAPABILITY v6v4 v6udpv4 ANONYMOUS PLAIN DIGEST-MD5"]
    assert any(text.startswith("200 Success: info v6udpv4 for 2001:db8:f") for text in words)
    assert not any("secret" in message.detail for message in found.messages)
    outside = done.address("nat", "wan0")
    for message in signalling:
        assert len(message.hops) == 3, message
        assert message.dropped == ""
        rewritten = [hop.rewritten for hop in message.hops]
        there = message.origin == "laptop"
        assert rewritten[1 if there else 2].startswith(f"from {outside}:" if there else "to 192.168.0.2:")
    through = [message for message in found.messages if {hop.a for hop in message.hops} >= {"server", "broker", "nat"}]
    assert through, "an answer of the server's that is followed through the broker and the NAT"
    assert [hop.tunnelled for hop in through[0].hops] == [False, True, True, True]


def test_what_a_firewall_refuses_ends_there_with_the_name_of_its_rule(tmp_path: Path) -> None:
    done = run("firewall_3653", on="host", seed=1, parameters={"policy": "reject_3653"}, out=tmp_path / "run")
    assert done.status == "ok", done.message
    allowed, refused = ladder(done, "laptop", 0), ladder(done, "laptop", 2)
    assert all(message.dropped == "" for message in allowed.messages)
    first, answer = refused.messages[:2]
    assert first.dropped == "rejected by firewall: reject_3653"
    assert [(hop.a, hop.b) for hop in first.hops] == [("laptop", "firewall")]
    assert (answer.origin, answer.kind) == ("firewall", "icmp")
    assert "administratively prohibited" in answer.label
