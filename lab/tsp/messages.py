"""The XML of the command phase (RFC 5572 sections 4.4.3 and 4.7).

Writing suits the hand-written XML readers of old clients: no declaration, double quotes, no white space in an
address, prefixes in full form, an address inside every keepalive element.  Reading is tolerant of all that, of
case in names, and of elements and attributes it does not know.

XML from a stranger is refused before parsing when it is too long, is not UTF-8 or holds a DOCTYPE; what is left
goes through defusedxml.  `parse_*` raise `MessageError`, a `RemoteProtocolError` that knows its status code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from lab.tsp.framing import MAX_MESSAGE
from lab.tsp.lines import BLANKS
from lab.tsp.status import MessageError, Status

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_BROKERS: Final = 50
"""Addresses kept from a redirection list; gogoc keeps as many."""

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_FORBIDDEN: Final = re.compile(rb"<!\s*(?:doctype|entity)", re.IGNORECASE)
_MAX_ELEMENTS: Final = 256


class Action(Enum):
    """What a message wants (RFC 5572 section 4.7.1)."""

    CREATE = "create"
    DELETE = "delete"
    INFO = "info"
    ACCEPT = "accept"
    REJECT = "reject"
    LIST = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The router element: a prefix asked for (length only) or given (both)."""

    prefix_length: int | None = None
    prefix: IPv6Network | None = None
    dns_servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    interval_s: int | None = None
    address: IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The client or the server element."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    router: Router | None = None
    keepalive: Keepalive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelMessage:
    """One tunnel element.  `type` stays a word: an unknown one has a status code of its own."""

    action: Action
    type: str | None = None
    lifetime_min: int | None = None
    proxy: bool = False
    """True: asked on behalf of another machine.  Not in RFC 5572; gogoc sends it."""
    client: Endpoint | None = None
    server: Endpoint | None = None


def parse_tunnel(content: bytes) -> TunnelMessage:
    """The tunnel element a peer sent.  Raises `MessageError`."""
    root = _parse_xml(content)
    if _name(root) != "tunnel":
        raise MessageError(f"expected a tunnel element, got {_name(root)[:40]!r}")
    attributes = _attributes(root)
    try:
        action = Action(attributes.get("action", "").lower())
    except ValueError as exc:
        raise MessageError(f"unknown action {attributes.get('action', '')[:40]!r}") from exc
    ends = {_name(child): _parse_endpoint(child) for child in root if _name(child) in ("client", "server")}
    kind = attributes.get("type")
    return TunnelMessage(
        action=action,
        type=kind.lower() if kind is not None else None,
        lifetime_min=_optional_number(attributes.get("lifetime"), "lifetime"),
        proxy=attributes.get("proxy", "no").lower() == "yes",
        client=ends.get("client"),
        server=ends.get("server"),
    )


def parse_brokers(content: bytes) -> tuple[str, ...]:
    """The addresses and names of a redirection list, in its order.  Raises `MessageError`.

    Several broker elements or several addresses in one: both are in use.  Action and type are not looked at.
    """
    found: list[str] = []
    for broker in _parse_xml(content).iter():
        if _name(broker) == "broker":
            found += [text for child in broker if _name(child) == "address" and (text := _text(child))]
    return tuple(dict.fromkeys(found))[:MAX_BROKERS]


def format_tunnel(message: TunnelMessage) -> bytes:
    """The XML of one message, lines ended by CR LF."""
    attributes = [f'action="{message.action.value}"']
    if message.type is not None:
        attributes.append(f'type="{_escape(message.type)}"')
    if message.lifetime_min is not None:
        attributes.append(f'lifetime="{message.lifetime_min}"')
    if message.proxy:
        attributes.append('proxy="yes"')
    opening = f"<tunnel {' '.join(attributes)}>"
    lines = [
        *_format_endpoint("server", message.server),
        *_format_endpoint("client", message.client),
    ]
    if not lines:
        return f"{opening}</tunnel>\r\n".encode()
    return "\r\n".join([opening, *lines, "</tunnel>", ""]).encode()


def format_brokers(brokers: tuple[str, ...]) -> bytes:
    """A redirection list (RFC 5572 section 4.7.4); what is no address is written as a domain name."""
    lines = ['<tunnel action="list" type="broker">']
    for broker in brokers:
        try:
            kind = f"ipv{ip_address(broker).version}"
        except ValueError:
            kind = "dn"
        lines += [" <broker>", f'  <address type="{kind}">{_escape(broker)}</address>', " </broker>"]
    return "\r\n".join([*lines, "</tunnel>", ""]).encode()


def _format_endpoint(name: str, end: Endpoint | None) -> Iterator[str]:
    if end is None:
        return
    yield f" <{name}>"
    if end.ipv4 is not None:
        yield f'  <address type="ipv4">{end.ipv4}</address>'
    if end.ipv6 is not None:
        yield f'  <address type="ipv6">{end.ipv6}</address>'
    if end.keepalive is not None:
        interval = end.keepalive.interval_s
        yield "  <keepalive>" if interval is None else f'  <keepalive interval="{interval}">'
        if end.keepalive.address is not None:
            yield f'   <address type="ipv6">{end.keepalive.address}</address>'
        yield "  </keepalive>"
    if end.router is not None:
        yield "  <router>"
        if end.router.prefix is not None:
            prefix = end.router.prefix
            yield f'   <prefix length="{prefix.prefixlen}">{prefix.network_address.exploded}</prefix>'
        elif end.router.prefix_length is not None:
            yield f'   <prefix length="{end.router.prefix_length}"/>'
        if end.router.dns_servers:
            yield "   <dns_server>"
            for server in end.router.dns_servers:
                yield f'    <address type="dn">{_escape(server)}</address>'
            yield "   </dns_server>"
        yield "  </router>"
    yield f" </{name}>"


def _parse_endpoint(element: Element) -> Endpoint:
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    router: Router | None = None
    keepalive: Keepalive | None = None
    for child in element:
        name = _name(child)
        if name == "address":
            kind = _attributes(child).get("type", "").lower()
            if kind == "ipv4":
                ipv4 = _ipv4(_text(child))
            elif kind == "ipv6":
                ipv6 = _ipv6(_text(child))
        elif name == "router":
            router = _parse_router(child)
        elif name == "keepalive":
            keepalive = _parse_keepalive(child)
    return Endpoint(ipv4=ipv4, ipv6=ipv6, router=router, keepalive=keepalive)


def _parse_router(element: Element) -> Router:
    length: int | None = None
    prefix: IPv6Network | None = None
    servers: list[str] = []
    for child in element:
        if _name(child) == "prefix":
            length = _optional_number(_attributes(child).get("length"), "prefix length")
            if length is None or not 1 <= length <= 128:
                raise MessageError("a prefix length is 1 to 128", Status.PREFIX_LENGTH_NOT_AVAILABLE)
            address = _text(child).partition("/")[0]
            if address:
                prefix = IPv6Network((_ipv6(address), length), strict=False)
        elif _name(child) == "dns_server":
            servers += [text for entry in child if _name(entry) == "address" and (text := _text(entry))]
    return Router(prefix_length=length, prefix=prefix, dns_servers=tuple(servers))


def _parse_keepalive(element: Element) -> Keepalive:
    address: IPv6Address | None = None
    for child in element:
        if _name(child) == "address" and _attributes(child).get("type", "ipv6").lower() == "ipv6" and _text(child):
            address = _ipv6(_text(child))
    return Keepalive(interval_s=_optional_number(_attributes(element).get("interval"), "interval"), address=address)


def _parse_xml(content: bytes) -> Element:
    content = content.strip(BLANKS)
    if len(content) > MAX_MESSAGE:
        raise MessageError(f"XML longer than {MAX_MESSAGE} bytes")
    if _FORBIDDEN.search(content):
        raise MessageError("XML with a DOCTYPE is refused")
    try:
        root: Element = ElementTree.fromstring(content.decode(), forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as exc:
        raise MessageError(f"unreadable XML: {exc}") from exc
    if sum(1 for _ in root.iter()) > _MAX_ELEMENTS:
        raise MessageError(f"more than {_MAX_ELEMENTS} elements")
    return root


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2].lower()


def _attributes(element: Element) -> dict[str, str]:
    return {name.lower(): value.strip() for name, value in element.attrib.items()}


def _text(element: Element) -> str:
    return (element.text or "").strip()


def _optional_number(text: str | None, what: str) -> int | None:
    if text is None or text == "":
        return None
    if not _NUMBER.fullmatch(text):
        raise MessageError(f"{what} {text[:40]!r} is not a number")
    return int(text)


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as exc:
        raise MessageError(f"bad IPv4 address {text[:40]!r}", Status.BAD_IPV4_ADDRESS) from exc


def _ipv6(text: str) -> IPv6Address:
    try:
        if "%" in text:
            raise ValueError("a zone means nothing to the other end")
        return IPv6Address(text)
    except ValueError as exc:
        raise MessageError(f"bad IPv6 address {text[:40]!r}", Status.BAD_IPV6_ADDRESS) from exc


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
