"""The XML of the command phase: what is written suits old readers, what is read is whatever peers write."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from lab.tsp import Status
from lab.tsp.framing import MAX_MESSAGE
from lab.tsp.messages import (
    MAX_BROKERS,
    Action,
    Endpoint,
    Keepalive,
    Router,
    TunnelMessage,
    format_brokers,
    format_tunnel,
    parse_brokers,
    parse_tunnel,
)
from lab.tsp.status import MessageError

GOGOC_CREATE = (
    b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n  <address type="ipv4">10.77.0.2</address>\r\n'
    b'  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n'
    b"</tunnel>\r\n"
)
OFFER = TunnelMessage(
    action=Action.INFO,
    type="v6udpv4",
    lifetime_min=1440,
    server=Endpoint(ipv4=IPv4Address("198.51.100.1"), ipv6=IPv6Address("2001:db8:f000::1")),
    client=Endpoint(
        ipv4=IPv4Address("192.0.2.10"),
        ipv6=IPv6Address("2001:db8:f000::2"),
        keepalive=Keepalive(interval_s=30, address=IPv6Address("2001:db8:f000::1")),
        router=Router(prefix_length=56, prefix=IPv6Network("2001:db8:f100::/56"), dns_servers=("ns.example",)),
    ),
)


def test_request_of_gogoc_has_the_length_it_announces_and_is_understood() -> None:
    assert len(GOGOC_CREATE) == 214
    message = parse_tunnel(GOGOC_CREATE)
    assert (message.action, message.type, message.proxy) == (Action.CREATE, "v6udpv4", False)
    assert message.client is not None
    assert message.client.ipv4 == IPv4Address("10.77.0.2")
    assert message.client.keepalive == Keepalive(interval_s=30, address=IPv6Address("::"))


def test_router_mode_of_gogoc_is_understood() -> None:
    content = GOGOC_CREATE.replace(
        b" </client>",
        b'<router>\r\n<prefix length="56"/>\r\n<dns_server>\r\n<address type="dn">ns.example</address>\r\n'
        b"</dns_server>\r\n</router>\r\n </client>",
    )
    client = parse_tunnel(content).client
    assert client is not None
    assert client.router == Router(prefix_length=56, dns_servers=("ns.example",))


def test_offer_is_written_as_the_oldest_reader_needs_it() -> None:
    text = format_tunnel(OFFER).decode()
    assert text.startswith('<tunnel action="info" type="v6udpv4" lifetime="1440">\r\n')
    assert "<?xml" not in text
    assert "'" not in text
    assert '<address type="ipv6">2001:db8:f000::2</address>' in text  # no white space inside
    assert '<prefix length="56">2001:0db8:f100:0000:0000:0000:0000:0000</prefix>' in text  # cut at a fixed column
    assert '<keepalive interval="30">\r\n   <address type="ipv6">2001:db8:f000::1</address>' in text
    assert text.endswith("</tunnel>\r\n")
    assert parse_tunnel(text.encode()) == OFFER


def test_accept_is_the_33_characters_of_the_rfc() -> None:
    assert format_tunnel(TunnelMessage(action=Action.ACCEPT)) == b'<tunnel action="accept"></tunnel>\r\n'


def test_white_space_case_comments_and_unknown_parts_are_no_hindrance() -> None:
    content = (
        b"<?xml version='1.0'?>\n<TUNNEL Action='INFO' TYPE=' V6UDPV4 ' xmlns='urn:x' lifetime='604800'>\n"
        b"<!-- a comment --><news>x</news>\n<Client><Address type='ipv4' length='30'>\n 192.0.2.10 \n</Address>"
        b"<address type='ns'>x</address><address type='IPV6'> 2001:0DB8:F000:0000:0000:0000:0000:0002\t</address>"
        b"</Client></TUNNEL>\0"
    )
    message = parse_tunnel(content)
    assert (message.action, message.type, message.lifetime_min) == (Action.INFO, "v6udpv4", 604800)
    assert message.client == Endpoint(ipv4=IPv4Address("192.0.2.10"), ipv6=IPv6Address("2001:db8:f000::2"))


def test_address_of_a_host_given_as_prefix_is_its_network() -> None:
    # ddtb answers with the server's tunnel address where the prefix belongs.
    content = (
        b'<tunnel action="info"><client><router><prefix length="64">2001:db8::1/64</prefix></router></client></tunnel>'
    )
    client = parse_tunnel(content).client
    assert client is not None
    assert client.router is not None
    assert client.router.prefix == IPv6Network("2001:db8::/64")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", Status.BAD_SYNTAX),
        (b"<tunnel", Status.BAD_SYNTAX),
        (b"<other/>", Status.BAD_SYNTAX),
        (b"<tunnel/>", Status.BAD_SYNTAX),
        (b'<tunnel action="renew"/>', Status.BAD_SYNTAX),
        (b'<tunnel action="info" lifetime="long"/>', Status.BAD_SYNTAX),
        (b'<tunnel action="info" lifetime="9999999999999999999999"/>', Status.BAD_SYNTAX),
        (b'<tunnel action="create"></tunnel><tunnel/>', Status.BAD_SYNTAX),
        (b'<tunnel action="create">\xff</tunnel>', Status.BAD_SYNTAX),
        ('<tunnel action="create"/>'.encode("utf-16"), Status.BAD_SYNTAX),
        (b'<tunnel action="create">' + b" " * MAX_MESSAGE + b"</tunnel>", Status.BAD_SYNTAX),
        (b'<tunnel action="create">' + b"<a/>" * 300 + b"</tunnel>", Status.BAD_SYNTAX),
        (
            b'<tunnel action="create"><client><address type="ipv4">10.0.0.256</address></client></tunnel>',
            Status.BAD_IPV4_ADDRESS,
        ),
        (b'<tunnel action="create"><client><address type="ipv4"/></client></tunnel>', Status.BAD_IPV4_ADDRESS),
        (
            b'<tunnel action="create"><client><address type="ipv6">fe80::1%eth0</address></client></tunnel>',
            Status.BAD_IPV6_ADDRESS,
        ),
        (
            b'<tunnel action="create"><client><router><prefix length="129"/></router></client></tunnel>',
            Status.PREFIX_LENGTH_NOT_AVAILABLE,
        ),
        (
            b'<tunnel action="create"><client><keepalive interval="soon"/></client></tunnel>',
            Status.BAD_SYNTAX,
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_code(content: bytes, status: Status) -> None:
    with pytest.raises(MessageError) as caught:
        parse_tunnel(content)
    assert caught.value.status is status


@pytest.mark.parametrize(
    "content",
    [
        b'<!DOCTYPE tunnel><tunnel action="create"/>',
        b'<?xml version="1.0"?><!doctype tunnel [<!ENTITY a "aaaa">]><tunnel action="create">&a;</tunnel>',
        b'<!DOCTYPE t SYSTEM "file:///etc/passwd"><tunnel action="create"/>',
        b'<! DOCTYPE tunnel><tunnel action="create"/>',
    ],
)
def test_doctype_is_refused_before_parsing(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("the parser was reached")

    monkeypatch.setattr("lab.tsp.messages.ElementTree.fromstring", parse)
    with pytest.raises(MessageError, match="DOCTYPE"):
        parse_tunnel(content)


def test_broker_list_is_read_in_both_forms() -> None:
    one_each = format_brokers(("192.0.2.1", "2001:db8::1", "broker.example"))
    assert b'<address type="ipv4">192.0.2.1</address>' in one_each
    assert b'<address type="ipv6">2001:db8::1</address>' in one_each
    assert b'<address type="dn">broker.example</address>' in one_each
    assert parse_brokers(one_each) == ("192.0.2.1", "2001:db8::1", "broker.example")
    together = (
        b'<tunnel><broker><address type="ipv4"> 192.0.2.1 </address><address>192.0.2.2</address></broker></tunnel>\0'
    )
    assert parse_brokers(together) == ("192.0.2.1", "192.0.2.2")


def test_broker_list_is_cut_where_gogoc_cuts_it() -> None:
    many = b"".join(b"<address>192.0.2.%d</address>" % number for number in range(MAX_BROKERS + 5))
    assert len(parse_brokers(b"<tunnel><broker>" + many + b"</broker></tunnel>")) == MAX_BROKERS


def test_text_from_a_configuration_cannot_break_out_of_its_element() -> None:
    name = '<&>"x'
    assert parse_brokers(format_brokers((name,))) == (name,)
