"""Between the XML and the tunnel: requests and offers as messages, and their checks (RFC 5572 section 4.7).

The messages module knows elements and attributes.  This one knows which of them a request or an offer must
have, and what addresses in them are possible at all.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from lab.errors import RemoteProtocolError
from lab.tsp.config import ClientConfig
from lab.tsp.messages import Action, Endpoint, Keepalive, Router, TunnelMessage
from lab.tsp.parameters import (
    CARRIED,
    Transport,
    TunnelParameters,
    TunnelRequest,
    TunnelType,
    decide_tunnel_type,
)
from lab.tsp.status import MessageError, Status

_UNSPECIFIED = IPv6Address("::")


def create_message(config: ClientConfig) -> TunnelMessage:
    """What a client asks for: only its IPv4 address, as it must over IPv4 (RFC 5572 section 4.7.2)."""
    keepalive = None
    if config.keepalive_interval_s is not None:
        keepalive = Keepalive(interval_s=config.keepalive_interval_s, address=_UNSPECIFIED)
    router = None if config.prefix_length is None else Router(prefix_length=config.prefix_length)
    return TunnelMessage(
        action=Action.CREATE,
        type=config.tunnel.value,
        client=Endpoint(ipv4=config.client_address, keepalive=keepalive, router=router),
    )


def read_request(
    message: TunnelMessage,
    *,
    transport: Transport,
    peer: IPv4Address,
    user: str | None,
    offered: tuple[TunnelType, ...],
) -> TunnelRequest:
    """The request in a create message, its tunnel type decided.

    `peer` is the source address the broker sees.  Raises `MessageError` for what is missing or malformed and
    `TunnelRefused` for a type that is not to be had.
    """
    try:
        requested = TunnelType(message.type)
    except ValueError as exc:
        raise MessageError(f"no tunnel type {message.type!r}", Status.TUNNEL_TYPE_NOT_PROVIDED) from exc
    if message.proxy:
        # It would make us send to an address whose owner never asked.
        raise MessageError("no tunnels on behalf of other machines", Status.TUNNEL_TYPE_NOT_PROVIDED)
    client = message.client or Endpoint()
    if requested is not TunnelType.V4V6 and client.ipv4 is None:
        raise MessageError("the request has no IPv4 address of the client", Status.BAD_IPV4_ADDRESS)
    inner = client.ipv4 or IPv4Address(0)
    decided = decide_tunnel_type(requested, transport, peer, inner, offered=offered)
    router = client.router
    return TunnelRequest(
        type=decided,
        requested=requested,
        client_address=inner,
        behind_nat=inner != peer,
        router=router is not None,
        prefix_length=router.prefix_length if router else None,
        keepalive_interval_s=client.keepalive.interval_s if client.keepalive else None,
        dns_servers=router.dns_servers if router else (),
        user=user,
    )


def offer_message(tunnel: TunnelParameters) -> TunnelMessage:
    """The info message of an offer: both addresses of both ends, and an address in every keepalive."""
    keepalive = None
    if tunnel.keepalive_interval_s is not None:
        keepalive = Keepalive(
            interval_s=tunnel.keepalive_interval_s,
            address=tunnel.keepalive_address or tunnel.server_ipv6,
        )
    router = None
    if tunnel.prefix is not None:
        router = Router(prefix_length=tunnel.prefix.prefixlen, prefix=tunnel.prefix, dns_servers=tunnel.dns_servers)
    return TunnelMessage(
        action=Action.INFO,
        type=tunnel.type.value,
        lifetime_min=tunnel.lifetime_min,
        server=Endpoint(ipv4=tunnel.server_ipv4, ipv6=tunnel.server_ipv6),
        client=Endpoint(ipv4=tunnel.client_ipv4, ipv6=tunnel.client_ipv6, keepalive=keepalive, router=router),
    )


def read_offer(message: TunnelMessage, requested: TunnelType, transport: Transport) -> TunnelParameters:
    """The tunnel a broker offers.  Raises `RemoteProtocolError` for one that cannot be meant."""
    if message.action is not Action.INFO:
        raise RemoteProtocolError(f"expected an offer (info), got {message.action.value}")
    try:
        kind = TunnelType(message.type)
    except ValueError as exc:
        raise RemoteProtocolError(f"the broker offers the unknown tunnel type {message.type!r}") from exc
    wanted = CARRIED if requested is TunnelType.V6ANYV4 else (requested,)
    if kind not in wanted:
        raise RemoteProtocolError(f"the broker offers {kind.value}, {requested.value} was asked for")
    if kind is TunnelType.V6UDPV4 and transport is Transport.TCP:
        raise RemoteProtocolError("the broker offers v6udpv4 over TCP, where there is no UDP port to use")
    client, server = message.client or Endpoint(), message.server or Endpoint()
    if client.ipv4 is None or server.ipv4 is None or client.ipv6 is None or server.ipv6 is None:
        raise RemoteProtocolError("the offer lacks an address: it must have both of both ends")
    prefix = client.router.prefix if client.router else None
    interval = client.keepalive.interval_s if client.keepalive else None
    target = client.keepalive.address if client.keepalive else None
    if target == _UNSPECIFIED:
        target = None
    for address in (
        client.ipv6,
        server.ipv6,
        *([prefix.network_address] if prefix else []),
        *([target] if target else []),
    ):
        if address.is_multicast or address.is_loopback or address.is_unspecified or address.ipv4_mapped:
            raise RemoteProtocolError(f"the offer holds {address}, which is no address of a tunnel")
    return TunnelParameters(
        type=kind,
        client_ipv4=client.ipv4,
        client_ipv6=client.ipv6,
        server_ipv4=server.ipv4,
        server_ipv6=server.ipv6,
        lifetime_min=message.lifetime_min if message.lifetime_min is not None else 1440,
        prefix=prefix,
        keepalive_interval_s=interval or None,
        keepalive_address=(target or server.ipv6) if interval else None,
        dns_servers=client.router.dns_servers if client.router else (),
    )
