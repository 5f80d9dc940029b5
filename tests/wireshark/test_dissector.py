"""Wireshark with extras/wireshark/tsp.lua, as tshark, on captures of the lab."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.unit.ladders import INNER, Recorder, filtered, home, setup, signalling
from tests.unit.test_ladder import OUTSIDE, THERE, behind_a_nat

pytestmark = [pytest.mark.needs("program tshark"), pytest.mark.timeout(240)]

SCRIPT: Final = Path(__file__).parent.parent.parent / "extras" / "wireshark" / "tsp.lua"
RUN_TIMEOUT_S: Final = 100


def tshark(capture: Path, *options: str) -> str:
    """What tshark prints of a capture; fails when the script has an error."""
    done = subprocess.run(
        ["tshark", "-X", f"lua_script:{SCRIPT}", "-r", str(capture), *options],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ua Error" not in done.stdout + done.stderr  # of Wireshark's "Lua Error"
    assert "tsp.lua:" not in done.stdout + done.stderr
    return done.stdout


def fields(capture: Path, only: str, *names: str) -> list[list[str]]:
    """The values of some fields, a row for each packet that a display filter takes."""
    options = [word for name in names for word in ("-e", name)]
    return [line.split("\t") for line in tshark(capture, "-Y", only, "-T", "fields", *options).splitlines()]


def test_signalling_has_its_fields(tmp_path: Path) -> None:
    capture = behind_a_nat(tmp_path).capture("nat", "wan0")
    names = ("tsp6.seq", "tsp6.timestamp", "tsp6.command", "tsp6.version", "tsp6.tunnel", "tsp6.mechanism")
    assert fields(capture, "tsp6", *names) == [
        ["240", "5", "VERSION", "2.0.0", "", ""],
        ["240", "5", "CAPABILITY", "", "V6UDPV4", "ANONYMOUS"],
        ["241", "5", "(empty)", "", "", ""],
    ]


def test_ipv6_on_the_same_port_goes_to_the_ipv6_dissector(tmp_path: Path) -> None:
    capture = behind_a_nat(tmp_path).capture("laptop", "eth0")
    assert fields(capture, "icmpv6", "ipv6.dst", "icmpv6.echo.sequence_number", "udp.dstport") == [
        ["2001:db8:0:1::2", "7", "3653"]
    ]


def test_a_message_sent_again_points_to_the_first(tmp_path: Path) -> None:
    wire = Recorder(filtered())
    for number, at_ms in enumerate((0.0, 1000.0)):
        wire.send(at_ms, ["laptop", "firewall"], signalling(240, b"VERSION=2.0.0\r\n", number))
    capture = wire.run(tmp_path, [setup()]).capture("laptop", "eth0")
    assert fields(capture, "tsp6", "frame.number", "tsp6.again") == [["1", ""], ["2", "1"]]


def test_xml_and_status_are_taken_apart(tmp_path: Path) -> None:
    xml = (
        b'<tunnel action="info" type="v6udpv4" lifetime="60">'
        b'<server><address type="ipv4">198.51.100.2</address></server>'
        b'<client><address type="ipv6">2001:db8:f000::1</address><router><prefix length="64">2001:db8:f000:1::</prefix>'
        b"</router></client></tunnel>\r\n"
    )
    content = b"200 Success\r\n" + xml
    wire = Recorder(home())
    wire.send(0.0, THERE, signalling(244, b"Content-length: %d\r\n" % len(content) + content), nat=OUTSIDE)
    capture = wire.run(tmp_path, [setup()]).capture("laptop", "eth0")
    names = ("length", "status", "status_text", "command", "type", "lifetime", "server_ipv4", "client_ipv6", "prefix")
    (row,) = fields(capture, "tsp6.xml", *(f"tsp6.{name}" for name in names))
    told = ["200", "Success", "info", "v6udpv4", "60", "198.51.100.2", "2001:db8:f000::1", "2001:db8:f000:1::/64"]
    assert row == [str(len(content)), *told]


def test_nothing_that_is_malformed_makes_the_script_fail(tmp_path: Path) -> None:
    rng = random.Random(1)
    bad = [
        b"", b"\xf0", b"\xf0\x00\x00\x01", b"\0" * 7, b"\x01\0\0\xf0\0\0\0\0", b"E" * 30, INNER[:20],
        *(signalling(1, text) for text in (
            b"\0\0", b"Content-length: 5\r\n", b"Content-length: x\r\n<tunnel", b"<tunnel",
            b"Content-length: 3\r\n\xff\xfe\x00",
            b"200", b"99999 what", b"CAPABILITY", b"VERSION", b"AUTHENTICATE", b"\x80\x81",
            b"Content-length: 9\r\n<!DOCTYPE x>",
            b'Content-length: 9\r\n<tunnel action="%s%d" lifetime="99999999999">',
        )),
        *(rng.randbytes(rng.randrange(60)) for _ in range(80)),
        *(signalling(2, rng.randbytes(rng.randrange(60))) for _ in range(80)),
    ]  # fmt: skip
    wire = Recorder(filtered())
    for number, payload in enumerate(bad):
        wire.send(float(number), ["laptop", "firewall"], payload)
    capture = wire.run(tmp_path, [setup()]).capture("laptop", "eth0")
    assert tshark(capture, "-V").count("User Datagram Protocol") >= len(bad)


@pytest.mark.kernel
@pytest.mark.needs("nft", "nft_nat", "conntrack")
def test_a_run_over_tcp_and_one_over_udp_read_the_same(tmp_path: Path) -> None:
    from lab.run import run

    commands = "VERSION CAPABILITY AUTHENTICATE SASL SASL SASL create info accept".split()
    for name, first in (("home_nat", "udp"), ("tcp_setup", "tcp")):
        done = run(name, on="host", seed=1, parameters={"delay_ms": 0}, out=tmp_path / name)
        assert done.status == "ok", done.message
        # What is said again, to a machine that was slow to answer, is said once.
        shown = f"tsp6 && {first} && !tsp6.again"
        rows = fields(done.capture("laptop", "eth0"), shown, "tsp6.command", "tsp6.status")
        said = [command for command, _ in rows if command and command != "(empty)"]
        assert said[: len(commands)] == commands
        assert [status for _, status in rows if status][:2] == ["200", "200"]
