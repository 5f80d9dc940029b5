"""In virtual time a set-up takes its round trips and nothing else, and the wire shows as many as the protocol needs.

One boot: clients at five distances set up a tunnel over each transport with each SASL mechanism.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import pytest

from lab.results import SetupRecord
from lab.run import Run, run
from lab.wire import read_pcap

pytestmark = [pytest.mark.virtual, pytest.mark.timeout(300)]

DISTANCES: Final = Path(__file__).parent / "topologies" / "distances.py"
RTTS_MS: Final = (0, 10, 50, 200, 600)

ROUND_TRIPS: Final = {
    ("udp", "ANONYMOUS"): 4,
    ("udp", "PLAIN"): 5,
    ("udp", "DIGEST-MD5"): 6,
    ("tcp", "ANONYMOUS"): 4,
    ("tcp", "PLAIN"): 4,
    ("tcp", "DIGEST-MD5"): 5,
}
"""From the first packet to the tunnel being ready.

VERSION, AUTHENTICATE, create and accept make four (RFC 5572 section 4.3).  Over UDP every datagram of the client has
its reply (4.4.1.2), so PLAIN takes one more, its credentials following an empty reply, and DIGEST-MD5 two more: the
response to the challenge, and an empty datagram that fetches the 200 after the broker's rspauth.  These are the 4, 5
and 6 that gogoCLIENT takes.

Over TCP there is one more, to connect, and there are fewer after it.  Nothing answers accept (4.4.3 shows no reply;
UDP needs one to stop resending), so the tunnel is ready when it is sent.  PLAIN's credentials follow their
AUTHENTICATE line at once, since the broker sends nothing between them.  The 200 comes with rspauth, unasked.
"""

CLIENT, SERVER = "client", "server"


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of a client's interface, as far as counting needs it."""

    sender: str
    protocol: int
    port: int
    """The client's."""
    speaks: bool
    """Whether it carries signalling, or opens a connection; an acknowledgement alone does not."""


def packets(capture: Path, client: str) -> Iterator[Packet]:
    """The packets of port 3653 and of protocol 41 at the interface of the client with this address."""
    for _, _, frame in read_pcap(capture):
        if frame[12:14] != b"\x08\x00":
            continue
        packet = frame[14:]
        protocol, payload = packet[9], packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
        sender = CLIENT if packet[12:16] == IPv4Address(client).packed else SERVER
        if protocol == 41:
            yield Packet(sender, protocol, 0, speaks=False)
        if protocol not in (6, 17):
            continue
        source, destination = struct.unpack("!HH", payload[:4])
        port = source if sender == CLIENT else destination
        if protocol == 17:
            speaks = payload[8] >> 4 == 0xF  # the marker of signalling
        else:
            opens = bool(payload[13] & 0x02)  # SYN
            speaks = opens or len(payload) > (payload[12] >> 4) * 4
        yield Packet(sender, protocol, port, speaks)


def round_trips(done: Run, rtt_ms: int) -> list[int]:
    """Round trips of each set-up of a client, in order: answers that came after a question and before the tunnel.

    A set-up is what one port of the client says until the client sends a packet of protocol 41.  What a port says
    later, and the end of a TCP connection, is no part of it.
    """
    node = f"rtt{rtt_ms}"
    counted: Counter[int] = Counter()
    over: set[int] = set()
    asked = False
    for packet in packets(done.capture(node, "eth0"), done.address(node, "eth0")):
        if packet.protocol == 41:
            if packet.sender == CLIENT:
                over |= counted.keys()
        elif packet.speaks and packet.port not in over:
            if packet.sender == CLIENT:
                asked = True
                counted[packet.port] += 0
            elif asked:
                asked = False
                counted[packet.port] += 1
    return list(counted.values())


@pytest.fixture(scope="module")
def distances(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every client set up in every way."""
    done = run(str(DISTANCES), on="virtual", seed=1, out=tmp_path_factory.mktemp("distances") / "run")
    assert done.status == "ok", done.message
    return done


def setups(done: Run, rtt_ms: int) -> list[SetupRecord]:
    """The set-ups of the client at this distance."""
    found = done.tunnels(f"rtt{rtt_ms}")
    assert [(setup.transport, setup.mechanism) for setup in found] == list(ROUND_TRIPS)
    return found


@pytest.mark.parametrize("rtt_ms", RTTS_MS)
def test_the_wire_shows_as_many_round_trips_as_the_protocol_needs(distances: Run, rtt_ms: int) -> None:
    assert round_trips(distances, rtt_ms) == list(ROUND_TRIPS.values())


@pytest.mark.parametrize("rtt_ms", RTTS_MS)
def test_a_set_up_takes_its_round_trips_and_nothing_else(distances: Run, rtt_ms: int) -> None:
    counted = round_trips(distances, rtt_ms)
    for setup, trips in zip(setups(distances, rtt_ms), counted, strict=True):
        expected_s = trips * rtt_ms / 1000
        assert setup.total_s == pytest.approx(expected_s, rel=0.01, abs=0.001 if rtt_ms == 0 else 0.0), setup


@pytest.mark.parametrize("rtt_ms", RTTS_MS)
def test_the_client_counts_the_round_trips_that_the_wire_shows(distances: Run, rtt_ms: int) -> None:
    counted = round_trips(distances, rtt_ms)
    for setup, trips in zip(setups(distances, rtt_ms), counted, strict=True):
        connecting = 1 if setup.transport == "tcp" else 0
        assert setup.round_trips + connecting == trips
        assert setup.retransmissions == 0


def test_what_was_asked_of_the_links_is_what_they_do(distances: Run) -> None:
    links = distances.trials[0].facts["trials"][0]["impairments"]
    assert len(links) == 2 * (len(RTTS_MS) - 1)
    for link in links:
        assert link["achieved"]["delay_ms"] == pytest.approx(link["requested"]["delay_ms"], abs=0.05), link
