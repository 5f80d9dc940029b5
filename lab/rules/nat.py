"""NAT behaviour (RFC 4787) as the text of one nftables ruleset.

Two mappings are offered, both with address and port-dependent filtering, which is what Linux connection
tracking does by itself: a packet from outside passes only as part of a flow that was opened from inside.

**Endpoint-independent mapping (EIM)** is written with maps, because plain `masquerade` is not strict: it lets
two inside hosts with the same source port share one outside port towards different peers ("port overloading",
which RFC 4787 REQ-3 forbids), and whoever then talks to the other's peer gets a second outside port.  So the
chain `record`, which sees packets after translation, remembers `mapping` (inside endpoint -> outside endpoint),
`mapped` (its keys, because before Linux 6.9 a map could not be asked whether it has one) and `taken` (outside ports
in use), and the chain `translate` asks them first: a known endpoint keeps its mapping, a new one keeps its port number
if nobody has it, and gets another one if somebody does.  Only packets from inside refresh a mapping (RFC 4787 REQ-6).

**Address and port-dependent mapping (APDM)**, the "symmetric" NAT, is `masquerade random`: a new port for
every destination.

The chain `input` matters more than it looks.  Without its drop, a packet that arrives before the inside host
spoke to that peer would be accepted by the box itself, leave an entry in connection tracking, and push the later
outbound flow to another port: one early probe would undo endpoint independence.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from ipaddress import IPv4Address
from typing import Final


class Mapping(Enum):
    """How an inside endpoint gets its outside port (RFC 4787 section 4.1)."""

    ENDPOINT_INDEPENDENT = "EIM"
    ADDRESS_AND_PORT_DEPENDENT = "APDM"


class Filtering(Enum):
    """Which packets from outside a mapping lets in (RFC 4787 section 5)."""

    ADDRESS_AND_PORT_DEPENDENT = "APDF"


MAPPING_TIMEOUT_S: Final = 300
"""How long an EIM mapping outlives its last outbound packet (RFC 4787 REQ-5 recommends 5 minutes).

Longer than the kernel's own timeout of a UDP flow (120 s), so no port is given away while a flow still uses it.
"""

_FIRST_OTHER_PORT: Final = 0x5004
_OTHER_PORTS: Final = 252
"""Ports handed out when the wanted one is taken: 0x0450, 0x0550 ... 0xff50.

nft hands `numgen` to the NAT code in the machine's byte order, so on a little-endian machine consecutive
numbers become ports 256 apart.  252 numbers from 0x5004 never reach a port below 1024 whichever order is used,
and none is given twice before all were.
"""


def nat_ruleset(
    *,
    outside: str,
    inside: Sequence[str],
    address: IPv4Address | str,
    mapping: Mapping | str = Mapping.ENDPOINT_INDEPENDENT,
    filtering: Filtering | str = Filtering.ADDRESS_AND_PORT_DEPENDENT,
) -> str:
    """The whole ruleset of a NAT box, as text for `nft -f`; loading it again replaces it in one step.

    `outside` and `inside` are interface names, `address` is the outside address.  Rules carry the names
    `nat_established`, `nat_outbound`, `nat_unsolicited`, `nat_mapping_kept`, `nat_port_kept`, `nat_port_changed`
    and `nat_masquerade` as comments beside their counters (those of translation count flows, not packets).
    ValueError for a mapping or a filtering that is not offered.
    """
    mapping, filtering = Mapping(mapping), Filtering(filtering)
    lans = _set_of(inside)
    if mapping is Mapping.ENDPOINT_INDEPENDENT:
        translation = _endpoint_independent(outside, str(address))
    else:
        translation = _address_and_port_dependent(outside)
    return f"""\
flush ruleset
table ip nat {{
{translation}}}
table ip filter {{
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname "{outside}" ct state established,related counter accept comment "nat_established"
		iifname "{outside}" icmp type echo-request counter accept comment "nat_echo"
		iifname "{outside}" counter drop comment "nat_unsolicited"
	}}
	chain forward {{
		type filter hook forward priority filter; policy drop;
		ct state established,related counter accept comment "nat_established"
		iifname {lans} counter accept comment "nat_outbound"
		counter drop comment "nat_unsolicited"
	}}
}}
"""


def _endpoint_independent(outside: str, address: str) -> str:
    wan = f'oifname "{outside}"'
    timeout = f"flags dynamic,timeout; timeout {MAPPING_TIMEOUT_S}s; size 65535;"
    inner = "ct original ip saddr . ct original proto-src"
    return f"""\
	map mapping {{
		type ipv4_addr . inet_service : ipv4_addr . inet_service
		{timeout}
	}}
	set mapped {{
		type ipv4_addr . inet_service
		{timeout}
	}}
	set taken {{
		type inet_service
		{timeout}
	}}
	chain translate {{
		type nat hook postrouting priority srcnat; policy accept;
		{wan} ip saddr . udp sport @mapped \
counter snat ip to ip saddr . udp sport map @mapping comment "nat_mapping_kept"
		{wan} udp sport != @taken counter snat to {address} comment "nat_port_kept"
		{wan} meta l4proto udp \
counter snat to {address} : numgen inc mod {_OTHER_PORTS} offset {_FIRST_OTHER_PORT} comment "nat_port_changed"
		{wan} counter masquerade comment "nat_masquerade"
	}}
	chain record {{
		type filter hook postrouting priority srcnat + 10; policy accept;
		{wan} meta l4proto udp update @taken {{ udp sport }} comment "nat_record"
		{wan} meta l4proto udp ct direction original update @mapped {{ {inner} }} comment "nat_record"
		{wan} meta l4proto udp ct direction original \
update @mapping {{ {inner} : ip saddr . udp sport }} comment "nat_record"
	}}
"""


def _address_and_port_dependent(outside: str) -> str:
    wan = f'oifname "{outside}"'
    return f"""\
	chain translate {{
		type nat hook postrouting priority srcnat; policy accept;
		{wan} meta l4proto {{ tcp, udp }} counter masquerade random comment "nat_port_changed"
		{wan} counter masquerade comment "nat_masquerade"
	}}
"""


def _set_of(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f'"{names[0]}"'
    return "{ " + ", ".join(f'"{name}"' for name in names) + " }"
