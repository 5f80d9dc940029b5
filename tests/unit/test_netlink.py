"""The bytes of route netlink messages, against the layouts of linux/rtnetlink.h, and what is read from answers."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from lab.kernel import netlink, shaping, sit
from lab.kernel.netlink import Request, attributes
from lab.topology.plan import Shape


def opened(request: Request) -> tuple[int, int, bytes]:
    """(type, flags, body) of the one message in a request."""
    length, kind, flags, _, _ = struct.unpack_from("=IHHII", request.data)
    assert length == len(request.data)
    assert length % 4 == 0
    return kind, flags, request.data[16:]


def tree(data: bytes) -> dict[int, bytes]:
    return dict(attributes(data))


def test_a_veth_message_names_both_ends_and_both_namespaces() -> None:
    request = netlink.add_veth("e0", 5, "02:00:00:00:00:01", 7, "eth0", 2, "02:00:00:00:00:02", 8, 1400)
    kind, flags, body = opened(request)
    assert (kind, flags) == (16, 0x601)  # RTM_NEWLINK; request, create, exclusive
    assert struct.unpack_from("=BxHiII", body) == (0, 0, 5, 0, 0)
    near = tree(body[16:])
    assert near[3] == b"e0\0"
    assert near[1] == bytes.fromhex("020000000001")
    assert near[4] == struct.pack("=I", 1400)
    assert near[28] == struct.pack("=i", 7)
    info = tree(near[18])
    assert info[1] == b"veth"
    peer = tree(info[2])[1]
    assert struct.unpack_from("=BxHiII", peer) == (0, 0, 2, 0, 0)
    assert tree(peer[16:]) == {
        3: b"eth0\0",
        1: bytes.fromhex("020000000002"),
        4: struct.pack("=I", 1400),
        28: struct.pack("=i", 8),
    }


@pytest.mark.parametrize(
    ("address", "family", "length", "flags", "packed"),
    [
        ("192.0.2.1/30", 2, 30, 0, bytes([192, 0, 2, 1])),
        ("2001:db8::1/64", 10, 64, 2, bytes.fromhex("20010db8000000000000000000000001")),  # 2: no DAD
        ("203.0.113.9", 2, 32, 0, bytes([203, 0, 113, 9])),
    ],
)
def test_an_address_message_is_of_its_family(address: str, family: int, length: int, flags: int, packed: bytes) -> None:
    kind, _, body = opened(netlink.add_address("eth0", 3, address))
    assert kind == 20
    assert struct.unpack_from("=BBBBI", body) == (family, length, flags, 0, 3)
    assert tree(body[8:]) == {1: packed, 2: packed}


def test_a_default_route_has_no_destination() -> None:
    kind, _, body = opened(netlink.add_route("::/0", "2001:db8::1", 2))
    assert kind == 24
    assert body[:2] == bytes([10, 0])
    assert tree(body[12:]) == {5: bytes.fromhex("20010db8000000000000000000000001"), 4: struct.pack("=I", 2)}


def test_a_direct_ipv4_route_is_of_link_scope_and_may_limit_the_mtu() -> None:
    _, _, body = opened(netlink.add_route("10.0.0.0/8", None, 2, mtu=1280))
    assert body[6] == 253
    found = tree(body[12:])
    assert tree(found[8]) == {2: struct.pack("=I", 1280)}


def test_an_unreachable_route_has_no_interface() -> None:
    kind, flags, body = opened(netlink.add_unreachable("2001:db8:f000::/56"))
    assert (kind, flags) == (24, 0x601)
    assert body[:2] == bytes([10, 56])
    assert body[7] == 7  # RTN_UNREACHABLE
    assert tree(body[12:]) == {1: bytes.fromhex("20010db8f00000000000000000000000")}
    kind, _, again = opened(netlink.delete_unreachable("2001:db8:f000::/56"))
    assert (kind, again) == (25, body)


def test_a_6in4_device_has_a_fixed_mtu_and_may_be_fragmented() -> None:
    request = sit.add_sit("s0", IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), 1280, 64)
    _, _, body = opened(request)
    found = tree(body[16:])
    info = tree(found[18])
    assert info[1] == b"sit"
    assert tree(info[2]) == {2: bytes([192, 0, 2, 1]), 3: bytes([192, 0, 2, 2]), 4: bytes([64]), 10: bytes([0])}
    assert found[4] == struct.pack("=I", 1280)


def test_netem_is_given_nanoseconds_and_shares_of_two_to_the_32() -> None:
    shape = Shape("a", "e0", 5, delay_ms=20.5, jitter_ms=1.25, loss_pct=50.0)
    kind, _, body = opened(shaping.netem("e0", 5, shaping.TC_H_ROOT, shape))
    assert kind == 36
    assert struct.unpack_from("=BxxxiIII", body) == (0, 5, 0x10000, 0xFFFFFFFF, 0)
    found = tree(body[20:])
    assert found[1] == b"netem\0"
    latency, _, loss, gap, duplicate, jitter = struct.unpack_from("=IIIIII", found[2])
    assert (latency, gap, duplicate, jitter) == (0, 0, 0, 0)
    assert loss == round(0.5 * (2**32 - 1))
    inner = tree(found[2][24:])
    assert struct.unpack("=q", inner[10]) == (20_500_000,)
    assert struct.unpack("=q", inner[11]) == (1_250_000,)


def test_tbf_lets_two_frames_through_and_keeps_a_queue_for_six() -> None:
    _, _, body = opened(shaping.tbf("e0", 5, 0x10001, 0.1, 1500))
    assert struct.unpack_from("=BxxxiIII", body) == (0, 5, 0x20000, 0x10001, 0)
    options = tree(tree(body[20:])[2])
    link_layer, rate = options[1][1], struct.unpack_from("=I", options[1], 8)[0]
    assert (link_layer, rate) == (1, 12_500)
    assert struct.unpack_from("=I", options[1], 24) == (6 * 1514,)
    assert options[6] == struct.pack("=I", 2 * 1514)


def test_attributes_that_make_no_sense_end_the_list() -> None:
    good = netlink.attribute(3, b"eth0\0")
    assert list(attributes(good + b"\x02\x00\x01\x00" + good)) == [(3, b"eth0\0")]
    assert list(attributes(b"\x01")) == []
