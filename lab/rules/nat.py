"""NAT behaviour (RFC 4787) as the text of one nftables ruleset.

    nat_behaviour.py   what a NAT can be asked to do
    nat_presets.py     real kinds of boxes
    nat_udp.py         mapping, filtering, hairpinning and ports of UDP
    nat.py             the whole box: that, TCP and the other protocols, and what may pass

TCP is translated by connection tracking alone: one flow, one entry, filtered by address and port.  So are protocols
without ports, of which only one inside host at a time can speak to one outside address.

The chain `input` matters more than it looks.  Without its drop, a packet that arrives before the inside host
spoke to that peer would be accepted by the box itself, leave an entry in connection tracking, and push the later
outbound flow to another port: one early probe would undo endpoint independence.  `input_open` shows it.

UDP timeouts are sysctls (`nat_sysctls`), because nftables' own timeout policies are not in every kernel.  Connection
tracking uses the stream timeout for a packet when packets have gone both ways for more than two seconds; a question and
its answer within that time leave a mapping with the fresh timeout.
"""

from __future__ import annotations

from collections.abc import Iterator

from lab.rules.nat_behaviour import Filtering, Hairpinning, Mapping, NatBehaviour, Ports
from lab.rules.nat_udp import NatPlace, Share, lives, names, shares, udp_chains


def nat_ruleset(behaviour: NatBehaviour, place: NatPlace) -> str:
    """The whole ruleset of a NAT box, as text for `nft -f`; loading it again replaces it in one step.

    Rules carry names as comments beside their counters: `nat_established`, `nat_outbound`, `nat_inbound` and
    `nat_unsolicited` for what passes and what does not, `nat_mapping_kept`, `nat_port_kept`, `nat_port_changed`,
    `nat_hairpin`, `nat_one_to_one`, `nat_proto41_host` and `nat_masquerade` for translations (these count flows, not
    packets), `nat_port_taken` and `nat_no_block` for packets dropped for want of a port, and `nat_other_protocol`.
    BehaviourError when the place is too small for the behaviour.
    """
    parts = []
    if behaviour.ports is not Ports.OVERLOAD:
        parts.append(udp_chains(behaviour, place))
    parts += [*_inbound(behaviour, place), *_translate(behaviour, place)]
    return "".join(["flush ruleset\n", "table ip nat {\n", *parts, "}\n", *_filter(behaviour, place)])


def nat_sysctls(behaviour: NatBehaviour) -> dict[str, str]:
    """Sysctls of the box, to be written when its rules are loaded: only then does connection tracking surely have them.

    Empty when the timeouts are what every new network namespace begins with.
    """
    wanted = {
        "net/netfilter/nf_conntrack_udp_timeout": (behaviour.udp_timeout_s, 30),
        "net/netfilter/nf_conntrack_udp_timeout_stream": (behaviour.udp_stream_timeout_s, 120),
    }
    return {key: str(seconds) for key, (seconds, default) in wanted.items() if seconds != default}


def _inbound(behaviour: NatBehaviour, place: NatPlace) -> Iterator[str]:
    """Packets that no flow expects and that have somewhere to go all the same."""
    wan, lan = f'iifname "{place.outside}"', f"iifname {names(place.inside)}"
    rules = []
    owners = [f"dnat ip to ip daddr . udp dport map @owner_{life}" for life in lives(behaviour)]
    if place.proto41_host is not None:
        rules.append(f'{wan} ip protocol 41 counter dnat to {place.proto41_host} comment "nat_proto41_host"')
    match behaviour.filtering:
        case Filtering.ENDPOINT_INDEPENDENT:
            rules += [f'{wan} meta l4proto udp {owner} comment "nat_inbound"' for owner in owners]
            rules += [
                f'{wan} ip daddr {address} counter dnat to {host} comment "nat_one_to_one"'
                for host, address in place.own
            ]
        case Filtering.ADDRESS_DEPENDENT:
            rules += [
                f'{wan} ip daddr . udp dport . ip saddr @permitted_{life} {owner} comment "nat_inbound"'
                for life, owner in zip(lives(behaviour), owners, strict=True)
            ]
    if behaviour.hairpinning is not Hairpinning.NONE:
        own = "{ " + ", ".join(map(str, place.every_address)) + " }"
        rules += [f'{lan} ip daddr {own} meta l4proto udp {owner} comment "nat_hairpin"' for owner in owners]
    if rules:
        yield "\tchain inbound {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n"
        yield from (f"\t\t{rule}\n" for rule in rules)
        yield "\t}\n"


def _translate(behaviour: NatBehaviour, place: NatPlace) -> Iterator[str]:
    wan = f'oifname "{place.outside}"'
    yield "\tchain translate {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
    if behaviour.ports is not Ports.OVERLOAD:
        yield f"\t\t{wan} meta l4proto udp goto choose\n"
        if behaviour.hairpinning is Hairpinning.EXTERNAL:
            inside = "{ " + ", ".join(map(str, place.networks)) + " }"
            lan = f"oifname {names(place.inside)}"
            yield f"\t\t{lan} meta l4proto udp ct status dnat ip saddr {inside} goto choose\n"
    for share in reversed(shares(behaviour, place)):  # who has an address alone comes before everyone
        yield from (f"\t\t{wan} {rule}\n" for rule in _others(behaviour, place, share))
    if len(place.addresses) > 1:
        yield f'\t\t{wan} counter snat to {place.addresses[0]} comment "nat_masquerade"\n'
    yield "\t}\n"


def _others(behaviour: NatBehaviour, place: NatPlace, share: Share) -> Iterator[str]:
    """Everything but UDP (with ports=overload, UDP too) of the hosts of one outside address, behind `oifname`."""
    if share.blocks:
        for host, first, last in share.blocks:
            ports = f"{share.address}:{first}-{last}"
            yield f'ip saddr {host} meta l4proto tcp counter snat to {ports} comment "nat_masquerade"'
    everyone = len(place.addresses) == 1 and share.address == place.addresses[0]
    to = "masquerade" if everyone else f"snat to {share.address}"
    who = ""
    if not everyone:
        if not share.hosts:
            return
        who = "ip saddr { " + ", ".join(map(str, share.hosts)) + " } "
    shuffled = behaviour.ports is Ports.RANDOM or behaviour.mapping is Mapping.ADDRESS_AND_PORT_DEPENDENT
    if shuffled:
        yield f'{who}meta l4proto {{ tcp, udp }} counter {to} random comment "nat_port_changed"'
    yield f'{who}counter {to} comment "nat_masquerade"'


def _filter(behaviour: NatBehaviour, place: NatPlace) -> Iterator[str]:
    wan, lan = f'iifname "{place.outside}"', f"iifname {names(place.inside)}"
    yield "table ip filter {\n"
    yield "\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n"
    if not behaviour.input_open:
        yield f'\t\t{wan} ct state established,related counter accept comment "nat_established"\n'
        yield f'\t\t{wan} icmp type echo-request counter accept comment "nat_echo"\n'
        yield f'\t\t{wan} counter drop comment "nat_unsolicited"\n'
    yield "\t}\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n"
    if not behaviour.other_protocols:
        yield '\t\tmeta l4proto != { icmp, tcp, udp } counter drop comment "nat_other_protocol"\n'
    yield '\t\tct state established,related counter accept comment "nat_established"\n'
    if behaviour.hairpinning is not Hairpinning.NONE:
        yield f'\t\t{lan} ct status dnat counter accept comment "nat_hairpin"\n'
    yield f'\t\t{lan} counter accept comment "nat_outbound"\n'
    if behaviour.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT or place.proto41_host is not None:
        yield f'\t\t{wan} ct status dnat counter accept comment "nat_inbound"\n'
    yield '\t\tcounter drop comment "nat_unsolicited"\n\t}\n}\n'
