"""The UDP part of a NAT as nftables chains: who has which outside port, and who may send to it.

Plain `masquerade` is not strict: it lets two inside hosts share an outside port towards different peers ("port
overloading", which RFC 4787 REQ-3 forbids), and whoever then talks to the other's peer gets a second outside port.  So
this keeps books of its own, in sets and maps that the packets themselves fill in:

    mapping    key -> outside endpoint, where the key is the inside endpoint (EIM), with the peer's address (ADM) and
               port (APDM); `mapped` holds its keys, because before Linux 6.9 a map cannot be asked whether it has one
    taken      outside ports in use, a set for each outside address
    granted    outside port and key together, a set for each address: whose each one is.  (With the address in it,
               the key of APDM would have six parts; nft keeps five, and cannot list the set)
    owner      outside endpoint -> inside endpoint, where packets come in that no connection tracking expects
    permitted  outside endpoint and who may send to it, where connection tracking does not decide that

Each but `granted` is kept twice: for mappings in use (_stream) and for fresh ones, whose timeout is shorter, because an
element cannot be told to live the longer of two times.

With `parity` a port that has to be another one is drawn from a thousand, of which the first half is even and the second
odd: connection tracking, which takes any of a range, cannot be told to keep it.  A mark stands for the port drawn, and
is drawn again while the address's set `held` has it.

Small blocks of ports are searched for a free one, from a random start: a packet's mark goes from port to port by the
map `next` until the set `held` does not have it.  `port_of` and `mark_of` turn one into the other, since nft tests
and looks up marks, but not the results of other look-ups.

The chain `choose` sees a flow's first packet: a known key keeps its mapping, a new one gets a port of one of the
outside addresses.  The chain `record` sees every packet after translation and enters, or refreshes, what it shows; that
is why any way of choosing ports will do.  Connection tracking takes a port for free when another *peer* is spoken to
over it.  If the one it drew is somebody else's, the packet is dropped and the sender's next one draws again.

Everything lives as long as the entry of connection tracking does, so no port is given away while a flow uses it.  With
refresh=outbound a mapping dies sooner: packets from outside keep the entry, and so its port in `taken` and `held` where
ports are drawn from a map.  Given to another mapping, such a port would carry nothing: connection tracking drops the
second flow between the same ports without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from lab.rules.nat_behaviour import (
    FIRST_PORT,
    BehaviourError,
    Filtering,
    Hairpinning,
    Mapping,
    NatBehaviour,
    Pooling,
    Ports,
    Refresh,
)

SEQUENCE: Final = range(40000, 40512)
"""The ports of ports=sequential, each given once before the first is given again."""

_PARITIES: Final = tuple(range(FIRST_PORT + last_bit, 65536, 126) for last_bit in (0, 1))
"""The ports to draw from with parity, even ones and odd ones: 512 of each, for the reason below."""
_DRAWS: Final = 8

_SEARCHED_BLOCK: Final = 128
_SEARCHED_PORTS: Final = 1024
"""Up to which size blocks are searched, one and all of them: a ruleset must fit into one netlink message, whose size is
limited for ordinary users.  In larger blocks connection tracking draws, and draws again for the next packet."""

_KEY_TYPE: Final = {
    Mapping.ENDPOINT_INDEPENDENT: "ipv4_addr . inet_service",
    Mapping.ADDRESS_DEPENDENT: "ipv4_addr . inet_service . ipv4_addr",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "ipv4_addr . inet_service . ipv4_addr . inet_service",
}
_ENDPOINT: Final = "ipv4_addr . inet_service"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatPlace:
    """Where a NAT stands: the names and addresses that its rules speak of."""

    outside: str
    """Interface."""
    inside: tuple[str, ...]
    """Interfaces."""
    addresses: tuple[IPv4Address, ...]
    """Outside addresses that are shared; the first is the box's own."""
    hosts: tuple[IPv4Address, ...] = ()
    """Inside hosts, in an order that decides about blocks and pools."""
    networks: tuple[IPv4Network, ...] = ()
    """Inside prefixes."""
    own: tuple[tuple[IPv4Address, IPv4Address], ...] = ()
    """Inside hosts with an outside address of their own, and that address."""
    proto41_host: IPv4Address | None = None

    @property
    def every_address(self) -> tuple[IPv4Address, ...]:
        """All outside addresses: those shared, then those of one host."""
        return (*self.addresses, *(address for _, address in self.own))


@dataclass(frozen=True, slots=True)
class Share:
    """One outside address, and who has it."""

    address: IPv4Address
    hosts: tuple[IPv4Address, ...] = ()
    blocks: tuple[tuple[IPv4Address, int, int], ...] = field(default=())
    """With ports=block: inside host, its first and its last port."""


def shares(behaviour: NatBehaviour, place: NatPlace) -> list[Share]:
    """Which inside host has which outside address, and which of its ports.

    Known hosts are dealt to the shared addresses in turn, which with pooling=arbitrary matters to their TCP only.
    BehaviourError when the blocks of all hosts do not fit.
    """
    alone = dict(place.own)
    dealt: list[list[IPv4Address]] = [[] for _ in place.addresses]
    for number, host in enumerate(host for host in place.hosts if host not in alone):
        dealt[number % len(dealt)].append(host)
    found = []
    for address, hosts in zip(place.addresses, dealt, strict=True):
        blocks = tuple(
            (host, FIRST_PORT + number * behaviour.block_size, FIRST_PORT + (number + 1) * behaviour.block_size - 1)
            for number, host in enumerate(hosts)
            if behaviour.ports is Ports.BLOCK
        )
        if blocks and blocks[-1][2] > 65535:
            raise BehaviourError(
                f"block_size={behaviour.block_size} is too large: {len(hosts)} inside hosts share an address; "
                f"use {(65536 - FIRST_PORT) // len(hosts)} or less, or more addresses (pool=)"
            )
        found.append(Share(address, tuple(hosts), blocks))
    return [*found, *(Share(address, (host,)) for host, address in place.own)]


def udp_chains(behaviour: NatBehaviour, place: NatPlace) -> str:
    """Sets, maps and chains for a table of family ip; the caller sends outbound UDP to the chain `choose`."""
    return "".join(_Udp(behaviour, place).text())


@dataclass(frozen=True, slots=True)
class _Direction:
    """How packets of one direction show what is to be recorded, as nft expressions."""

    chain: str
    inner: str
    outer: str
    peer_address: str
    peer_port: str
    whole: bool = True
    """Whether the packet shows the mapping's key, and not only a peer that came to the mapping of another."""

    def key(self, mapping: Mapping) -> str:
        parts = {Mapping.ENDPOINT_INDEPENDENT: 1, Mapping.ADDRESS_DEPENDENT: 2}.get(mapping, 3)
        return " . ".join([self.inner, self.peer_address, self.peer_port][:parts])


_OUTBOUND: Final = _Direction(
    "record_outbound",
    "ct original ip saddr . ct original proto-src",
    "ip saddr . udp sport",
    "ct original ip daddr",
    "ct original proto-dst",
)
_ANSWER_IN: Final = _Direction(
    "record_answer_in",
    _OUTBOUND.inner,
    "ct reply ip daddr . ct reply proto-dst",
    _OUTBOUND.peer_address,
    _OUTBOUND.peer_port,
)
_INBOUND: Final = _Direction(
    "record_inbound",
    "ip daddr . udp dport",
    "ct original ip daddr . ct original proto-dst",
    "ip saddr",
    "udp sport",
    whole=False,
)
_ANSWER_OUT: Final = _Direction(
    "record_answer_out",
    "ct reply ip saddr . ct reply proto-src",
    "ip saddr . udp sport",
    "ip daddr",
    "udp dport",
    whole=False,
)


class _Udp:
    def __init__(self, behaviour: NatBehaviour, place: NatPlace) -> None:
        self.nat = behaviour
        self.place = place
        self.wan = f'oifname "{place.outside}" meta l4proto udp'
        self.lan = f"oifname {names(place.inside)} meta l4proto udp"
        self.shares = shares(behaviour, place)
        timeouts = {"stream": behaviour.udp_stream_timeout_s, "fresh": behaviour.udp_timeout_s}
        self.lives = {life: timeouts[life] for life in lives(behaviour)}
        blocks = [block for share in self.shares for block in share.blocks]
        self.searched = (
            bool(blocks)
            and behaviour.block_size <= _SEARCHED_BLOCK
            and behaviour.block_size * len(blocks) <= _SEARCHED_PORTS
        )
        self.gated = behaviour.refresh is Refresh.OUTBOUND
        """Whether a set of ours, and not connection tracking, says when a mapping has died."""
        self.opens = behaviour.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT
        """Whether a flow may begin outside."""
        self.draws = self.searched or behaviour.parity or behaviour.ports is Ports.SEQUENTIAL
        """Whether a new port comes from a map, so that connection tracking has no say in it."""
        self.owned = self.opens or behaviour.hairpinning is not Hairpinning.NONE
        self.permits = self.gated or behaviour.filtering is Filtering.ADDRESS_DEPENDENT
        self.senders = 0 if behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT else 1 if self.opens else 2
        """How much of a sender's address and port filtering looks at."""

    def text(self) -> Iterator[str]:
        yield from self._books()
        if self.gated:
            yield from self._gate()
        yield from self._choose()
        yield from self._record()

    # --- the books

    def _books(self) -> Iterator[str]:
        key = _KEY_TYPE[self.nat.mapping]
        sender = ["ipv4_addr", "inet_service"][: self.senders]
        for life, timeout_s in self.lives.items():
            yield _book(f"map mapping_{life}", f"{key} : {_ENDPOINT}", timeout_s)
            yield _book(f"set mapped_{life}", key, timeout_s)
            for number in range(len(self.shares)):
                yield _book(f"set taken{number}_{life}", "inet_service", timeout_s)
            if self.owned:
                yield _book(f"map owner_{life}", f"{_ENDPOINT} : {_ENDPOINT}", timeout_s)
            if self.permits:
                yield _book(f"set permitted_{life}", " . ".join([_ENDPOINT, *sender]), timeout_s)
            if self.searched:
                yield _book(f"set held_{life}", "mark", timeout_s)
            if self.nat.parity:
                yield from (_book(f"set held{number}_{life}", "mark", timeout_s) for number in range(len(self.shares)))
        for number in range(len(self.shares)):
            yield _book(f"set granted{number}", f"inet_service . {key}", self.nat.udp_stream_timeout_s)

        if self.nat.parity:
            drawn = list(enumerate((port for ports in _PARITIES for port in ports), 1))
            yield _table("port_of", "mark : inet_service", drawn)
            yield _table("mark_of", "inet_service : mark", [(port, mark) for mark, port in drawn])
        if self.searched:
            yield from self._marks()

    def _marks(self) -> Iterator[str]:
        """The ports of all blocks as marks, in a circle for each block."""
        following: list[tuple[int, int]] = []
        for number, share in enumerate(self.shares):
            ports = [port for _, first, last in share.blocks for port in range(first, last + 1)]
            yield _table(f"port_of{number}", "mark : inet_service", [(_mark(number, port), port) for port in ports])
            yield _table(f"mark_of{number}", "inet_service : mark", [(port, _mark(number, port)) for port in ports])
            for _, first, last in share.blocks:
                circle = [_mark(number, port) for port in range(first, last + 1)]
                following += zip(circle, [*circle[1:], circle[0]], strict=True)
        yield _table("next", "mark : mark", following)

    # --- packets from outside, before connection tracking sees them

    def _gate(self) -> Iterator[str]:
        sender = " . ".join(["ip daddr . udp dport", *["ip saddr", "udp sport"][: self.senders]])
        unknown = " ".join(f"{sender} != @permitted_{life}" for life in self.lives)
        yield "\tchain gate {\n\t\ttype filter hook prerouting priority raw; policy accept;\n"
        yield f'\t\tiifname "{self.place.outside}" meta l4proto udp {unknown} counter drop comment "nat_unsolicited"\n'
        yield "\t}\n"

    # --- the first packet of a flow

    def _choose(self) -> Iterator[str]:
        key = _Direction("", "ip saddr . udp sport", "", _OUTBOUND.peer_address, _OUTBOUND.peer_port).key(
            self.nat.mapping
        )
        yield "\tchain choose {\n"
        for life in self.lives:
            yield f"\t\tmeta l4proto udp {key} @mapped_{life} "
            yield f'counter snat ip to {key} map @mapping_{life} comment "nat_mapping_kept"\n'
        if len(self.shares) == 1:
            yield from self._choose_port(0)
            yield "\t}\n"
            return
        known = {host: number for number, share in enumerate(self.shares) for host in share.hosts}
        if self.nat.pooling is Pooling.ARBITRARY:
            known = {host: number for host, number in known.items() if number >= len(self.place.addresses)}
        if known:
            cases = ", ".join(f"{host} : goto address{number}" for host, number in known.items())
            yield f"\t\tip saddr vmap {{ {cases} }}\n"
        count = len(self.place.addresses)
        if self.nat.pooling is Pooling.ARBITRARY and count > 1:
            cases = ", ".join(f"{number} : goto address{number}" for number in range(count))
            yield f"\t\tnumgen inc mod {count} vmap {{ {cases} }}\n"
        yield "\t\tgoto address0\n\t}\n"
        for number in range(len(self.shares)):
            yield f"\tchain address{number} {{\n"
            yield from self._choose_port(number)
            yield "\t}\n"

    def _choose_port(self, number: int) -> Iterator[str]:
        share = self.shares[number]
        udp = "\t\tmeta l4proto udp"
        match self.nat.ports:
            case Ports.PRESERVE:
                free = " ".join(f"udp sport != @taken{number}_{life}" for life in self.lives)
                yield f'{udp} {free} counter snat to {share.address} comment "nat_port_kept"\n'
            case Ports.SEQUENTIAL:
                cases = ", ".join(f"{step} : {port}" for step, port in enumerate(SEQUENCE))
                to = f"{share.address} : numgen inc mod {len(SEQUENCE)} map {{ {cases} }}"
                yield f'{udp} counter snat to {to} comment "nat_port_changed"\n'
                return
            case Ports.BLOCK if self.searched:
                yield from self._search(number)
                return
            case Ports.BLOCK:
                for host, first, last in share.blocks:
                    to = f"{share.address}:{first}-{last} random"
                    yield f'{udp} ip saddr {host} counter snat to {to} comment "nat_port_changed"\n'
                yield '\t\tcounter drop comment "nat_no_block"\n'
                return
        if self.nat.parity:
            yield from self._draw(number)
            return
        to = f"{share.address}:{FIRST_PORT}-65535 random"
        yield f'{udp} counter snat to {to} comment "nat_port_changed"\n'

    def _draw(self, number: int) -> Iterator[str]:
        """A port of the parity of the one inside."""
        free = " ".join(f"meta mark != @held{number}_{life}" for life in self.lives)
        for _ in range(_DRAWS):
            first = 1
            for last_bit, ports in enumerate(_PARITIES):
                draw = f"numgen random mod {len(ports)} offset {first}"
                yield f"\t\tudp sport & 1 == {last_bit} meta mark set {draw}\n"
                first += len(ports)
            yield f"\t\tmeta l4proto udp {free} counter snat to {self.shares[number].address} : meta mark map @port_of "
            yield 'comment "nat_port_changed"\n'
        yield '\t\tcounter drop comment "nat_port_taken"\n'

    def _search(self, number: int) -> Iterator[str]:
        share, size = self.shares[number], self.nat.block_size
        for host, first, _ in share.blocks:
            yield f"\t\tip saddr {host} meta mark set numgen random mod {size} offset {_mark(number, first)}\n"
        yield '\t\tmeta mark 0 counter drop comment "nat_no_block"\n'
        free = " ".join(f"meta mark != @held_{life}" for life in self.lives)
        for _ in range(size):
            yield f"\t\tmeta l4proto udp {free} counter snat to {share.address} : meta mark map @port_of{number} "
            yield 'comment "nat_port_changed"\n'
            yield "\t\tmeta mark set meta mark map @next\n"
        yield '\t\tcounter drop comment "nat_port_taken"\n'

    # --- every packet, translated

    def _record(self) -> Iterator[str]:
        """Packets are looked at behind the translation, where an outside port is known whoever chose it."""
        ways = [(f"{self.wan} ct direction original", _OUTBOUND)]
        if self.nat.hairpinning is Hairpinning.EXTERNAL:
            ways.append((f"{self.lan} ct direction original ct status dnat ct status snat", _OUTBOUND))
        if self.opens:
            ways.append((f"{self.wan} ct direction reply", _ANSWER_OUT))
        if not self.gated or self.draws:
            ways.append((f"{self.lan} ct direction reply", _ANSWER_IN))
            if self.opens:
                ways.append((f"{self.lan} ct direction original ct status dnat ct status ! snat", _INBOUND))
        yield "\tchain record {\n\t\ttype filter hook postrouting priority srcnat + 10; policy accept;\n"
        yield from (f"\t\t{when} goto {direction.chain}\n" for when, direction in ways)
        yield "\t}\n"
        for direction in dict.fromkeys(direction for _, direction in ways):
            yield f"\tchain {direction.chain} {{\n"
            if direction is _OUTBOUND:
                yield from self._refuse_taken()
            yield from (f'\t\tmeta l4proto udp {rule} comment "nat_record"\n' for rule in self._updates(direction))
            yield "\t}\n"

    def _refuse_taken(self) -> Iterator[str]:
        mine = f"udp sport . {_OUTBOUND.key(self.nat.mapping)}"
        for number, share in enumerate(self.shares):
            for life in self.lives:
                yield f"\t\tmeta l4proto udp ct state new ip saddr {share.address} udp sport @taken{number}_{life} "
                yield f'{mine} != @granted{number} counter drop comment "nat_port_taken"\n'

    def _updates(self, shown: _Direction) -> Iterator[str]:
        """What a packet shows is entered; one from outside that keeps no mapping alive shows only whose a port is."""
        key = shown.key(self.nat.mapping)
        address, port = shown.outer.split(" . ")
        # Who came to a mapping that was made for another peer has none, except where peers do not matter.
        whole = shown.whole or self.nat.mapping is Mapping.ENDPOINT_INDEPENDENT
        wheres = [f"{address} {share.address} " if len(self.shares) > 1 else "" for share in self.shares]
        if whole:
            yield from (f"{where}update @granted{n} {{ {port} . {key} }}" for n, where in enumerate(wheres))
        if self.searched:
            yield from (f"{where}meta mark set {port} map @mark_of{n}" for n, where in enumerate(wheres))
        if self.nat.parity:
            yield f"meta mark set {port} map @mark_of"
        keeps = not (self.gated and shown in (_ANSWER_IN, _INBOUND))
        for life, timeout_s in self.lives.items():
            when = "" if len(self.lives) == 1 else "ct status assured " if life == "stream" else "ct status ! assured "
            lasting = f"timeout {timeout_s}s"
            for number, where in enumerate(wheres):
                yield f"{when}{where}update @taken{number}_{life} {{ {port} {lasting} }}"
            if self.searched:
                yield f"{when}meta mark != 0 update @held_{life} {{ meta mark {lasting} }}"
            if self.nat.parity:
                for number, where in enumerate(wheres):
                    yield f"{when}{where}meta mark != 0 update @held{number}_{life} {{ meta mark {lasting} }}"
            if not keeps:
                continue
            if whole:
                yield f"{when}update @mapped_{life} {{ {key} {lasting} }}"
                yield f"{when}update @mapping_{life} {{ {key} {lasting} : {shown.outer} }}"
            if self.owned:
                yield f"{when}update @owner_{life} {{ {shown.outer} {lasting} : {shown.inner} }}"
            if self.permits:
                sender = [shown.peer_address, shown.peer_port][: self.senders]
                yield f"{when}update @permitted_{life} {{ {' . '.join([shown.outer, *sender])} {lasting} }}"


def _book(name: str, kind: str, timeout_s: int) -> str:
    # The kernel allows 65535 entries.  To say so here would make it take a table of that size at once: a megabyte, to
    # be looked through every second for what has timed out.
    return f"\t{name} {{\n\t\ttype {kind}\n\t\tflags dynamic,timeout; timeout {timeout_s}s;\n\t}}\n"


def _mark(number: int, port: int) -> int:
    """The mark of a port of outside address `number`; never 0."""
    return number << 16 | port


def _table(name: str, kind: str, elements: list[tuple[int, int]]) -> str:
    """A map that stays as it is."""
    known = ", ".join(f"{key} : {value}" for key, value in elements)
    return f"\tmap {name} {{\n\t\ttype {kind}\n\t\telements = {{ {known} }}\n\t}}\n" if elements else ""


def lives(behaviour: NatBehaviour) -> tuple[str, ...]:
    """The suffixes of the books: two lives where fresh and used mappings have different timeouts."""
    return ("stream",) if behaviour.udp_stream_timeout_s == behaviour.udp_timeout_s else ("stream", "fresh")


def names(interfaces: Sequence[str]) -> str:
    """Interfaces as the right-hand side of iifname or oifname."""
    if len(interfaces) == 1:
        return f'"{interfaces[0]}"'
    return "{ " + ", ".join(f'"{name}"' for name in interfaces) + " }"
