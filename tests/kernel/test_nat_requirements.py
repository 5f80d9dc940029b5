"""What RFC 4787 demands of every NAT and the lab has no option for: that Linux does it, and where it does not.

docs/nat.md says of each requirement which test shows it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface

import pytest

from lab.errors import TopologyError
from lab.generators import packets
from lab.topology.network import Network
from lab.topology.planner import make_plan
from tests.kernel.prober import Endpoint, Prober, deliver, received, wait_for

pytestmark = [pytest.mark.kernel, pytest.mark.needs("nft_nat", "conntrack", "raw")]

MTU = 1280
"""Of the link outside the NAT."""
_IP_MTU_DISCOVER, _IP_RECVERR = 10, 11  # linux/in.h; Python 3.11 has no names for them
_PMTUDISC_DONT, _PMTUDISC_DO = 0, 2


def home(**options: str) -> Network:
    """Two hosts behind a NAT whose outside link is narrow."""
    net = Network("home")
    net.nat("nat", **options)  # type: ignore[arg-type]
    net.link("nat", net.router("internet"), mtu=MTU)
    net.link("internet", net.host("one"))
    for name in ("ann", "bob"):
        net.link(net.client(name), "nat")
    return net


@pytest.fixture
def lab() -> Iterator[Prober]:
    with Prober(home()) as prober:
        yield prober


def error_of(sock: socket.socket) -> tuple[int, int, str]:
    """The ICMP error that reaches a socket: errno, its further information, and the address of who sent it."""
    found: list[tuple[int, int, str]] = []

    def heard() -> bool:
        try:
            _, control, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return False
        for level, kind, data in control:
            if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR):
                code, _, _, _, _, info, _ = struct.unpack_from("=IBBBBII", data)
                found.append((code, info, socket.inet_ntoa(data[20:24])))  # who sent it: a sockaddr_in
        return bool(found)

    wait_for(heard, "an ICMP error to come back through the NAT")
    return found[0]


def listening_for_errors(sock: socket.socket, *, df: bool | None = None, ttl: int | None = None) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    if df is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO if df else _PMTUDISC_DONT)
    if ttl is not None:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    return sock


def test_a_known_port_stays_one_as_long_as_it_is_free(lab: Prober) -> None:
    """REQ-3 a in part: whoever comes second gets one of the others, as the lab gives out none of the known ports."""
    with lab.udp("one", 3653) as one:
        ann, bob = (deliver(lab.udp(name, 500), (lab.address("one"), 3653), one) for name in ("ann", "bob"))
    assert ann == (lab.address("nat"), 500)
    assert bob[1] >= 1024


def test_an_inside_network_with_the_addresses_of_the_outside_one_is_refused() -> None:
    """REQ-7 is for boxes that get their outside address by DHCP; here both sides are known, and must not conflict."""
    net = Network("conflict")
    net.link(net.client("ann"), net.nat("nat"), ipv4="203.0.113.0/24")
    net.link("nat", net.router("internet"), ipv4="203.0.113.0/24")
    net.link("internet", net.host("one"))
    with pytest.raises(TopologyError, match="203.0.113.0/24"):
        make_plan(net)


def test_an_address_in_the_data_is_left_alone(lab: Prober) -> None:
    """REQ-10: no application level gateway.  This is what one for SIP would change."""
    words = f"REGISTER sip:one SIP/2.0\r\nContact: <sip:ann@{lab.address('ann')}:5060>\r\n\r\n".encode()
    seen: list[tuple[bytes, Endpoint]] = []

    def arrived() -> bool:
        while (got := received(one)) is not None:
            seen.append(got)
        return bool(seen)

    with lab.udp("one", 5060) as one:
        lab.udp("ann", 5060).sendto(words, (lab.address("one"), 5060))
        wait_for(arrived, "a datagram")
    assert seen[0][0] == words


def test_an_icmp_error_from_anyone_on_the_way_comes_through_and_ends_no_mapping(lab: Prober) -> None:
    """REQ-12, a and b: here it comes from the destination, then from a router that was never spoken to."""
    with lab.udp("one", 3653) as one:
        ann = listening_for_errors(lab.udp("ann", 5001))
        before = deliver(ann, (lab.address("one"), 3653), one)
        ann.sendto(b"nobody listens there", (lab.address("one"), 9))
        assert error_of(ann)[::2] == (errno.ECONNREFUSED, lab.address("one"))
        listening_for_errors(ann, ttl=2).sendto(b"too many hops", (lab.address("one"), 3653))
        code, _, router = error_of(ann)
        near = lab.plan.node("internet").interfaces[0].ipv4
        assert near is not None
        assert (code, router) == (errno.EHOSTUNREACH, str(IPv4Interface(near).ip))
        deliver(one, before, ann)
        assert deliver(listening_for_errors(ann, ttl=64), (lab.address("one"), 3653), one) == before


def test_a_packet_too_large_for_the_outside_is_refused_with_its_size_or_sent_in_fragments(lab: Prober) -> None:
    """REQ-13 and 13 a."""
    large = bytes(1400)
    with lab.udp("one", 3653) as one:
        whole = listening_for_errors(lab.udp("ann", 5001), df=True)
        whole.sendto(large, (lab.address("one"), 3653))
        code, mtu, _ = error_of(whole)
        assert (code, mtu) == (errno.EMSGSIZE, MTU)
        assert received(one) is None

        seen: list[tuple[bytes, Endpoint]] = []

        def arrived() -> bool:
            while (got := received(one)) is not None:
                seen.append(got)
            return bool(seen)

        listening_for_errors(lab.udp("ann", 5003), df=False).sendto(large, (lab.address("one"), 3653))
        wait_for(arrived, "a datagram that the NAT cut into fragments")
        assert (len(seen[0][0]), seen[0][1]) == (len(large), (lab.address("nat"), 5003))


def fragments(datagram: bytes, size: int) -> list[bytes]:
    """An IPv4 packet without options as several, with `size` bytes of data each (RFC 791 section 3.2)."""
    header, data = datagram[:20], datagram[20:]
    found = []
    for at in range(0, len(data), size):
        part = data[at : at + size]
        more = 0x2000 if at + size < len(data) else 0
        head = bytearray(header)
        struct.pack_into("!HHH", head, 2, 20 + len(part), 77, more | at // 8)
        struct.pack_into("!H", head, 10, 0)
        struct.pack_into("!H", head, 10, packets.internet_checksum(bytes(head)))
        found.append(bytes(head) + part)
    return found


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "the last one first"])
def test_fragments_in_any_order_pass_in_both_directions(lab: Prober, backwards: bool) -> None:
    """REQ-14."""
    with lab.udp("one", 3653) as one:
        ann = lab.udp("ann", 5001)
        mapped = deliver(ann, (lab.address("one"), 3653), one)
        for sender, source, target, ear in (
            ("ann", (lab.address("ann"), 5001), (lab.address("one"), 3653), one),
            ("one", (lab.address("one"), 3653), mapped, ann),
        ):
            data = b"in several parts " * 50
            packet = packets.udp(IPv4Address(source[0]), IPv4Address(target[0]), source[1], target[1], data)
            raw = lab.open(sender, socket.SOCK_RAW, socket.IPPROTO_RAW)
            parts = fragments(packet, 400)
            assert len(parts) == 3
            for part in reversed(parts) if backwards else parts:
                raw.sendto(part, (target[0], 0))
            seen: list[tuple[bytes, Endpoint]] = []

            def arrived(ear: socket.socket = ear, seen: list[tuple[bytes, Endpoint]] = seen) -> bool:
                while (got := received(ear)) is not None:
                    seen.append(got)
                return bool(seen)

            wait_for(arrived, f"the fragments of {sender}")
            assert seen[0][0] == data


def test_a_ping_from_inside_is_answered_and_two_with_one_identifier_are_told_apart(lab: Prober) -> None:
    """RFC 5508 REQ-1: an identifier is to ICMP what a port is to UDP."""
    answers: dict[str, list[bytes]] = {"ann": [], "bob": []}
    sockets = {}
    for name in answers:
        sockets[name] = lab.open(name, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        body = struct.pack("!HH", 4711, 1) + name.encode()
        head = b"\x08\x00"
        checksum = packets.internet_checksum(head + b"\0\0" + body).to_bytes(2, "big")
        sockets[name].sendto(head + checksum + body, (lab.address("one"), 0))

    def answered() -> bool:
        for name, sock in sockets.items():
            while (got := received(sock)) is not None:
                if got[0][20] == 0:
                    answers[name].append(got[0][24:])
        return all(answers.values())

    wait_for(answered, "an answer for each")
    assert answers == {name: [struct.pack("!HH", 4711, 1) + name.encode()] for name in answers}
